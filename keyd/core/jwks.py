"""The JWK Set (RFC 7517 section 5), rendered from timelines and clock at the moment of the request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
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
    """A JWK Set as it goes out."""

    body: bytes
    etag: str  # strong, with quotes (RFC 9110 section 8.8.3)
    max_age: int  # seconds


def public_jwk(key: Key, view: VersionView, style: AlgStyle = "jose") -> dict[str, str]:
    """Return the JWK of one version as it stands in the set."""
    members: dict[str, str] = {**json.loads(view.record.public_jwk), "kid": view.record.kid, "use": "sig"}
    if style != "omit":
        legacy = style == "legacy" and key.algorithm is Algorithm.ED25519
        members["alg"] = "EdDSA" if legacy else key.algorithm.value
    return members


def render(snapshot: Snapshot, now: float, *, max_age: float, name: str | None = None, style: AlgStyle = "jose") -> Document:
    """Render the set of all published keys, or that of one key.

    The document may be cached for ``max_age`` seconds, or until the next change that is known, whichever is sooner.

    Raises:
        NotFoundError: there is no key ``name``.
        KeyStateError: nothing is published, though keys exist. Verifiers take an empty set for the truth, so none is served.
    """
    views: Iterable[KeyView] = snapshot.keys.values() if name is None else [snapshot.get(name)]
    views = [view for view in views if view.key.publish]
    jwks = [public_jwk(view.key, version, style) for view in views for version in view.published(now)]
    if not jwks and (name is not None or any(Purpose.AUDIT not in view.key.purposes for view in snapshot.keys.values())):
        raise KeyStateError("no key is published" if name is None else f"key {name!r} has no published version")
    body = json.dumps({"keys": jwks}, separators=(",", ":")).encode()
    change = min((view.next_change(now) for view in views), default=inf)
    # Rounded down, so that no cache keeps the document past the change; 1 at least, so that a change does not stampede.
    age = max(1, int(min(max_age, change - now)))
    return Document(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"', age)
