"""Public keys as JWKs (RFC 7517) and their thumbprints (RFC 7638)."""

from __future__ import annotations

import json
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import ECKey, OKPKey, RSAKey

from backends.api import PublicKey

_TYPES: dict[str, type[OKPKey | ECKey | RSAKey]] = {"OKP": OKPKey, "EC": ECKey, "RSA": RSAKey}
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
