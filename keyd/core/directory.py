"""The key directory of Web Bot Auth: the JWK Set of an issuer for verifiers of HTTP requests, and what its keys sign about it.

draft-meunier-webbotauth-httpsig-protocol-02, in two forms. Cloudflare ignores ``alg`` and verifies signatures of ``@authority``
alone; the draft names algorithms as RFC 9421 does and has the document itself covered, by ``content-digest``.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf

from backends.api import Algorithm
from keyd.core import jwks
from keyd.core.model import Purpose
from keyd.core.publication import DirectoryForm, Issuer
from keyd.core.signature_base import DIRECTORY_TAG
from keyd.core.snapshot import KeyView, VersionView

PATH = "/.well-known/http-message-signatures-directory"
MEDIA_TYPE = "application/http-message-signatures-directory+json"
#: Keys that sign HTTP messages. Those of token issuers and of the audit trail have no business in a directory.
_LISTED = frozenset({Purpose.HTTP, Purpose.DIRECTORY})
_HTTPS_PORT = "443"


@dataclass(frozen=True, slots=True)
class Entry:
    """A version in a directory, with its key as it was when the directory was made."""

    key: KeyView
    version: VersionView


@dataclass(frozen=True, slots=True)
class Document:
    """A directory without its signatures, good until ``until``.

    Attributes:
        etag: strong, with quotes.
        content_digest: value of the field Content-Digest (RFC 9530).
        entries: what it lists, in its order.
    """

    body: bytes
    etag: str
    content_digest: str
    entries: tuple[Entry, ...]
    until: float


def authority_of(host: str, port: str) -> str:
    """Return ``@authority`` (RFC 9421 section 2.2.3) of a request for an https URL, which each directory is at."""
    return host if port in ("", _HTTPS_PORT) else f"{host}:{port}"


def authorities(issuer: Issuer) -> frozenset[str]:
    """Return the authorities at which an issuer has a directory: its hosts, each with the port that is written there, or none."""
    return frozenset(host.removesuffix(f":{_HTTPS_PORT}") for host in issuer.hosts)


def listed(view: KeyView, now: float) -> list[VersionView]:
    """Return the versions of a key that stand in a directory: those in the JWK Set, of a key for HTTP messages."""
    return [] if _LISTED.isdisjoint(view.key.purposes) else view.published(now)


def may_sign(view: KeyView, version: VersionView, now: float) -> bool:
    """Say whether a version signs the directory that it is in.

    All that are published do, also those that do not sign requests yet, or not any more: the signature says that who publishes
    the key has it. What is compromised or destroyed is not published, and a disabled key signs nothing.
    """
    able = Purpose.DIRECTORY in view.key.purposes and view.key.disabled_at is None and version.record.handle is not None
    return able and view.key.publish and version.record.timeline.published(now)


def render(views: Iterable[KeyView], now: float, form: DirectoryForm) -> Document:
    """Return the directory of these keys. It may list nothing; then it is not to be served."""
    entries: list[Entry] = []
    until = inf
    for view in views:
        versions = listed(view, now)
        entries += [Entry(view, version) for version in versions]
        if not _LISTED.isdisjoint(view.key.purposes):
            until = min(until, jwks.next_change(view, now, versions))
    body = b'{"keys":[%s]}' % ",".join(_members(entry, form) for entry in entries).encode()
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    return Document(body, jwks.etag(body), f"sha-256=:{digest}:", tuple(entries), until)


def signature_base(
    authority: str, keyid: str, algorithm: Algorithm, *, created: int, expires: int, content_digest: str | None = None
) -> tuple[bytes, str]:
    """Return the signature base of a directory's response, and its signature parameters as they stand in Signature-Input.

    Without ``content_digest`` it is that of Cloudflare's example, with ``alg``; with it, that of the draft's (appendix E.2.3).

    Args:
        authority: of the request that is answered.
        keyid: the thumbprint of the key.
        content_digest: value of the field, where it is covered.
    """
    lines = [f'"@authority";req: {authority}']
    listed, alg = '"@authority";req', f';alg="{algorithm.http_name}"'
    if content_digest is not None:
        lines.append(f'"content-digest": {content_digest}')
        listed, alg = f'{listed} "content-digest"', ""
    parameters = f'({listed});created={created};expires={expires};keyid="{keyid}"{alg};tag="{DIRECTORY_TAG}"'
    return "\n".join([*lines, f'"@signature-params": {parameters}']).encode(), parameters


def fields(signatures: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, str]]:
    """Return the fields that carry signatures, each given as its parameters and its octets. Labels are no part of what is signed."""
    labelled = [(f"binding{number}", *signature) for number, signature in enumerate(signatures)]
    if labelled:
        yield "Signature-Input", ", ".join(f"{label}={parameters}" for label, parameters, _ in labelled)
        yield "Signature", ", ".join(f"{label}=:{base64.b64encode(octets).decode()}:" for label, _, octets in labelled)


def _members(entry: Entry, form: DirectoryForm) -> str:
    record = entry.version.record
    members: dict[str, str | int] = {**json.loads(record.public_jwk), "kid": record.thumbprint, "use": "sig"}
    if form == "draft":
        members["alg"] = entry.key.key.algorithm.http_name
    # No `nbf`: a rotation in an emergency may activate a version sooner than was planned when a verifier cached this.
    if record.timeline.unpublish_at < inf:
        members["exp"] = int(record.timeline.unpublish_at)
    return json.dumps(members, separators=(",", ":"))
