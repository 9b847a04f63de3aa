"""What every verifier of the simulated year is: something that finds a key by its kid, in its own cache or on the web."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

Jwk = dict[str, Any]


class UntrustedError(Exception):
    """The verifier knows no such key, or the signature is not that key's."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """What keyd signed.

    Attributes:
        form: ``jwt``, or ``wba``: a request with tag ``web-bot-auth``.
        data: the signing input or signature base.
        expires: seconds since the epoch.
        lifetime: seconds for which it is valid in all.
    """

    key: str
    form: str
    kid: str
    data: bytes
    signature: bytes
    expires: int
    lifetime: int

    @property
    def token(self) -> str:
        return f"{self.data.decode()}.{base64.urlsafe_b64encode(self.signature).rstrip(b'=').decode()}"


class Verifier(Protocol):
    """One verifier, with the cache of one process.

    Attributes:
        name: as the table prints it.
        known_as: as keyd names it when it warns; None: it is one of the "others", which have a cache time of their own.
        forms: what it verifies.
        algorithms: those of the keys that it can read.
        longest: the longest lifetime, in seconds, of what it takes.
        learns: seconds after which it knows a kid that is new, whenever it fetched before.
        forgets: seconds after which it does not trust a kid that is gone any more.
    """

    name: str
    known_as: str | None
    forms: frozenset[str]
    algorithms: frozenset[str]
    longest: float
    learns: float
    forgets: float

    async def key(self, key: str, kid: str) -> Jwk:
        """Return the JWK that ``kid`` names, by the cache. Raises UntrustedError."""
        ...

    async def verify(self, artifact: Artifact) -> None:
        """Verify by the library's own way. Raises anything."""
        ...


def check_signature(jwk: Jwk, artifact: Artifact) -> None:
    """Verify a signature with a JWK. Raises UntrustedError."""
    try:
        if jwk["kty"] == "OKP":
            Ed25519PublicKey.from_public_bytes(decode(jwk["x"])).verify(artifact.signature, artifact.data)
            return
        numbers = ec.EllipticCurvePublicNumbers(
            int.from_bytes(decode(jwk["x"]), "big"), int.from_bytes(decode(jwk["y"]), "big"), ec.SECP256R1()
        )
        half = len(artifact.signature) // 2
        pair = int.from_bytes(artifact.signature[:half], "big"), int.from_bytes(artifact.signature[half:], "big")
        numbers.public_key().verify(encode_dss_signature(*pair), artifact.data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise UntrustedError("the signature is not that key's") from None


def decode(text: str) -> bytes:
    """Decode base64url without padding."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
