"""Public keys as JWKs (RFC 7517) and their thumbprints (RFC 7638)."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import ECKey, OKPKey, RSAKey

from backends.api import PublicKey

_TYPES: dict[str, type[OKPKey | ECKey | RSAKey]] = {"OKP": OKPKey, "EC": ECKey, "RSA": RSAKey}
#: What identifies a key of each type (RFC 7638 section 3.2, RFC 8037 section 2).
_REQUIRED = {"OKP": ("crv", "kty", "x"), "EC": ("crv", "kty", "x", "y"), "RSA": ("e", "kty", "n")}
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_PUBLIC_MEMBERS = ("kty", "crv", "x", "y", "n", "e")


def from_public_key(key: PublicKey) -> tuple[str, str]:
    """Return the public JWK as canonical JSON (public members only, sorted) and its RFC 7638 SHA-256 thumbprint."""
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    kty = "OKP" if isinstance(key, ed25519.Ed25519PublicKey) else "RSA" if isinstance(key, rsa.RSAPublicKey) else "EC"
    parsed = _TYPES[kty].import_key(pem)
    members = parsed.as_dict(private=False)
    public = {name: members[name] for name in _PUBLIC_MEMBERS if name in members}
    return json.dumps(public, sort_keys=True, separators=(",", ":")), parsed.thumbprint()


def to_public_key(jwk: str) -> PublicKey:
    """Return the ``cryptography`` public key of a JWK made by :func:`from_public_key`."""
    members: dict[str, Any] = json.loads(jwk)
    return cast("PublicKey", _TYPES[members["kty"]].import_key(members).public_key)


def thumbprint(members: Mapping[str, object]) -> str | None:
    """Return the RFC 7638 SHA-256 thumbprint of a public JWK that somebody sent, or None when it is not one.

    The values are taken as they are: of two spellings of a number only the canonical one has the thumbprint of the key.
    """
    kty = members.get("kty")
    required = _REQUIRED.get(kty) if isinstance(kty, str) else None
    if required is None or not _PRIVATE_MEMBERS.isdisjoint(members):
        return None
    values = {name: members.get(name) for name in required}
    if not all(isinstance(value, str) and value.isascii() for value in values.values()):
        return None
    digest = hashlib.sha256(json.dumps(values, separators=(",", ":")).encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
