"""What the suite checks signatures and stores with. Independent of :mod:`backends.encoding`, so that no mistake is made on both sides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from backends.api import Algorithm, Backend, PrivateKey, PublicKey

ALGORITHMS = sorted(Algorithm, key=lambda algorithm: algorithm.value)
MESSAGE = b'"@authority": contract.example\n"@signature-params": ("@authority");created=1'

each_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda algorithm: str(algorithm.value))


@contextmanager
def closing(backend: Backend) -> Iterator[list[Backend]]:
    """Give a list with one backend, whose place a reopened one may take, and close what is in it at the end."""
    opened = [backend]
    try:
        yield opened
    finally:
        for left in opened:
            left.close()


def declared(backend: Backend) -> list[Algorithm]:
    """Return the declared algorithms in a fixed order."""
    return [algorithm for algorithm in ALGORITHMS if algorithm in backend.capabilities.algorithms]


def cheapest(backend: Backend) -> Algorithm:
    """Return a declared algorithm whose keys are quickly made: RSA comes last."""
    return min(declared(backend), key=lambda algorithm: algorithm in (Algorithm.PS512, Algorithm.RS256))


def listed(backend: Backend) -> dict[str, tuple[str | None, int | None]]:
    """Return what a backend lists, by handle."""
    stored = [*backend.list()]
    assert len({key.handle for key in stored}) == len(stored), "a handle is listed twice"
    return {key.handle: (key.name, key.version) for key in stored}


def spki(backend: Backend, handle: str) -> bytes:
    """Return the public key as DER SubjectPublicKeyInfo."""
    return backend.public_key(handle).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def check(public_key: PublicKey, algorithm: Algorithm, signature: bytes, message: bytes) -> None:
    """Verify raw octets. Written apart from :mod:`backends.encoding`, so that one mistake is not made on both sides."""
    match algorithm, public_key:
        case Algorithm.ED25519, ed25519.Ed25519PublicKey():
            assert len(signature) == 64
            public_key.verify(signature, message)
        case Algorithm.ES256, ec.EllipticCurvePublicKey(curve=ec.SECP256R1()):
            assert len(signature) == 64
            public_key.verify(_der(signature), message, ec.ECDSA(hashes.SHA256()))
        case Algorithm.ES384, ec.EllipticCurvePublicKey(curve=ec.SECP384R1()):
            assert len(signature) == 96
            public_key.verify(_der(signature), message, ec.ECDSA(hashes.SHA384()))
        case Algorithm.PS512, rsa.RSAPublicKey():
            assert len(signature) * 8 == public_key.key_size
            public_key.verify(signature, message, padding.PSS(padding.MGF1(hashes.SHA512()), salt_length=64), hashes.SHA512())
        case Algorithm.RS256, rsa.RSAPublicKey():
            assert len(signature) * 8 == public_key.key_size
            public_key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
        case _:
            pytest.fail(f"the public key is a {type(public_key).__name__}, which is not for {algorithm.value}")


def assert_rejected(public_key: PublicKey, algorithm: Algorithm, signature: bytes, message: bytes) -> None:
    """Assert that a signature does not verify."""
    with pytest.raises(InvalidSignature):
        check(public_key, algorithm, signature, message)


def make_key(algorithm: Algorithm) -> PrivateKey:
    """Make a private key outside of any backend."""
    if algorithm is Algorithm.ED25519:
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm in (Algorithm.PS512, Algorithm.RS256):
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(ec.SECP256R1() if algorithm is Algorithm.ES256 else ec.SECP384R1())


def _unfit_rsa() -> list[PrivateKey]:
    return [rsa.generate_private_key(65537, 1024), rsa.generate_private_key(3, 2048), make_key(Algorithm.ES256)]  # noqa: S505


#: Keys that an importer must refuse, by algorithm: other type, other curve, too small, bad exponent.
UNFIT: dict[Algorithm, Callable[[], list[PrivateKey]]] = {
    Algorithm.ED25519: lambda: [make_key(Algorithm.ES256), make_key(Algorithm.RS256)],
    Algorithm.ES256: lambda: [make_key(Algorithm.ES384), ec.generate_private_key(ec.SECP256K1()), make_key(Algorithm.ED25519)],
    Algorithm.ES384: lambda: [make_key(Algorithm.ES256), ec.generate_private_key(ec.SECP256K1()), make_key(Algorithm.ED25519)],
    Algorithm.PS512: _unfit_rsa,
    Algorithm.RS256: _unfit_rsa,
}


def _der(raw: bytes) -> bytes:
    half = len(raw) // 2
    return utils.encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))
