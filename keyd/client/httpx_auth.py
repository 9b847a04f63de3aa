"""Signs the requests of httpx: ``httpx.Client(auth=KeydAuth(client, "agent"))``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Unpack

import httpx

from keyd.client.aio import AsyncClient
from keyd.client.http import OutgoingRequest, SignatureOptions, sign_request, sign_request_async
from keyd.client.sync import Client


class KeydAuth(httpx.Auth):
    """Signs each request with a key in keyd (RFC 9421).

    httpx sends a redirected request with the signature of the first one, which does not fit it: leave ``follow_redirects`` off
    and send a request of your own.

    Args:
        client: a :class:`keyd.client.Client` for ``httpx.Client``, an :class:`keyd.client.AsyncClient` for ``httpx.AsyncClient``.
        key: name of the key.
        options: see :class:`keyd.client.http.SignatureOptions`.

    Raises:
        KeydClientError: by the request, when keyd does not sign it.
        TypeError: by the request, when ``client`` is of the other kind.
    """

    requires_request_body = True

    def __init__(self, client: Client | AsyncClient, key: str, **options: Unpack[SignatureOptions]) -> None:
        self._client = client
        self._key = key
        self._options = options

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Sign a request of ``httpx.Client``."""
        if not isinstance(self._client, Client):
            raise TypeError("httpx.Client needs KeydAuth with a keyd.client.Client, not an AsyncClient")
        request.read()
        request.headers.update(sign_request(self._client, self._key, _outgoing(request), self._options))
        yield request

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Sign a request of ``httpx.AsyncClient``."""
        if not isinstance(self._client, AsyncClient):
            raise TypeError("httpx.AsyncClient needs KeydAuth with a keyd.client.AsyncClient, not a Client")
        await request.aread()
        request.headers.update(await sign_request_async(self._client, self._key, _outgoing(request), self._options))
        yield request


def _outgoing(request: httpx.Request) -> OutgoingRequest:
    return OutgoingRequest(request.method, str(request.url), request.headers.multi_items(), request.content)
