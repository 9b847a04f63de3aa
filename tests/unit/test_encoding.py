"""The verifier that keyd's core relies on, against keys and signatures made without it."""

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, padding, rsa, utils

from backends.api import Algorithm
from backends.encoding import algorithm_fits, checked_for_import, ecdsa_der_to_raw, sign_with, verify_raw
from backends.errors import InvalidKeyMaterialError, UnsupportedAlgorithmError
from backends.testing.checks import ALGORITHMS, MESSAGE, check, each_algorithm, make_key


@pytest.fixture(scope="module")
def keys():
    return {algorithm: make_key(algorithm) for algorithm in ALGORITHMS}


@each_algorithm
def test_signs_and_verifies(keys, algorithm: Algorithm) -> None:
    public = keys[algorithm].public_key()
    signature = sign_with(keys[algorithm], algorithm, MESSAGE)
    check(public, algorithm, signature, MESSAGE)
    verify_raw(public, algorithm, signature, MESSAGE)


@each_algorithm
def test_wrong_data_key_and_length_are_rejected(keys, algorithm: Algorithm) -> None:
    public = keys[algorithm].public_key()
    signature = sign_with(keys[algorithm], algorithm, MESSAGE)
    flipped = signature[:-1] + bytes([signature[-1] ^ 1])
    for wrong in (
        flipped,
        signature + b"\0",
        b"\0" + signature,
        signature[:-1],
        b"",
        bytes(len(signature)),
        b"\xff" * len(signature),
    ):
        with pytest.raises(InvalidSignature):
            verify_raw(public, algorithm, wrong, MESSAGE)
    with pytest.raises(InvalidSignature):
        verify_raw(public, algorithm, signature, MESSAGE + b" ")
    with pytest.raises(InvalidSignature):
        verify_raw(make_key(algorithm).public_key(), algorithm, signature, MESSAGE)


@each_algorithm
def test_key_of_another_algorithm_is_rejected(keys, algorithm: Algorithm) -> None:
    for other in ALGORITHMS:
        if {other, algorithm} <= {Algorithm.PS512, Algorithm.RS256}:
            continue
        assert algorithm_fits(algorithm, keys[other].public_key()) is (other is algorithm)
        if other is not algorithm:
            with pytest.raises(UnsupportedAlgorithmError, match=f"not for {algorithm.value}"):
                sign_with(keys[other], algorithm, MESSAGE)
            with pytest.raises(InvalidSignature):
                verify_raw(keys[other].public_key(), algorithm, sign_with(keys[other], other, MESSAGE), MESSAGE)


def test_der_ecdsa_is_rejected_and_converted(keys) -> None:
    der = keys[Algorithm.ES256].sign(MESSAGE, ec.ECDSA(hashes.SHA256()))
    public = keys[Algorithm.ES256].public_key()
    with pytest.raises(InvalidSignature):
        verify_raw(public, Algorithm.ES256, der, MESSAGE)
    raw = ecdsa_der_to_raw(der, Algorithm.ES256)
    verify_raw(public, Algorithm.ES256, raw, MESSAGE)
    with pytest.raises(InvalidSignature):  # the same two numbers at another length
        verify_raw(public, Algorithm.ES256, raw[:32] + b"\0" + raw[32:], MESSAGE)


def test_small_r_and_s_keep_their_length() -> None:
    assert ecdsa_der_to_raw(utils.encode_dss_signature(1, 2), Algorithm.ES384) == bytes(47) + b"\1" + bytes(47) + b"\2"
    for wrong in (utils.encode_dss_signature(1 << 384, 2), b"", b"\x30\x00", bytes(96)):
        with pytest.raises(ValueError, match=r".*"):
            ecdsa_der_to_raw(wrong, Algorithm.ES384)


def test_pss_with_another_salt_length_is_rejected(keys) -> None:
    key = keys[Algorithm.PS512]
    for salt, good in ((64, True), (32, False), (0, False), (padding.PSS.MAX_LENGTH, False)):
        signature = key.sign(MESSAGE, padding.PSS(padding.MGF1(hashes.SHA512()), salt), hashes.SHA512())
        if good:
            verify_raw(key.public_key(), Algorithm.PS512, signature, MESSAGE)
        else:
            with pytest.raises(InvalidSignature):
                verify_raw(key.public_key(), Algorithm.PS512, signature, MESSAGE)


def test_weak_rsa_and_foreign_types_do_not_fit() -> None:
    weak = rsa.generate_private_key(65537, 1024), rsa.generate_private_key(3, 2048)
    for key in (*weak, ed448.Ed448PrivateKey.generate(), ec.generate_private_key(ec.SECP256K1())):
        for algorithm in ALGORITHMS:
            assert not algorithm_fits(algorithm, key.public_key())


def test_unsound_rsa_is_not_imported() -> None:
    sound, other = rsa.generate_private_key(65537, 2048), rsa.generate_private_key(65537, 2048)
    parts = sound.private_numbers()
    mixed = rsa.RSAPrivateNumbers(
        parts.p, parts.q, other.private_numbers().d, parts.dmp1, parts.dmq1, parts.iqmp, parts.public_numbers
    ).private_key(unsafe_skip_rsa_key_validation=True)
    for unfit in (rsa.generate_private_key(65537, 1024), rsa.generate_private_key(3, 2048), mixed):
        with pytest.raises(InvalidKeyMaterialError):
            checked_for_import(Algorithm.RS256, unfit)
    assert checked_for_import(Algorithm.RS256, sound).private_numbers() == parts
