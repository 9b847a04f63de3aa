"""What the adapters for httpx and for httpx2, its continuation under another name, share. It imports neither."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any, Unpack

from keyd.client.aio import AsyncClient
from keyd.client.http import OutgoingRequest, SignatureOptions, sign_request, sign_request_async
from keyd.client.sync import Client


class SigningFlow:
    """The ``Auth`` of either library, but for its base class. ``LIBRARY`` is the name of the module, for messages."""

    LIBRARY = "httpx"
    requires_request_body = True

    def __init__(self, client: Client | AsyncClient, key: str, **options: Unpack[SignatureOptions]) -> None:
        self._client = client
        self._key = key
        self._options = options

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """Sign a request of a ``Client``."""
        if not isinstance(self._client, Client):
            raise TypeError(f"{self.LIBRARY}.Client needs KeydAuth with a keyd.client.Client, not an AsyncClient")
        request.read()
        request.headers.update(sign_request(self._client, self._key, _outgoing(request), self._options))
        yield request

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        """Sign a request of an ``AsyncClient``."""
        if not isinstance(self._client, AsyncClient):
            raise TypeError(f"{self.LIBRARY}.AsyncClient needs KeydAuth with a keyd.client.AsyncClient, not a Client")
        await request.aread()
        request.headers.update(await sign_request_async(self._client, self._key, _outgoing(request), self._options))
        yield request


def _outgoing(request: Any) -> OutgoingRequest:
    return OutgoingRequest(request.method, str(request.url), request.headers.multi_items(), request.content)
