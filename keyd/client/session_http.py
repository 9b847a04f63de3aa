"""Signing HTTP requests (RFC 9421) with a session: the components and fields of AAuth and of LumoAuth."""

from __future__ import annotations

import base64
import re
import secrets
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from keyd.client.aio import AsyncClient
from keyd.client.aio_session import AsyncSession
from keyd.client.digest import content_digest
from keyd.client.http import (
    OutgoingRequest,
    SignatureOptions,
    effective_url,
    field_values,
    overlaid,
    sign_request,
    sign_request_async,
)
from keyd.client.model import SessionInfo
from keyd.client.session import Session
from keyd.client.sync import Client

_AAUTH = ("@method", "@authority", "@path")
_LUMOAUTH = (*_AAUTH, "signature-key", "content-digest", "content-type", "authorization")
_COMPONENT = re.compile(r"@?[a-z0-9!#$%&'*+.^_`|~-]+")
_OF_KEYS = ("label", "tag", "include_alg", "thumbprint")


def sign_outgoing(
    signer: Client | Session, key: str | None, request: OutgoingRequest, options: SignatureOptions
) -> dict[str, str]:
    """Return the fields to set on a request that a session signs, or a key of a client.

    Raises:
        KeydClientError: keyd does not sign it.
        ValueError: a session cannot sign it so, or a covered component is not in the request.
        TypeError: there is a session and a key, or a client without one.
        http_message_signatures.HTTPMessageSignaturesException: as :func:`keyd.client.http.sign_request`.
    """
    if isinstance(signer, Client):
        return sign_request(signer, _named(key), request, options)
    _unnamed(key)
    built = _Built(request, options)
    signed, info = signer.sign_rebuilding(built.build)
    return built.fields(info, signed.signature)


async def sign_outgoing_async(
    signer: AsyncClient | AsyncSession, key: str | None, request: OutgoingRequest, options: SignatureOptions
) -> dict[str, str]:
    """As :func:`sign_outgoing`, without blocking."""
    if isinstance(signer, AsyncClient):
        return await sign_request_async(signer, _named(key), request, options)
    _unnamed(key)
    built = _Built(request, options)
    signed, info = await signer.sign_rebuilding(built.build)
    return built.fields(info, signed.signature)


class _Built:
    """One request on its way to a signature. ``build`` may be called again with another session."""

    def __init__(self, request: OutgoingRequest, options: SignatureOptions) -> None:
        for name in _OF_KEYS:
            if name in options:
                raise ValueError(f"{name} is for named keys; with a session the token and its kind say what is sent")
        self._options = options
        self._body = request.body
        self._more = dict(options.get("fields", {}))
        self._given = field_values(request.headers) | {name.lower(): value for name, value in self._more.items()}
        self._method = request.method.upper()
        self._url = effective_url(request.url, self._given.get("host"))
        self._set: dict[str, str] = {}
        self._base64url = options.get("base64url", False)

    def build(self, info: SessionInfo) -> bytes:
        """Return the signature base for a session."""
        build = self._lumoauth if info.kind == "lumoauth" else self._aauth
        created = int(self._options.get("clock", time.time)())
        values, parameters = build(info, created)
        covered = " ".join(f'"{name}"' for name in values)
        self._parameters = f"({covered});created={created}{parameters}"
        lines = [f'"{name}": {value}' for name, value in values.items()]
        try:
            return "\n".join([*lines, f'"@signature-params": {self._parameters}']).encode("ascii")
        except UnicodeEncodeError as exc:
            raise ValueError("a covered field is not ASCII; percent-encode it, or do not cover it") from exc

    def fields(self, info: SessionInfo, raw: bytes) -> dict[str, str]:
        """Return the fields to set, once the base that was built last is signed."""
        encoded = base64.urlsafe_b64encode(raw).rstrip(b"=") if self._base64url else base64.b64encode(raw)
        label = "sig1" if info.kind == "lumoauth" else "sig"
        signature = {"Signature-Input": f"{label}={self._parameters}", "Signature": f"{label}=:{encoded.decode()}:"}
        return overlaid(self._more, self._set | signature)

    def _aauth(self, info: SessionInfo, created: int) -> tuple[dict[str, str], str]:
        """AAuth draft -11: what it demands, and the query, which verifiers do not see else when somebody adds one."""
        self._set = {"Signature-Key": info.signature_key}
        if self._body:
            self._set["Content-Digest"] = content_digest(self._body, self._options.get("digest_algorithm", "sha-256"))
        sent = self._sent()
        names = [*_AAUTH, *(["@query"] if urlsplit(self._url).query else []), "signature-key"]
        if self._body:
            names += [name for name in ("content-digest", "content-type") if name in sent]
        if "authorization" in sent:
            names.append("authorization")
        names += [name.strip('"') for name in self._options.get("components", ())]
        expires = f";expires={created + self._options['expires_in']}" if "expires_in" in self._options else ""
        nonce = f';nonce="{secrets.token_urlsafe(32)}"' if self._options.get("nonce", False) else ""
        return {name: self._value(name, sent) for name in names}, expires + nonce

    def _lumoauth(self, info: SessionInfo, created: int) -> tuple[dict[str, str], str]:
        """What version 1.1 of LumoAuth's SDK sends: seven components, in order; a field that is not there counts as empty."""
        if "components" in self._options or "expires_in" in self._options or not self._options.get("nonce", True):
            raise ValueError("LumoAuth has components and parameters of its own; leave out components, expires_in and nonce")
        self._base64url = True
        self._set = {"Agent-Auth": info.agent_auth, "Content-Digest": content_digest(self._body)}
        if "content-type" not in self._given:
            self._set["Content-Type"] = "application/json"
        sent = {"signature-key": "", "authorization": ""} | self._sent()
        values = {name: self._value(name, sent) for name in _LUMOAUTH}
        return values, f';nonce="{secrets.token_urlsafe(16)}"'

    def _sent(self) -> dict[str, str]:
        return self._given | {name.lower(): value for name, value in self._set.items()}

    def _value(self, name: str, sent: Mapping[str, str]) -> str:
        if not _COMPONENT.fullmatch(name):
            raise ValueError(f"component {name!r}: with a session, name a field in lower case or a derived component")
        if name in sent:
            return sent[name]
        parts = urlsplit(self._url)
        derived = {
            "@method": self._method,
            "@authority": parts.netloc,
            "@path": parts.path,
            "@query": f"?{parts.query}",
            "@target-uri": self._url,
            "@scheme": parts.scheme,
        }
        if name not in derived:
            raise ValueError(f"component {name!r} is not in the request")
        return derived[name]


def _named(key: str | None) -> str:
    if key is None:
        raise TypeError("which key? pass its name after the client, or a session instead of both")
    return key


def _unnamed(key: str | None) -> None:
    if key is not None:
        raise TypeError("pass a session, or a client and the name of a key, not a session and a key")
