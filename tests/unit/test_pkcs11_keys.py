"""What objects on a PKCS#11 token mean, and what return values mean: no token is needed to tell."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute, KeyType, Mechanism
from pkcs11 import exceptions as p11

from backends import errors
from backends._pkcs11_errors import code, is_broken, translate
from backends._pkcs11_keys import UnusableKeyError, handle_of, id_of, label_for, public_key_of, signers, version_of
from backends.api import Algorithm

P256_OID, P384_OID = bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06052b81040022")
P256, P384, ED = (
    ec.generate_private_key(ec.SECP256R1()),
    ec.generate_private_key(ec.SECP384R1()),
    ed25519.Ed25519PrivateKey.generate(),
)


def point(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def wrapped(octets: bytes) -> bytes:
    return bytes((4, len(octets))) + octets


@pytest.mark.parametrize("wrap", [wrapped, bytes], ids=["wrapped", "bare"])
@pytest.mark.parametrize(
    ("key", "key_type", "params"),
    [
        (P256, KeyType.EC, P256_OID),
        (P256, KeyType.EC, b"\x13\x0aprime256v1"),
        (P384, KeyType.EC, P384_OID),
        (ED, KeyType.EC_EDWARDS, bytes.fromhex("06032b6570")),
        (ED, KeyType.EC_EDWARDS, b"\x13\x0cedwards25519"),
    ],
    ids=["p256", "p256-name", "p384", "ed25519", "ed25519-name"],
)
def test_points(key, key_type, params, wrap) -> None:
    attributes = {Attribute.KEY_TYPE: key_type, Attribute.EC_PARAMS: params, Attribute.EC_POINT: wrap(point(key))}
    assert public_key_of(attributes) == key.public_key()


def test_a_modulus_with_leading_zeros() -> None:
    public = rsa.generate_private_key(65537, 2048).public_key()
    modulus = public.public_numbers().n.to_bytes(257, "big")
    attributes = {Attribute.KEY_TYPE: KeyType.RSA, Attribute.MODULUS: modulus, Attribute.PUBLIC_EXPONENT: b"\1\0\1"}
    assert public_key_of(attributes) == public


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {Attribute.KEY_TYPE: KeyType.AES},
        {Attribute.KEY_TYPE: 0x80000001},
        {Attribute.KEY_TYPE: KeyType.EC, Attribute.EC_PARAMS: P256_OID},
        {Attribute.KEY_TYPE: KeyType.EC, Attribute.EC_PARAMS: P256_OID, Attribute.EC_POINT: point(P384)},
        {Attribute.KEY_TYPE: KeyType.EC, Attribute.EC_PARAMS: P256_OID, Attribute.EC_POINT: b"\4" + bytes(64)},
        {Attribute.KEY_TYPE: KeyType.EC, Attribute.EC_PARAMS: bytes.fromhex("06052b8104000a"), Attribute.EC_POINT: point(P256)},
        {Attribute.KEY_TYPE: KeyType.EC_EDWARDS, Attribute.EC_PARAMS: bytes.fromhex("06032b6571"), Attribute.EC_POINT: bytes(57)},
        {Attribute.KEY_TYPE: KeyType.RSA, Attribute.MODULUS: b"\xff" * 128, Attribute.PUBLIC_EXPONENT: b"\1\0\1"},
        {Attribute.KEY_TYPE: KeyType.RSA, Attribute.MODULUS: b"\xff" * 256, Attribute.PUBLIC_EXPONENT: b"\3"},
    ],
)
def test_unusable(attributes) -> None:
    with pytest.raises(UnusableKeyError):
        public_key_of(attributes)


@pytest.mark.parametrize(("name", "version"), [("k", 1), ("a.b-C_9", 12), ("x" * 63, 9_999_999_999)])
def test_labels(name: str, version: int) -> None:
    assert version_of(label_for(name, version)) == (name, version)


@pytest.mark.parametrize(
    "label", [None, b"keyd:k:1", "", "k:1", "keyd:k", "keyd:k:0", "keyd:k:01", "keyd:k:1 ", "keyd::1", "keyd:a:b:1"]
)
def test_other_labels_are_foreign(label) -> None:
    assert version_of(label) == (None, None)


@pytest.mark.parametrize("name", ["", "a:b", "a b", "x" * 64, "-a"])
def test_names_that_are_no_labels(name: str) -> None:
    assert label_for(name, 1) is None


def test_handles() -> None:
    assert id_of(handle_of(b"\x0a\xff")) == b"\x0a\xff"
    for other in ("", "id=", "id=0", "id=0A", "id=0g", "ID=0a", "id=0a\n", "id=" + "00" * 513):
        assert id_of(other) is None, other


def test_mechanisms_make_algorithms() -> None:
    everything = range(1024)
    assert signers({Mechanism.EDDSA}, everything).keys() == {Algorithm.ED25519}
    assert signers({Mechanism.ECDSA}, everything).keys() == {Algorithm.ES256, Algorithm.ES384}
    assert signers({Mechanism.ECDSA}, range(112, 257)).keys() == {Algorithm.ES256}
    # Hashing is left to the token only where it does so by an own mechanism: CKM_ECDSA signs anything of any length.
    assert signers({Mechanism.ECDSA_SHA256}, everything) == {}
    assert signers({Mechanism.SHA1_RSA_PKCS}, everything) == {}
    rsa_keys = {Algorithm.PS512, Algorithm.RS256}
    plain = signers({Mechanism.RSA_PKCS, Mechanism.RSA_PKCS_PSS}, everything)
    assert plain.keys() == rsa_keys
    assert len(plain[Algorithm.PS512].prepare(b"x" * 1000)) == 64
    assert len(plain[Algorithm.RS256].prepare(b"x" * 1000)) == 19 + 32
    hashing = signers(
        {Mechanism.SHA256_RSA_PKCS, Mechanism.SHA512_RSA_PKCS_PSS, *(s.mechanism for s in plain.values())}, everything
    )
    assert {signer.mechanism for signer in hashing.values()} == {Mechanism.SHA256_RSA_PKCS, Mechanism.SHA512_RSA_PKCS_PSS}
    for size in (0, 1, 31, 1000):
        assert len(signers({Mechanism.ECDSA}, everything)[Algorithm.ES256].prepare(bytes(size))) == 32
        assert len(signers({Mechanism.ECDSA}, everything)[Algorithm.ES384].prepare(bytes(size))) == 48


@pytest.mark.parametrize(
    ("error", "name", "expected"),
    [
        (p11.DeviceError(), "CKR_DEVICE_ERROR", errors.BackendUnavailableError),
        (p11.SlotIDInvalid(), "CKR_SLOT_ID_INVALID", errors.BackendUnavailableError),
        (
            p11.PKCS11Error("Initialisation error (not initialized). x"),
            "CKR_CRYPTOKI_NOT_INITIALIZED",
            errors.BackendUnavailableError,
        ),
        (p11.PKCS11Error("Unmapped error code 0x80000030"), "return value 0x80000030", errors.BackendUnavailableError),
        (p11.PKCS11Error("Unmapped error code 0x68"), "CKR_KEY_FUNCTION_NOT_PERMITTED", errors.BackendAccessError),
        (p11.PKCS11Error("Unmapped error code 0x140"), "CKR_CURVE_NOT_SUPPORTED", errors.UnsupportedAlgorithmError),
        (p11.MechanismInvalid(), "CKR_MECHANISM_INVALID", errors.UnsupportedAlgorithmError),
        (p11.SessionCount(), "CKR_SESSION_COUNT", errors.BackendThrottledError),
        (p11.DeviceMemory(), "CKR_DEVICE_MEMORY", errors.BackendFullError),
        (p11.TokenWriteProtected(), "CKR_TOKEN_WRITE_PROTECTED", errors.BackendAccessError),
        (p11.AttributeReadOnly(), "CKR_ATTRIBUTE_READ_ONLY", errors.BackendError),
        (p11.PKCS11Error("something"), "an unknown error", errors.BackendError),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_return_values(error: p11.PKCS11Error, name: str, expected: type[errors.BackendError]) -> None:
    assert code(error) == name
    translated = translate(error, "cannot sign")
    assert type(translated) is expected
    assert str(translated).startswith(f"cannot sign: {name}")
    assert is_broken(error) == (expected is errors.BackendUnavailableError)
