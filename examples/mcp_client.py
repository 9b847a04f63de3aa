"""An MCP client whose every HTTP request is signed through keyd (PyPI ``mcp``, streamable HTTP).

Environment: ``KEYD_ADDRESS``, such as ``unix:/run/keyd/keyd.sock``; ``KEYD_KEY``, the name of the key; ``RESOURCE_URL``, the URL of the MCP
server, such as that of ``mcp_server.py``. Exit code 0 when the tool was called, 1 when keyd or the server refused.
"""

import asyncio
import os
import sys

import httpx2
from mcp import MCPError
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

from keyd.client import AsyncClient, KeydClientError
from keyd.client.httpx2_auth import KeydAuth


async def call(key: str, url: str) -> str:
    """Call a tool of an MCP server, and return what it answered."""
    async with (
        AsyncClient() as keyd,
        httpx2.AsyncClient(auth=KeydAuth(keyd, key), timeout=30) as http,
        Client(streamable_http_client(url, http_client=http)) as server,
    ):
        result = await server.call_tool("add", {"a": 2, "b": 3})
        return f"add(2, 3) = {result.structured_content['result']}"


def main() -> int:
    """Call the tool, or say who refused; the SDK hands on what keyd answers as part of an exception group."""
    try:
        print(asyncio.run(call(os.environ["KEYD_KEY"], os.environ["RESOURCE_URL"])))
    except* KeydClientError as group:
        for refused in leaves(group):
            print(f"keyd signed nothing: {refused.reason or refused.code.name}: {refused}")
    except* MCPError as group:
        print(f"the server refused: {leaves(group)[0]}")
    else:
        return 0
    return 1


def leaves(group: BaseExceptionGroup) -> list:
    """Return the exceptions in a group, however deep."""
    return [leaf for part in group.exceptions for leaf in (leaves(part) if isinstance(part, BaseExceptionGroup) else [part])]


if __name__ == "__main__":
    sys.exit(main())
