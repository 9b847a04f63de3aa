"""Keys that look like private keys of the ``cryptography`` library and sign in keyd.

The classes of ``cryptography`` are abstract, and the libraries on top of it test with ``isinstance``; so an object that
implements one is a private key to them. What it cannot do, because the private key stays in keyd, raises TypeError.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from keyd.client.model import KeyInfo, VersionInfo

if TYPE_CHECKING:
    from cryptography.utils import Buffer

PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey

_CURVES: dict[str, tuple[str, ec.EllipticCurve, hashes.HashAlgorithm]] = {
    "ES256": ("P-256", ec.SECP256R1(), hashes.SHA256()),
    "ES384": ("P-384", ec.SECP384R1(), hashes.SHA384()),
}


class _Remote:
    """What all three have in common: identity, and no private material."""

    def __init__(self, name: str, version: VersionInfo, algorithm: str, sign: Callable[[bytes], bytes]) -> None:
        self.name = name
        self.kid = version.kid
        self.thumbprint = version.thumbprint
        self.jose_algorithm = algorithm
        self._version = version
        self._remote_sign = sign

    @property
    def jwk(self) -> dict[str, Any]:
        """The public JWK of the pinned version, with its ``kid`` and ``alg``: what an agent token has in ``cnf``. A new dict each time."""
        return self._version.jwk | {"alg": self.jose_algorithm}  # some JWK Sets spell `alg` in an older way, or leave it out

    def sign_raw(self, data: Buffer) -> bytes:
        """Return a signature as RFC 9421 section 3.3 and RFC 7518 section 3 have it; for EC that is r and s, not DER.

        Raises:
            KeydClientError: keyd does not sign.
        """
        return self._remote_sign(bytes(data))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} kid {self.kid!r}>"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[Any, Any]) -> Self:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            f"key {self.name!r} cannot be pickled: the private key stays in keyd; ask a client for it where it is needed"
        )

    def private_bytes(self, *_: object, **__: object) -> NoReturn:
        """Refuse."""
        self._refuse()

    def private_bytes_raw(self) -> NoReturn:
        """Refuse."""
        self._refuse()

    def private_numbers(self) -> NoReturn:
        """Refuse."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise TypeError(f"key {self.name!r}: the private key stays in keyd")

    def _unsupported(self, wanted: str) -> UnsupportedAlgorithm:
        return UnsupportedAlgorithm(f"key {self.name!r} signs {self.jose_algorithm} only, {wanted}")


class Ed25519Key(_Remote, ed25519.Ed25519PrivateKey):
    """An Ed25519 key in keyd (RFC 8032), pinned to the version ``kid``."""

    def __init__(self, name: str, version: VersionInfo, sign: Callable[[bytes], bytes], public: ed25519.Ed25519PublicKey) -> None:
        super().__init__(name, version, "Ed25519", sign)
        self._public = public

    def public_key(self) -> ed25519.Ed25519PublicKey:
        """Return the public key of the pinned version."""
        return self._public

    def sign(self, data: Buffer) -> bytes:
        """Return 64 octets. Raises KeydClientError when keyd does not sign."""
        return self._remote_sign(bytes(data))


class ECKey(_Remote, ec.EllipticCurvePrivateKey):
    """A P-256 or P-384 key in keyd, pinned to the version ``kid``."""

    def __init__(
        self, name: str, version: VersionInfo, algorithm: str, sign: Callable[[bytes], bytes], public: ec.EllipticCurvePublicKey
    ) -> None:
        super().__init__(name, version, algorithm, sign)
        self._public = public

    @property
    def curve(self) -> ec.EllipticCurve:
        """The curve."""
        return self._public.curve

    @property
    def key_size(self) -> int:
        """Bits of the secret scalar."""
        return self._public.key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Return the public key of the pinned version."""
        return self._public

    def sign(self, data: Buffer, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Return a DER signature, as ``cryptography`` does everywhere.

        Args:
            data: the whole message, never a digest.
            signature_algorithm: ECDSA with SHA-256 for P-256, SHA-384 for P-384.

        Raises:
            UnsupportedAlgorithm: anything else, digests and deterministic nonces among it.
            KeydClientError: keyd does not sign.
        """
        digest = _CURVES[self.jose_algorithm][2]
        if not isinstance(signature_algorithm, ec.ECDSA) or not isinstance(signature_algorithm.algorithm, type(digest)):
            raise self._unsupported(f"that is ECDSA with {digest.name} over the whole message")
        if signature_algorithm.deterministic_signing:
            raise self._unsupported("and cannot promise a deterministic nonce")
        raw = self._remote_sign(bytes(data))
        half = (self.key_size + 7) // 8
        if len(raw) != 2 * half:
            raise ValueError(f"key {self.name!r}: keyd returned a signature of {len(raw)} octets instead of {2 * half}")
        return utils.encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))

    def exchange(self, *_: object, **__: object) -> NoReturn:
        """Refuse."""
        raise TypeError(f"key {self.name!r} signs; keyd does no key agreement")


