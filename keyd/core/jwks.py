"""The JWK Set (RFC 7517 section 5), rendered from timelines and clock at the moment of the request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf, isinf
from typing import Literal

from backends.api import Algorithm
from keyd.core.errors import KeyStateError
from keyd.core.model import Key, Purpose
from keyd.core.snapshot import KeyView, Snapshot, VersionView

#: How ``alg`` is spelled: RFC 9864 names, the older polymorphic "EdDSA", or left out.
AlgStyle = Literal["jose", "legacy", "omit"]

MEDIA_TYPE = "application/jwk-set+json"


@dataclass(frozen=True, slots=True)
class Document:
    """A JWK Set as it goes out, good until ``until`` (seconds since the epoch) if nobody changes anything."""

    body: bytes
    etag: str  # strong, with quotes (RFC 9110 section 8.8.3)
    max_age: int  # seconds
    keys: int = 0
    until: float = inf


@dataclass(frozen=True, slots=True)
class Part:
    """What stands in a set for one key.

    Attributes:
        text: its JWKs as JSON, with commas between; empty while none is published.
        keys: how many they are.
        until: when that is another, if nobody changes the key; ``inf``: never.
    """

    text: str
    keys: int
    until: float


def public_jwk(key: Key, view: VersionView, style: AlgStyle = "jose") -> dict[str, str]:
    """Return the JWK of one version as it stands in the set."""
    members: dict[str, str] = {**json.loads(view.record.public_jwk), "kid": view.record.kid, "use": "sig"}
    if style != "omit":
        legacy = style == "legacy" and key.algorithm is Algorithm.ED25519
        members["alg"] = "EdDSA" if legacy else key.algorithm.value
    return members


def part(view: KeyView, now: float, style: AlgStyle = "jose") -> Part:
    """Return what stands in a set for one key: its active version, then its others that are published, newest first."""
    listed = view.published(now)
    text = ",".join(json.dumps(public_jwk(view.key, version, style), separators=(",", ":")) for version in listed)
    return Part(text, len(listed), next_change(view, now, listed))


def body(parts: Iterable[Part]) -> bytes:
    """Return the JWK Set that is made of ``parts``."""
    return b'{"keys":[%s]}' % ",".join(part.text for part in parts if part.text).encode()


def etag(body: bytes) -> str:
    """Return the entity tag of a document: the same on each replica, and after each restart."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def age(now: float, until: float, max_age: float) -> int:
    """Return for how many whole seconds a document may be cached that is another ``until`` then.

    Rounded down, so that no cache keeps it past the change; so it is 0 in the last second before.
    """
    return max(0, int(min(max_age, until - now)))


def render(snapshot: Snapshot, now: float, *, max_age: float, name: str | None = None, style: AlgStyle = "jose") -> Document:
    """Render the set of all published keys, or that of one key. :mod:`keyd.core.publication` does the same with a cache.

    The document may be cached for ``max_age`` seconds, or until the next change of it that is known, whichever is sooner. That of a
    daemon without keys not at all, for the first one signs as soon as it is made.

    Raises:
        NotFoundError: there is no key ``name``.
        KeyStateError: nothing is published, though keys exist. Verifiers take an empty set for the truth, so none is served.
    """
    views = list(snapshot.keys.values()) if name is None else [snapshot.get(name)]
    parts = [part(view, now, style) for view in views]
    keys = sum(part.keys for part in parts)
    if not keys and (name is not None or has_issuers(snapshot)):
        raise nothing_published(name)
    document = body(parts)
    until = min((part.until for part in parts), default=inf)
    return Document(document, etag(document), age(now, until, max_age if keys else 0), keys, until)


def has_issuers(snapshot: Snapshot) -> bool:
    """Say whether there are keys that anybody outside could verify with; the audit trail's own is none."""
    return any(Purpose.AUDIT not in view.key.purposes for view in snapshot.keys.values())


def nothing_published(name: str | None = None) -> KeyStateError:
    """Return the error for a set that would be empty."""
    return KeyStateError("no key is published" if name is None else f"key {name!r} has no published version")


def next_change(view: KeyView, now: float, listed: list[VersionView]) -> float:
    """Return the first moment after ``now`` at which other versions are published, or in another order; ``inf`` if there is none.

    What a version may sign changes more often than that, and is no reason to fetch a document again.
    """
    if not view.key.publish:
        return inf
    moment = view.next_change(now)
    while not isinf(moment) and view.published(moment) == listed:
        moment = view.next_change(moment)
    return moment
