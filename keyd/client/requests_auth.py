"""Signs the requests of requests: ``requests.get(url, auth=KeydAuth(client, "agent"))``, or ``KeydAuth(session)``."""

from __future__ import annotations

from typing import Unpack

import requests
import requests.auth

from keyd.client.http import OutgoingRequest, SignatureOptions
from keyd.client.session import Session
from keyd.client.session_http import sign_outgoing
from keyd.client.sync import Client


class KeydAuth(requests.auth.AuthBase):
    """Signs each request with a key in keyd, or a session (RFC 9421).

    requests sends a redirected request with the signature of the first one, which does not fit it: pass ``allow_redirects=False``
    and send a request of your own.

    Args:
        client: asks keyd; or a session of it.
        key: name of the key; none with a session.
        options: see :class:`keyd.client.http.SignatureOptions`.

    Raises:
        KeydClientError: by the request, when keyd does not sign it.
        ValueError: by the request, when its body is a stream.
    """

    def __init__(self, client: Client | Session, key: str | None = None, **options: Unpack[SignatureOptions]) -> None:
        self._client = client
        self._key = key
        self._options = options

    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        """Sign a prepared request."""
        if not r.method or not r.url:
            raise ValueError("prepare the method and URL of the request before it is signed")
        body = _body(r)
        if isinstance(r.body, str):
            r.body = body  # what is sent shall be what was hashed, whatever encoding the layers below would choose
        request = OutgoingRequest(r.method, r.url, [(name, _text(value)) for name, value in r.headers.items()], body)
        r.headers.update(sign_outgoing(self._client, self._key, request, self._options))
        return r


def _body(r: requests.PreparedRequest) -> bytes:
    body = r.body
    if body is None:
        return b""
    if isinstance(body, str):
        return body.encode()
    if isinstance(body, bytes):
        return body
    raise ValueError("a streamed body cannot be signed; read it into bytes first")


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