class RSAKey(_Remote, rsa.RSAPrivateKey):
    """An RSA key in keyd, pinned to the version ``kid``. It has one padding for ever: PS512 or RS256."""

    def __init__(
        self, name: str, version: VersionInfo, algorithm: str, sign: Callable[[bytes], bytes], public: rsa.RSAPublicKey
    ) -> None:
        super().__init__(name, version, algorithm, sign)
        self._public = public

    @property
    def key_size(self) -> int:
        """Bits of the modulus."""
        return self._public.key_size

    def public_key(self) -> rsa.RSAPublicKey:
        """Return the public key of the pinned version."""
        return self._public

    def sign(
        self,
        data: Buffer,
        padding: padding.AsymmetricPadding,
        algorithm: utils.Prehashed | hashes.HashAlgorithm | utils.NoDigestInfo,
    ) -> bytes:
        """Return an RSA signature.

        Args:
            data: the whole message, never a digest.
            padding: PSS with MGF1-SHA-512 and a salt of 64 octets (or DIGEST_LENGTH) for PS512; PKCS1v15 for RS256.
            algorithm: SHA-512 for PS512, SHA-256 for RS256.

        Raises:
            UnsupportedAlgorithm: anything else, digests and other salt lengths among it.
            KeydClientError: keyd does not sign.
        """
        if _rsa_algorithm(padding, algorithm) != self.jose_algorithm:
            raise self._unsupported("over the whole message; for PS512 the salt is as long as the hash")
        return self._remote_sign(bytes(data))

    def decrypt(self, *_: object, **__: object) -> NoReturn:
        """Refuse."""
        raise TypeError(f"key {self.name!r} signs; keyd does not decrypt")


PrivateKey = Ed25519Key | ECKey | RSAKey


def private_key(info: KeyInfo, version: VersionInfo, sign: Callable[[bytes], bytes]) -> PrivateKey:
    """Return the key object for one version.

    Args:
        info: the key.
        version: the version to pin.
        sign: takes a whole input, returns raw octets as keyd does.

    Raises:
        ValueError: the public JWK is not one for the algorithm of the key.
    """
    public = public_key(version.jwk, info.jose_algorithm)
    if isinstance(public, ed25519.Ed25519PublicKey):
        return Ed25519Key(info.name, version, sign, public)
    if isinstance(public, ec.EllipticCurvePublicKey):
        return ECKey(info.name, version, info.jose_algorithm, sign, public)
    return RSAKey(info.name, version, info.jose_algorithm, sign, public)


def public_key(jwk: dict[str, Any], algorithm: str) -> PublicKey:
    """Return the public key in a JWK (RFC 7517, RFC 7518 section 6, RFC 8037).

    Args:
        jwk: the public JWK.
        algorithm: the JOSE name of the algorithm that it must be for.

    Raises:
        ValueError: it is not a public JWK for this algorithm.
    """
    kind = (jwk.get("kty"), jwk.get("crv"))
    try:
        if algorithm == "Ed25519" and kind == ("OKP", "Ed25519"):
            return ed25519.Ed25519PublicKey.from_public_bytes(_octets(jwk["x"]))
        if algorithm in _CURVES and kind == ("EC", _CURVES[algorithm][0]):
            x, y = (int.from_bytes(_octets(jwk[member]), "big") for member in ("x", "y"))
            return ec.EllipticCurvePublicNumbers(x, y, _CURVES[algorithm][1]).public_key()
        if algorithm in ("PS512", "RS256") and kind == ("RSA", None):
            e, n = (int.from_bytes(_octets(jwk[member]), "big") for member in ("e", "n"))
            return rsa.RSAPublicNumbers(e, n).public_key()
    except (KeyError, TypeError, ValueError) as exc:
        raise ValueError(f"the public JWK is not a valid key for {algorithm}") from exc
    raise ValueError(f"the public JWK is not one for {algorithm}")


def _rsa_algorithm(scheme: object, digest: object) -> str | None:
    """Return the JOSE name of a padding with a hash, None when keyd has none for it."""
    if isinstance(scheme, padding.PKCS1v15) and isinstance(digest, hashes.SHA256):
        return "RS256"
    if isinstance(scheme, padding.PSS) and isinstance(digest, hashes.SHA512):
        # `cryptography` has no public names for what a PSS object was made of
        mask: Any = scheme._mgf
        salt: Any = scheme._salt_length
        good_salt = salt is padding.PSS.DIGEST_LENGTH or (isinstance(salt, int) and salt == hashes.SHA512.digest_size)
        if good_salt and isinstance(mask, padding.MGF1) and isinstance(mask._algorithm, hashes.SHA512):
            return "PS512"
    return None


def _octets(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
