"""Private keys that come in by import: read strictly, checked fully, never written down."""

from __future__ import annotations

import json
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from backends.api import Algorithm, PrivateKey, PublicKey
from keyd.core.errors import InvalidArgumentError

_JWK_TYPES: dict[str, type[OKPKey | ECKey | RSAKey]] = {"OKP": OKPKey, "EC": ECKey, "RSA": RSAKey}
_EC = {"secp256r1": Algorithm.ES256, "secp384r1": Algorithm.ES384}
_RSA = (Algorithm.PS512, Algorithm.RS256)


def from_pkcs8_pem(data: bytes, asked: Algorithm | None) -> tuple[PrivateKey, Algorithm]:
    """Return the private key in an unencrypted PKCS#8 PEM (RFC 7468) and its algorithm.

    Raises:
        InvalidArgumentError: it is something else, is encrypted, or is not for the algorithm that was asked for.
    """
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError:
        raise InvalidArgumentError(
            "the PEM is encrypted; decrypt it in a pipe: openssl pkey -in FILE | keyd key import NAME -"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidArgumentError("this is not a PKCS#8 private key in PEM that keyd can read") from None
    return _fitting(key, asked)


def from_jwk(data: bytes, asked: Algorithm | None) -> tuple[PrivateKey, Algorithm]:
    """Return the private key in a private JWK (RFC 7517) and its algorithm. Raises as :func:`from_pkcs8_pem`."""
    # The causes are dropped on purpose: a parser's message may quote what it could not parse.
    try:
        members: dict[str, Any] = json.loads(data)
        parsed = _JWK_TYPES[members["kty"]].import_key(members)
    except (ValueError, TypeError, KeyError, RecursionError, JoseError, UnsupportedAlgorithm):
        raise InvalidArgumentError("this is not a private JWK of kty OKP, EC or RSA") from None
    if not parsed.is_private:
        raise InvalidArgumentError("this JWK is a public key; give the one with the private member d")
    named = members.get("alg")
    if asked is None and parsed.key_type == "RSA" and named in [algorithm.value for algorithm in _RSA]:
        asked = Algorithm(named)
    return _fitting(parsed.private_key, asked)


def algorithm_of(key: PublicKey, asked: Algorithm | None) -> Algorithm:
    """Return the algorithm that a public key is for.

    Raises:
        InvalidArgumentError: keyd does not take such keys, or this one is not for the algorithm that was asked for.
    """
    if isinstance(key, ed25519.Ed25519PublicKey):
        return _agree(Algorithm.ED25519, asked)
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _EC:
        return _agree(_EC[key.curve.name], asked)
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < 2048:
            raise InvalidArgumentError(f"this RSA key has {key.key_size} bits; 2048 are the least")
        if asked is None:
            raise InvalidArgumentError("say for which algorithm this RSA key is: PS512 or RS256")
        if asked not in _RSA:
            raise InvalidArgumentError(f"an RSA key is for PS512 or RS256, not for {asked.value}")
        return asked
    raise InvalidArgumentError("keyd takes Ed25519, P-256, P-384 and RSA keys; this is another kind")


def _fitting(key: object, asked: Algorithm | None) -> tuple[PrivateKey, Algorithm]:
    if not isinstance(key, ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise InvalidArgumentError("keyd takes Ed25519, P-256, P-384 and RSA keys; this is another kind")
    return key, algorithm_of(key.public_key(), asked)


def _agree(found: Algorithm, asked: Algorithm | None) -> Algorithm:
    if asked is not None and asked is not found:
        raise InvalidArgumentError(f"this key is for {found.value}, not for {asked.value}")
    return found
