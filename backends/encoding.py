"""Signatures as RFC 9421 and JWS want them, made and checked with ``cryptography``.

Everything here works on raw octets: Ed25519 64 (RFC 8032); ECDSA r and s, big-endian, each as long as the curve's order
(RFC 7518 section 3.4); RSA as long as the modulus, PSS with MGF1 and a salt as long as the hash (RFC 9421 section 3.3.1).
"""

from __future__ import annotations

from typing import NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from backends.api import Algorithm, PrivateKey, PublicKey
from backends.errors import InvalidKeyMaterialError, UnsupportedAlgorithmError

MIN_RSA_BITS = 2048  # RFC 7518 sections 3.3 and 3.5
MAX_RSA_BITS = 8192  # one signature with more takes so long that it would hold up everybody else


class _Ecdsa(NamedTuple):
    curve: ec.EllipticCurve
    hash: hashes.HashAlgorithm
    octets: int  # of r, and of s


_ECDSA = {
    Algorithm.ES256: _Ecdsa(ec.SECP256R1(), hashes.SHA256(), 32),
    Algorithm.ES384: _Ecdsa(ec.SECP384R1(), hashes.SHA384(), 48),
}
_RSA: dict[Algorithm, tuple[padding.AsymmetricPadding, hashes.HashAlgorithm]] = {
    Algorithm.PS512: (padding.PSS(padding.MGF1(hashes.SHA512()), padding.PSS.DIGEST_LENGTH), hashes.SHA512()),
    Algorithm.RS256: (padding.PKCS1v15(), hashes.SHA256()),
}


def ecdsa_der_to_raw(signature: bytes, algorithm: Algorithm) -> bytes:
    """Turn a DER ECDSA signature (RFC 3279 section 2.2.3) into r and s at fixed length (RFC 7518 section 3.4).

    Raises:
        ValueError: not DER, or r or s is too large for the curve.
    """
    octets = _ECDSA[algorithm].octets
    r, s = decode_dss_signature(signature)
    try:
        return r.to_bytes(octets, "big") + s.to_bytes(octets, "big")
    except OverflowError as error:
        raise ValueError(f"r or s is longer than {octets} octets") from error


def rsa_fits(public_key: rsa.RSAPublicKey) -> bool:
    """Say whether the modulus has a size that keyd takes and the exponent is one of FIPS 186-5 section A.1.1."""
    exponent = public_key.public_numbers().e
    return MIN_RSA_BITS <= public_key.key_size <= MAX_RSA_BITS and 65537 <= exponent < 1 << 256 and exponent % 2 == 1


def algorithm_fits(algorithm: Algorithm, public_key: PublicKey) -> bool:
    """Say whether a key pair may be used with this algorithm: its type, its curve, its RSA size and exponent."""
    if algorithm is Algorithm.ED25519:
        return isinstance(public_key, ed25519.Ed25519PublicKey)
    if algorithm in _ECDSA:
        return isinstance(public_key, ec.EllipticCurvePublicKey) and public_key.curve.name == _ECDSA[algorithm].curve.name
    return isinstance(public_key, rsa.RSAPublicKey) and rsa_fits(public_key)


def generate_private_key(algorithm: Algorithm, rsa_bits: int) -> PrivateKey:
    """Make a key pair from the system's random numbers; ``rsa_bits`` is the modulus of RSA keys, in bits."""
    if algorithm is Algorithm.ED25519:
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm in _ECDSA:
        return ec.generate_private_key(_ECDSA[algorithm].curve)
    return rsa.generate_private_key(public_exponent=65537, key_size=rsa_bits)


def sign_with(private_key: PrivateKey, algorithm: Algorithm, message: bytes) -> bytes:
    """Sign a whole message and return raw octets.

    Raises:
        UnsupportedAlgorithmError: the key has another type or curve than the algorithm.
    """
    if isinstance(private_key, ed25519.Ed25519PrivateKey) and algorithm is Algorithm.ED25519:
        return private_key.sign(message)
    if isinstance(private_key, ec.EllipticCurvePrivateKey) and algorithm in _ECDSA:
        kind = _ECDSA[algorithm]
        if private_key.curve.name == kind.curve.name:
            return ecdsa_der_to_raw(private_key.sign(message, ec.ECDSA(kind.hash)), algorithm)
    if isinstance(private_key, rsa.RSAPrivateKey) and algorithm in _RSA:
        return private_key.sign(message, *_RSA[algorithm])
    raise UnsupportedAlgorithmError(f"the key material is not for {algorithm.value}")


def verify_raw(public_key: PublicKey, algorithm: Algorithm, signature: bytes, message: bytes) -> None:
    """Check raw octets against a whole message.

    Raises:
        cryptography.exceptions.InvalidSignature: the signature is wrong, not of the exact length, or the key is not for
            this algorithm.
    """
    if not algorithm_fits(algorithm, public_key):
        raise InvalidSignature
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        public_key.verify(signature, message)
    elif isinstance(public_key, ec.EllipticCurvePublicKey):
        kind = _ECDSA[algorithm]
        if len(signature) != 2 * kind.octets:
            raise InvalidSignature
        r, s = (int.from_bytes(half, "big") for half in (signature[: kind.octets], signature[kind.octets :]))
        public_key.verify(encode_dss_signature(r, s), message, ec.ECDSA(kind.hash))
    else:
        if len(signature) != (public_key.key_size + 7) // 8:
            raise InvalidSignature
        public_key.verify(signature, message, *_RSA[algorithm])


def checked_for_import(algorithm: Algorithm, key: PrivateKey) -> PrivateKey:
    """Return a key pair from elsewhere, after every check that is left out when keyd loads it again.

    Raises:
        InvalidKeyMaterialError: its parts do not match, or RSA has a bad size or exponent.
        UnsupportedAlgorithmError: it has another type or curve than the algorithm.
    """
    try:
        der = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        loaded = serialization.load_der_private_key(der, None)  # checks the parts of an RSA key against each other
        public_key = loaded.public_key()
    except (ValueError, TypeError, AttributeError, UnsupportedAlgorithm) as error:
        raise InvalidKeyMaterialError("this is not a sound private key; export it again where it came from") from error
    if isinstance(public_key, rsa.RSAPublicKey) and not rsa_fits(public_key):
        raise InvalidKeyMaterialError(
            f"an RSA key must have {MIN_RSA_BITS} to {MAX_RSA_BITS} bits and an odd exponent from 65537; make a new one"
        )
    if not algorithm_fits(algorithm, public_key):  # type: ignore[arg-type]  # any type but ours answers False
        raise UnsupportedAlgorithmError(f"the key material is not for {algorithm.value}")
    private: PrivateKey = loaded  # type: ignore[assignment]  # it fits, so it is one of ours
    try:
        verify_raw(private.public_key(), algorithm, sign_with(private, algorithm, b"keyd import"), b"keyd import")
    except InvalidSignature as error:
        raise InvalidKeyMaterialError("the private key does not belong to its public key; export it again") from error
    return private
