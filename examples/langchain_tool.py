"""A LangChain tool that fetches URLs with requests signed through keyd (PyPI ``langchain-core``).

Environment: ``KEYD_ADDRESS``, such as ``unix:/run/keyd/keyd.sock``; ``KEYD_KEY``, the name of the key; ``RESOURCE_URL``. Calls the tool as
a model does. Exit code 0 when it got what it asked for, 1 when keyd or the server refused.
"""

import os
import sys

import httpx
from http_message_signatures import HTTPMessageSignaturesException
from langchain_core.tools import BaseTool, ToolException, tool

from keyd.client import Client, KeydClientError, PermissionDenied
from keyd.client.httpx_auth import KeydAuth

MAX_CHARACTERS = 20_000


def signed_fetch(key: str) -> BaseTool:
    """Return the tool. What is refused comes back to the model as an error that it can read, and nothing was sent then."""
    http = httpx.Client(auth=KeydAuth(Client(), key), timeout=10)

    @tool
    def fetch(url: str) -> str:
        """Fetch a web page or API resource. The request proves who you are; only some addresses are allowed."""
        target = absolute(url)
        try:
            response = http.get(target)
        except PermissionDenied as refused:
            raise ToolException(
                f"Not sent: you may not make this request to {target.host} ({refused.reason}: {refused}). "
                "Trying it again will not help. Use another address, or tell the user that this one is not allowed."
            ) from refused
        except HTTPMessageSignaturesException as unsigned:
            raise ToolException(f"Not sent: this URL cannot be signed, percent-encode what it has: {unsigned}") from unsigned
        except (KeydClientError, httpx.HTTPError) as failed:
            raise ToolException(f"It did not work: {failed}") from failed
        if not response.is_success:
            raise ToolException(f"{url} answered {response.status_code}: {response.text[:MAX_CHARACTERS]}")
        return response.text[:MAX_CHARACTERS]

    fetch.handle_tool_error = True
    return fetch


def absolute(url: str) -> httpx.URL:
    """Return what a model took for a URL as one."""
    try:
        target = httpx.URL(url)
    except httpx.InvalidURL as invalid:
        raise ToolException(f"Not sent: this is no URL: {invalid}") from invalid
    if target.scheme not in ("http", "https") or not target.host:
        raise ToolException("Not sent: give an absolute URL that begins with https:// or http://")
    return target


def main() -> int:
    """Call the tool as a model does, and print what the model reads."""
    arguments = {"url": os.environ["RESOURCE_URL"]}
    answer = signed_fetch(os.environ["KEYD_KEY"]).invoke({"type": "tool_call", "id": "1", "name": "fetch", "args": arguments})
    print(f"{answer.status}: {answer.content}")
    return 0 if answer.status == "success" else 1


if __name__ == "__main__":
    sys.exit(main())
