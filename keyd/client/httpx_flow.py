"""What the adapters for httpx and for httpx2, its continuation under another name, share. It imports neither."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any, Unpack

from keyd.client.aio import AsyncClient
from keyd.client.aio_session import AsyncSession
from keyd.client.http import OutgoingRequest, SignatureOptions
from keyd.client.session import Session
from keyd.client.session_http import sign_outgoing, sign_outgoing_async
from keyd.client.sync import Client


class SigningFlow:
    """The ``Auth`` of either library, but for its base class. ``LIBRARY`` is the name of the module, for messages."""

    LIBRARY = "httpx"
    requires_request_body = True

    def __init__(
        self, client: Client | AsyncClient | Session | AsyncSession, key: str | None = None, **options: Unpack[SignatureOptions]
    ) -> None:
        self._client = client
        self._key = key
        self._options = options

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """Sign a request of a ``Client``."""
        if not isinstance(self._client, (Client, Session)):
            raise TypeError(f"{self.LIBRARY}.Client needs KeydAuth with a keyd.client.Client or its session, not an async one")
        request.read()
        request.headers.update(sign_outgoing(self._client, self._key, _outgoing(request), self._options))
        yield request

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        """Sign a request of an ``AsyncClient``."""
        if not isinstance(self._client, (AsyncClient, AsyncSession)):
            raise TypeError(
                f"{self.LIBRARY}.AsyncClient needs KeydAuth with a keyd.client.AsyncClient or its session, not a blocking one"
            )
        await request.aread()
        request.headers.update(await sign_outgoing_async(self._client, self._key, _outgoing(request), self._options))
        yield request


def _outgoing(request: Any) -> OutgoingRequest:
    return OutgoingRequest(request.method, str(request.url), request.headers.multi_items(), request.content)
