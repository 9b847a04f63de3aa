"""What transit says of a key, and how it takes a message and gives a signature."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from backends.api import Algorithm, PublicKey
from backends.errors import BackendError, BackendIntegrityError, UnsupportedAlgorithmError


class _Signing(NamedTuple):
    key_types: frozenset[str]
    parameters: Mapping[str, object]
    hash: Callable[[bytes], Any] | None
    octets: int | None  # of the signature; None: as many as the modulus has


_RSA = frozenset({"rsa-2048", "rsa-3072", "rsa-4096"})
# Messages are hashed here wherever the algorithm hashes: they can hold bearer tokens, which then neither cross the wire nor reach
# an audit log, and 64 bytes fit into any request. ``prehashed`` on an Ed25519 key would be another algorithm.
_SIGNING = {
    Algorithm.ED25519: _Signing(frozenset({"ed25519"}), {"marshaling_algorithm": "jws"}, None, 64),
    Algorithm.ES256: _Signing(
        frozenset({"ecdsa-p256"}),
        {"prehashed": True, "hash_algorithm": "sha2-256", "marshaling_algorithm": "jws"},  # r and s, and not the default, DER
        hashlib.sha256,
        64,
    ),
    Algorithm.ES384: _Signing(
        frozenset({"ecdsa-p384"}),
        {"prehashed": True, "hash_algorithm": "sha2-384", "marshaling_algorithm": "jws"},
        hashlib.sha384,
        96,
    ),
    Algorithm.PS512: _Signing(
        _RSA,
        # The default salt is the longest that fits, which RFC 9421 section 3.3.1 does not take.
        {
            "prehashed": True,
            "hash_algorithm": "sha2-512",
            "signature_algorithm": "pss",
            "salt_length": "hash",
            "marshaling_algorithm": "jws",
        },
        hashlib.sha512,
        None,
    ),
    Algorithm.RS256: _Signing(
        _RSA,
        {
            "prehashed": True,
            "hash_algorithm": "sha2-256",
            "signature_algorithm": "pkcs1v15",
            "marshaling_algorithm": "jws",
        },
        hashlib.sha256,
        None,
    ),
}
_ALGORITHMS = {
    key_type: frozenset(algorithm for algorithm, signing in _SIGNING.items() if key_type in signing.key_types)
    for key_type in frozenset[str]().union(*(signing.key_types for signing in _SIGNING.values()))
}


@dataclass(frozen=True, slots=True)
class TransitKey:
    """One transit key with those of its versions that can sign."""

    name: str
    type: str
    #: Public keys as transit writes them, by version.
    versions: Mapping[int, str]
    latest: int
    #: The oldest version that was not trimmed, whether or not it can sign.
    oldest: int
    derived: bool
    #: Whether the private halves can be got out.
    exportable: bool

    @property
    def algorithms(self) -> frozenset[Algorithm]:
        """What keyd can sign with it; nothing when its type is another or it needs a derivation context."""
        return _ALGORITHMS.get(self.type, frozenset()) if not self.derived else frozenset()

    def public_key(self, version: int) -> PublicKey:
        """Return the public key of one of :attr:`versions`.

        Raises:
            UnsupportedAlgorithmError: the key is of a type that keyd does not use.
            BackendIntegrityError: transit writes it as nobody expects.
        """
        if not self.algorithms:
            raise UnsupportedAlgorithmError(f"transit key {self.name} is of type {self.type}, which keyd does not sign with")
        text = self.versions[version]
        try:
            if self.type == "ed25519":  # the one type without PEM
                return ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
            key = serialization.load_pem_public_key(text.encode())
        except (ValueError, UnsupportedAlgorithm) as error:
            raise _damaged(self.name, version) from error
        if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
            raise _damaged(self.name, version)
        return key


def parse(name: str, data: Mapping[str, Any]) -> TransitKey:
    """Read the answer to a read of a key. Raises BackendError when it is none."""
    try:
        # Symmetric keys have a time here, and no public key.
        versions = {int(number): facts["public_key"] if isinstance(facts, dict) else "" for number, facts in data["keys"].items()}
        return TransitKey(
            name,
            str(data["type"]),
            versions,
            int(data["latest_version"]),
            max(1, int(data["min_available_version"])),
            bool(data["derived"]),
            bool(data.get("exportable")) or bool(data.get("allow_plaintext_backup")),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BackendError(
            f"vault describes transit key {name} in a way that keyd does not understand; is it a transit mount?"
        ) from error


def key_type(algorithm: Algorithm, rsa_bits: int) -> str:
    """Return the type of a new transit key for this algorithm."""
    types = _SIGNING[algorithm].key_types
    return f"rsa-{rsa_bits}" if types == _RSA else next(iter(types))


def sign_request(algorithm: Algorithm, version: int, message: bytes) -> dict[str, object]:
    """Return the body of a request to sign. It names the version: without, transit signs with the newest."""
    signing = _SIGNING[algorithm]
    octets = message if signing.hash is None else signing.hash(message).digest()
    return {"input": base64.b64encode(octets).decode(), "key_version": version, **signing.parameters}


def signature(handle: str, algorithm: Algorithm, version: int, data: Mapping[str, Any]) -> bytes:
    """Return the raw octets in the answer to a request to sign.

    Raises:
        BackendIntegrityError: it is another version's, or not of the algorithm's length.
    """
    text = data.get("signature")
    prefix = f"vault:v{version}:"
    if not isinstance(text, str) or not text.startswith(prefix):
        raise BackendIntegrityError(
            f"vault answered a request to sign with {handle} with the signature of another version, or none"
        )
    encoded = text[len(prefix) :]
    try:
        octets = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise BackendIntegrityError(f"vault answered a request to sign with {handle} with what is no signature") from error
    expected = _SIGNING[algorithm].octets
    if expected is not None and len(octets) != expected:
        raise BackendIntegrityError(
            f"vault signed with {handle} and returned {len(octets)} octets; {algorithm.value} has {expected}"
        )
    return octets


def _damaged(name: str, version: int) -> BackendIntegrityError:
    return BackendIntegrityError(f"vault returned a public key of transit key {name} version {version} that cannot be read")
