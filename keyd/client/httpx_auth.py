"""Signs the requests of httpx: ``httpx.Client(auth=KeydAuth(client, "agent"))``, or ``KeydAuth(session)``."""

from __future__ import annotations

import httpx

from keyd.client.httpx_flow import SigningFlow


class KeydAuth(SigningFlow, httpx.Auth):
    """Signs each request with a key in keyd, or a session (RFC 9421).

    httpx sends a redirected request with the signature of the first one, which does not fit it: leave ``follow_redirects`` off
    and send a request of your own.

    Args:
        client: a :class:`keyd.client.Client` for ``httpx.Client``, an :class:`keyd.client.AsyncClient` for ``httpx.AsyncClient``;
            or a session of theirs.
        key: name of the key; none with a session.
        options: see :class:`keyd.client.http.SignatureOptions`.

    Raises:
        KeydClientError: by the request, when keyd does not sign it.
        TypeError: by the request, when ``client`` is of the other kind.
    """
