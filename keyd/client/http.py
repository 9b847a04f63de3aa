"""Signing HTTP requests (RFC 9421): what the adapters for HTTP libraries share."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from inspect import signature
from typing import Any, TypedDict, Unpack
from urllib.parse import urlsplit

from http_message_signatures import HTTPMessageSigner

from keyd.client.aio import AsyncClient
from keyd.client.calls import active_version
from keyd.client.digest import content_digest
from keyd.client.message_signatures import ALGORITHMS
from keyd.client.model import KeyInfo
from keyd.client.sync import Client

_DEFAULT_PORTS = {"http": 80, "https": 443}
if not hasattr(HTTPMessageSigner, "prepare"):
    raise ImportError(
        "keyd.client.http needs http-message-signatures 2.1 or newer, and another library here may hold it back; "
        "keyd.client.message_signatures works with this one"
    )
# from 3.0 on the library refuses a Content-Digest that it did not make, unless it is told; before, it had no such parameter
_KEEP_DIGEST: dict[str, Any] = (
    {"use_existing_digest": True} if "use_existing_digest" in signature(HTTPMessageSigner.prepare).parameters else {}
)


class SignatureOptions(TypedDict, total=False):
    """How requests are signed; every adapter takes these as keyword arguments.

    Attributes:
        components: covered components (RFC 9421 section 2), such as ``("@method", "@authority", "x-trace")``. By default
            ``@method``, ``@authority``, ``@path``, ``@query``, and where there is a body ``content-digest`` and
            ``content-type``. When given, it is taken as it is, save that a body always adds ``content-digest``.
        label: of the signature in the fields Signature-Input and Signature; ``sig1`` by default.
        expires_in: seconds from ``created`` to ``expires``; 60 by default.
        tag: the signature parameter ``tag``; none by default.
        include_alg: True adds the signature parameter ``alg``.
        nonce: False leaves out the signature parameter ``nonce``.
        thumbprint: True has ``keyid`` be the RFC 7638 thumbprint of the key, whatever kid it has.
        fields: header fields to set on each request before it is signed, by name; they replace its own.
        digest_algorithm: of Content-Digest, ``sha-256`` (the default) or ``sha-512``.
        clock: seconds since the epoch, for ``created``.
        base64url: of sessions only: True writes the signature as ``aauth`` 0.5 and ``aauth-signing`` 0.2 read it, in base64url.

    With a session, ``components`` are further ones, ``expires`` and ``nonce`` are sent only when asked for, and ``label``, ``tag``,
    ``include_alg`` and ``thumbprint`` are errors: AAuth says what they are.
    """

    components: Sequence[str]
    label: str
    expires_in: int
    tag: str
    include_alg: bool
    nonce: bool
    thumbprint: bool
    fields: Mapping[str, str]
    digest_algorithm: str
    clock: Callable[[], float]
    base64url: bool


@dataclass(frozen=True, slots=True)
class OutgoingRequest:
    """A request that is about to be sent.

    Attributes:
        method: the HTTP method.
        url: absolute and percent-encoded.
        headers: all field lines; several of one name are allowed.
        body: the whole content as it is sent; empty when there is none.
    """

    method: str
    url: str
    headers: Iterable[tuple[str, str]]
    body: bytes


def sign_request(client: Client, key: str, request: OutgoingRequest, options: SignatureOptions) -> dict[str, str]:
    """Return the fields to set on a request: Signature-Input, Signature, Content-Digest when there is a body, and those of ``options``.

    Raises:
        KeydClientError: keyd does not sign it.
        http_message_signatures.HTTPMessageSignaturesException: a covered component is not in the request, or the URL has characters
            that are to be percent-encoded, which httpx sends as they are: ``[ ] | ^ \\`` and a stray ``%``.
    """
    signing = _Signing(request, **options)
    signed, _ = client.sign_rebuilding(key, signing.build)
    return signing.fields(signed.signature)


async def sign_request_async(
    client: AsyncClient, key: str, request: OutgoingRequest, options: SignatureOptions
) -> dict[str, str]:
    """As :func:`sign_request`, without blocking."""
    signing = _Signing(request, **options)
    signed, _ = await client.sign_rebuilding(key, signing.build)
    return signing.fields(signed.signature)


@dataclass(slots=True)
class _Message:
    """A request as http_message_signatures reads it."""

    method: str
    url: str
    headers: dict[str, str]


class _Signing:
    """One request on its way to a signature. ``build`` may be called again when the key was rotated meanwhile."""

    def __init__(self, request: OutgoingRequest, **options: Unpack[SignatureOptions]) -> None:
        self._options = options
        if "base64url" in options:
            raise ValueError("base64url is for sessions; named keys sign as RFC 9421 says")
        headers = field_values(request.headers)
        self._added = dict(options.get("fields", {}))
        if request.body:
            digest = content_digest(request.body, options.get("digest_algorithm", "sha-256"))
            self._added = overlaid(self._added, {"Content-Digest": digest})
        headers.update({name.lower(): value for name, value in self._added.items()})
        self._message = _Message(request.method.upper(), effective_url(request.url, headers.get("host")), headers)
        self._components = _covered(self._message, options.get("components"), has_body=bool(request.body))

    def build(self, info: KeyInfo) -> bytes:
        """Return the signature base for the active version of a key."""
        if info.http_algorithm not in ALGORITHMS:
            raise ValueError(f"key {info.name!r}: http_message_signatures does not know {info.http_algorithm!r}; update it")
        signer = HTTPMessageSigner(signature_algorithm=ALGORITHMS[info.http_algorithm])
        active = active_version(info)
        created = int(self._options.get("clock", time.time)())
        self._prepared = signer.prepare(
            self._message,
            key_id=active.thumbprint if self._options.get("thumbprint", False) else active.kid,
            created=datetime.fromtimestamp(created, UTC),
            expires=datetime.fromtimestamp(created + self._options.get("expires_in", 60), UTC),
            nonce=secrets.token_urlsafe(32) if self._options.get("nonce", True) else None,
            label=self._options.get("label", "sig1"),
            tag=self._options.get("tag"),
            include_alg=self._options.get("include_alg", False),
            covered_component_ids=self._components,
            **(_KEEP_DIGEST if "content-digest" in self._message.headers else {}),
        )
        return self._prepared.signature_base

    def fields(self, raw: bytes) -> dict[str, str]:
        """Return the fields to set, once the base that was built last is signed."""
        # Not by the signer's apply(): it builds the base once more, to see whether somebody changed the message meanwhile. Nobody has it.
        label, value = self._prepared.label, base64.b64encode(raw).decode()
        signature = {"Signature-Input": f"{label}={self._prepared.signature_params}", "Signature": f"{label}=:{value}:"}
        return overlaid(self._added, signature)


def _covered(message: _Message, components: Sequence[str] | None, *, has_body: bool) -> tuple[str, ...]:
    if components is None:
        # @query even where there is none: else a query that somebody adds on the way goes unseen
        components = ["@method", "@authority", "@path", "@query"]
        if has_body and "content-type" in message.headers:
            components.append("content-type")
    digested = any(component.strip('"').startswith("content-digest") for component in components)
    return (*components, "content-digest") if has_body and not digested else tuple(components)


def field_values(lines: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the fields of a request by name in lower case. Lines of one name count as one value, RFC 9421 section 2.1."""
    headers: dict[str, str] = {}
    for name, value in lines:
        known = headers.get(name.lower())
        headers[name.lower()] = value.strip() if known is None else f"{known}, {value.strip()}"
    return headers


def overlaid(fields: Mapping[str, str], others: Mapping[str, str]) -> dict[str, str]:
    """Return fields with others in their place or beside them. Names in another case are the same; two lines would be sent else."""
    names = {name.lower() for name in others}
    return {name: value for name, value in fields.items() if name.lower() not in names} | dict(others)


def effective_url(url: str, host: str | None) -> str:
    """Return the URL that the server sees: RFC 9421 section 2.2.3 wants the host in lower case and no default port.

    Args:
        url: of the request; user information and fragment are not sent and so dropped.
        host: the Host field, when the request has one; it is what names the authority.
    """
    parts = urlsplit(url)
    authority = (host or parts.netloc.rpartition("@")[2]).lower()
    name, colon, port = authority.rpartition(":")
    if colon and port.isdigit() and int(port) == _DEFAULT_PORTS.get(parts.scheme.lower()):
        authority = name
    question = "?" if "?" in url.partition("#")[0] else ""  # that of an empty query is sent too, and so part of @target-uri
    return f"{parts.scheme.lower()}://{authority}{parts.path or '/'}{question}{parts.query}"
