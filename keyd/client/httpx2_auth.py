"""Signs the requests of httpx2: ``httpx2.Client(auth=KeydAuth(client, "agent"))``. MCP's Python SDK sends its own through it."""

from __future__ import annotations

import httpx2

from keyd.client.httpx_flow import SigningFlow


class KeydAuth(SigningFlow, httpx2.Auth):
    """Signs each request with a key in keyd (RFC 9421); as :class:`keyd.client.httpx_auth.KeydAuth` does for httpx."""

    LIBRARY = "httpx2"
