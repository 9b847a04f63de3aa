"""hvac's methods on our own connections: it knows the paths and parameters, we the deadlines and errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hvac.adapters import Adapter

from backends._vault_http import Reply


class RefusedError(Exception):
    """The server answered with an error that is about the request. Stays inside the backend."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        super().__init__(reply.status)


class HvacAdapter(Adapter):  # type: ignore[misc]  # hvac has no types
    """What hvac's API classes talk to. Takes no environment variables, no proxies, no token file."""

    def __init__(self, send: Callable[[str, str, object], Reply]) -> None:
        """Send every request by this: method, path below ``/v1/``, body."""
        # Adapter's own constructor would make a requests.Session, which nothing uses here.
        self._send = send

    def get_login_token(self, response: dict[str, Any]) -> str:
        """Return the token in the answer to a login."""
        return str(response["auth"]["client_token"])

    def request(self, method: str, url: str, headers: object = None, raise_exception: bool = True, **options: Any) -> Any:
        """Send one request and return the parsed answer.

        Raises:
            RefusedError: the server refused it.
        """
        reply = self._send(method.upper(), url.removeprefix("/v1/"), options.get("json"))
        if reply.status >= 400:
            raise RefusedError(reply)
        return reply.body
