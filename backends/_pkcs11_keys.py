"""What the objects on a PKCS#11 token mean: labels, public keys, and which mechanism signs for which algorithm."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from pkcs11 import MGF, Attribute, KeyType, Mechanism

from backends.api import Algorithm, PublicKey
from backends.encoding import algorithm_fits

_LABEL = re.compile(r"keyd:([A-Za-z0-9][A-Za-z0-9._-]{0,62}):([1-9][0-9]{0,9})")
_HANDLE = re.compile(r"id=((?:[0-9a-f]{2}){1,512})")

# DER of the object identifiers (RFC 5480 section 2.1.1.1, RFC 8410 section 3), and the printable names that some tokens prefer.
_P256 = bytes.fromhex("06082a8648ce3d030107")
_P384 = bytes.fromhex("06052b81040022")
_ED25519 = bytes.fromhex("06032b6570")
_CURVES: dict[bytes, tuple[ec.EllipticCurve, int]] = {
    _P256: (ec.SECP256R1(), 65),
    b"\x13\x09secp256r1": (ec.SECP256R1(), 65),
    b"\x13\x0aprime256v1": (ec.SECP256R1(), 65),
    _P384: (ec.SECP384R1(), 97),
    b"\x13\x09secp384r1": (ec.SECP384R1(), 97),
}
#: The DigestInfo of RFC 8017 section 9.2 up to the SHA-256 digest.
_SHA256_INFO = bytes.fromhex("3031300d060960864801650304020105000420")
_PSS = (Mechanism.SHA512, MGF.SHA512, 64)

#: What is read of a public object.
PUBLIC_ATTRIBUTES = (
    Attribute.ID,
    Attribute.KEY_TYPE,
    Attribute.EC_PARAMS,
    Attribute.EC_POINT,
    Attribute.MODULUS,
    Attribute.PUBLIC_EXPONENT,
)


class UnusableKeyError(Exception):
    """A key object that keyd has no algorithm for, or that lacks a part."""


class ForbiddenKeyError(UnusableKeyError):
    """A key that its token lets nobody, or not a daemon, sign with."""


@dataclass(frozen=True, slots=True)
class Signer:
    """How a token signs for one algorithm."""

    mechanism: Mechanism
    param: tuple[Mechanism, MGF, int] | None
    #: Makes what goes to the token of the whole message. The hash is taken here wherever the token would take anything of any
    #: length in its place: CKM_ECDSA truncates what is too long, and signs nothing at all.
    prepare: Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Generator:
    """How a token makes a key pair for one algorithm."""

    mechanism: Mechanism
    key_type: KeyType
    ec_params: bytes | None


def _whole(message: bytes) -> bytes:
    return message


def _sha256(message: bytes) -> bytes:
    return hashlib.sha256(message).digest()


def _sha384(message: bytes) -> bytes:
    return hashlib.sha384(message).digest()


def _sha512(message: bytes) -> bytes:
    return hashlib.sha512(message).digest()


def _sha256_info(message: bytes) -> bytes:
    return _SHA256_INFO + hashlib.sha256(message).digest()


#: By algorithm, the ways in order of preference.
_SIGNERS: dict[Algorithm, tuple[Signer, ...]] = {
    Algorithm.ED25519: (Signer(Mechanism.EDDSA, None, _whole),),  # no parameter: pure Ed25519
    Algorithm.ES256: (Signer(Mechanism.ECDSA, None, _sha256),),
    Algorithm.ES384: (Signer(Mechanism.ECDSA, None, _sha384),),
    Algorithm.PS512: (
        Signer(Mechanism.SHA512_RSA_PKCS_PSS, _PSS, _whole),
        Signer(Mechanism.RSA_PKCS_PSS, _PSS, _sha512),
    ),
    Algorithm.RS256: (
        Signer(Mechanism.SHA256_RSA_PKCS, None, _whole),
        Signer(Mechanism.RSA_PKCS, None, _sha256_info),
    ),
}
_RSA_GENERATOR = Generator(Mechanism.RSA_PKCS_KEY_PAIR_GEN, KeyType.RSA, None)
GENERATORS: dict[Algorithm, Generator] = {
    Algorithm.ED25519: Generator(Mechanism.EC_EDWARDS_KEY_PAIR_GEN, KeyType.EC_EDWARDS, _ED25519),
    Algorithm.ES256: Generator(Mechanism.EC_KEY_PAIR_GEN, KeyType.EC, _P256),
    Algorithm.ES384: Generator(Mechanism.EC_KEY_PAIR_GEN, KeyType.EC, _P384),
    Algorithm.PS512: _RSA_GENERATOR,
    Algorithm.RS256: _RSA_GENERATOR,
}


def signers(mechanisms: Collection[object], ecdsa_bits: range) -> dict[Algorithm, Signer]:
    """Return how a token signs, for every algorithm that it has a mechanism for.

    Args:
        mechanisms: its mechanism list.
        ecdsa_bits: the sizes of curves that it says its CKM_ECDSA takes.
    """
    found: dict[Algorithm, Signer] = {}
    for algorithm, ways in _SIGNERS.items():
        if algorithm in (Algorithm.ES256, Algorithm.ES384) and (256 if algorithm is Algorithm.ES256 else 384) not in ecdsa_bits:
            continue
        signer = next((way for way in ways if way.mechanism in mechanisms), None)
        if signer is not None:
            found[algorithm] = signer
    return found


def label_for(name: str, version: int) -> str | None:
    """Return the CKA_LABEL of a version, or None for a name that cannot be part of one."""
    label = f"keyd:{name}:{version}"
    return label if _LABEL.fullmatch(label) else None


def version_of(label: object) -> tuple[str, int] | tuple[None, None]:
    """Return the name and version that a CKA_LABEL stands for; None twice for a key that something else made."""
    match = _LABEL.fullmatch(label) if isinstance(label, str) else None
    return (match[1], int(match[2])) if match else (None, None)


def handle_of(key_id: bytes) -> str:
    """Return the handle of the key pair with this CKA_ID."""
    return f"id={key_id.hex()}"


def id_of(handle: str) -> bytes | None:
    """Return the CKA_ID that a handle stands for; None if it can be the handle of nothing."""
    match = _HANDLE.fullmatch(handle)
    return bytes.fromhex(match[1]) if match else None


def public_key_of(attributes: Mapping[Attribute, Any]) -> PublicKey:
    """Return the public key in a public object.

    Raises:
        UnusableKeyError: it is of a type, curve or size that keyd does not take, or damaged.
    """
    try:
        public_key = _decode(attributes)
    except (KeyError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UnusableKeyError("its public object is damaged or lacks a part") from error
    if not any(algorithm_fits(algorithm, public_key) for algorithm in Algorithm):
        raise UnusableKeyError("its RSA modulus or exponent is not one that keyd takes")
    return public_key


def _decode(attributes: Mapping[Attribute, Any]) -> PublicKey:
    key_type = attributes[Attribute.KEY_TYPE]
    if key_type == KeyType.RSA:
        modulus, exponent = (int.from_bytes(attributes[part], "big") for part in (Attribute.MODULUS, Attribute.PUBLIC_EXPONENT))
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    if key_type == KeyType.EC_EDWARDS:
        # Told by the point alone: tokens differ in how they spell the parameters, and Ed448 has 57 octets.
        return ed25519.Ed25519PublicKey.from_public_bytes(_unwrapped(attributes[Attribute.EC_POINT], 32))
    if key_type == KeyType.EC:
        curve, octets = _CURVES.get(attributes[Attribute.EC_PARAMS], (None, 0))
        if curve is None:
            raise UnusableKeyError("its curve is not one that keyd takes")
        return ec.EllipticCurvePublicKey.from_encoded_point(curve, _unwrapped(attributes[Attribute.EC_POINT], octets))
    raise UnusableKeyError("its type is not one that keyd takes")


def _unwrapped(point: bytes, octets: int) -> bytes:
    """Take a point out of the OCTET STRING that most tokens wrap it in. A bare one starts with the same octet 4: the length tells."""
    if len(point) == octets:
        return point
    if len(point) == octets + 2 and point[:2] == bytes((4, octets)):
        return point[2:]
    raise ValueError("not a point of this curve")
