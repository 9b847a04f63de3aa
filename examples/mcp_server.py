"""An MCP server that takes signed requests and no others (PyPI ``mcp``, streamable HTTP). It has no keyd: it verifies as anybody can.

Environment: ``JWKS_URL``, the JWK Set of the clients, with Ed25519 keys; ``PORT``, by default any. Prints the port. Beyond this a server
should remember nonces until the signature expires, and put ``https`` in front.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
from base64 import urlsafe_b64decode
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import httpx2
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from http_message_signatures import (
    HTTPMessageSignaturesException,
    HTTPMessageVerifier,
    HTTPSignatureKeyResolver,
    InvalidSignature,
    algorithms,
)
from mcp.server import MCPServer
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 1024 * 1024
REQUIRED = ("@method", "@authority", "@path", "@query")

server = MCPServer("calculator", log_level="WARNING")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


class JwkSet(HTTPSignatureKeyResolver):
    """Public keys by kid, kept for the max-age that came with them: an unknown kid never causes a request."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: dict[str, Ed25519PublicKey] = {}
        self._fresh_until = 0.0

    async def refresh(self) -> None:
        """Fetch the set when it is stale."""
        if time.monotonic() < self._fresh_until:
            return
        async with httpx2.AsyncClient() as http:
            response = (await http.get(self._url)).raise_for_status()
        self._keys = {
            jwk["kid"]: Ed25519PublicKey.from_public_bytes(urlsafe_b64decode(jwk["x"] + "="))
            for jwk in json.loads(response.content)["keys"]
            if jwk.get("crv") == "Ed25519"
        }
        max_age = re.search(r"max-age=(\d+)", response.headers.get("cache-control", ""))
        self._fresh_until = time.monotonic() + (int(max_age[1]) if max_age else 60)

    def resolve_public_key(self, key_id: str) -> Ed25519PublicKey:
        """Return the key of a kid."""
        if key_id not in self._keys:
            raise InvalidSignature(f"unknown kid {key_id}")
        return self._keys[key_id]

    def resolve_private_key(self, key_id: str) -> Any:
        """Refuse: a verifier has none."""
        raise InvalidSignature("a server that verifies holds no private key")


class SignedRequestsOnly:
    """ASGI middleware: answers 401 to every request that is not signed, or not as it came in."""

    def __init__(self, app: ASGIApp, keys: JwkSet) -> None:
        self._app = app
        self._keys = keys
        self._verifier = HTTPMessageVerifier(signature_algorithm=algorithms.ED25519, key_resolver=keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; only start and stop of the application pass as they are."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        try:
            body = await self._verified(request)
        except HTTPMessageSignaturesException as exc:
            await PlainTextResponse(f"refused: {exc}\n", 401, {"Connection": "close"})(scope, receive, send)
            return
        unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return unread.pop() if unread else await receive()

        await self._app(scope, again, send)

    async def _verified(self, request: Request) -> bytes:
        """Return the body of a request once its signature holds for all of it."""
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                raise InvalidSignature(f"the body is larger than {MAX_BODY} bytes")
        await self._keys.refresh()
        message = SimpleNamespace(method=request.method, url=str(request.url), headers=dict(request.headers))
        self._verifier.verify(message, max_age=timedelta(seconds=60), require_components=REQUIRED, body=body)
        return body


def main() -> None:
    """Print the port, then serve until the process is ended."""
    application = SignedRequestsOnly(server.streamable_http_app(), JwkSet(os.environ["JWKS_URL"]))
    listener = socket.create_server(("127.0.0.1", int(os.environ.get("PORT", "0"))))
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(application, log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    sys.exit(main())
