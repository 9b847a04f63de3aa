"""Signs the requests of aiohttp 3.12 and newer: ``ClientSession(middlewares=[keyd_middleware(client, "agent")])``,
or ``keyd_middleware(session)``."""

from __future__ import annotations

from typing import Unpack

import aiohttp
from aiohttp.payload import BytesPayload

from keyd.client.aio import AsyncClient
from keyd.client.aio_session import AsyncSession
from keyd.client.http import OutgoingRequest, SignatureOptions
from keyd.client.session_http import sign_outgoing_async


def keyd_middleware(
    client: AsyncClient | AsyncSession, key: str | None = None, **options: Unpack[SignatureOptions]
) -> aiohttp.ClientMiddlewareType:
    """Return a client middleware that signs each request with a key in keyd, or a session (RFC 9421), redirected ones anew.

    Put it last in ``middlewares``: what runs after it must not change what is covered.

    Args:
        client: asks keyd; or a session of it.
        key: name of the key; none with a session.
        options: see :class:`keyd.client.http.SignatureOptions`.

    Raises:
        KeydClientError: by the request, when keyd does not sign it.
        ValueError: by the request, when its body is a stream, or compressed by aiohttp.
    """

    async def sign(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        outgoing = OutgoingRequest(request.method, str(request.url), request.headers.items(), await _body(request))
        request.headers.update(await sign_outgoing_async(client, key, outgoing, options))
        return await handler(request)

    return sign


async def _body(request: aiohttp.ClientRequest) -> bytes:
    body = request.body
    if request.compress:
        raise ValueError("a body that aiohttp compresses cannot be signed; compress it first and set Content-Encoding")
    if isinstance(body, BytesPayload):
        return await body.as_bytes()
    if isinstance(body, bytes):
        return body
    raise ValueError("a streamed body cannot be signed; read it into bytes first")
