import base64
import copy
import json
import pickle

import jwt
import pytest
import requests
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from http_message_signatures import HTTPMessageSigner, HTTPMessageVerifier, MappingKeyResolver, algorithms
from http_message_signatures import InvalidSignature as InvalidHTTPSignature
from joserfc import jwk as jose
from joserfc import jws
from joserfc.errors import BadSignatureError

from keyd import client as keyd
from keyd.client.inputs import InputKind, kind_of
from keyd.client.keys import public_key

ALGORITHMS = {
    "Ed25519": (keyd.Ed25519Key, ed25519.Ed25519PrivateKey, jose.OKPKey, algorithms.ED25519),
    "ES256": (keyd.ECKey, ec.EllipticCurvePrivateKey, jose.ECKey, algorithms.ECDSA_P256_SHA256),
    "ES384": (keyd.ECKey, ec.EllipticCurvePrivateKey, jose.ECKey, algorithms.ECDSA_P384_SHA384),
    "PS512": (keyd.RSAKey, rsa.RSAPrivateKey, jose.RSAKey, algorithms.RSA_PSS_SHA512),
    "RS256": (keyd.RSAKey, rsa.RSAPrivateKey, jose.RSAKey, algorithms.RSA_V1_5_SHA256),
}
PSS512 = padding.PSS(padding.MGF1(hashes.SHA512()), 64)


@pytest.fixture(params=ALGORITHMS)
def algorithm(request, daemon) -> str:
    daemon.add("k", request.param)
    return request.param


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b'"@method": GET', InputKind.SIGNATURE_BASE),
        (b'"', InputKind.SIGNATURE_BASE),
        (b"eyJh.eyJi", InputKind.JWS_SIGNING_INPUT),
        (b"eyJh.", InputKind.JWS_SIGNING_INPUT),
        (b"eyJh", InputKind.MESSAGE),
        (b"eyJh.b.c", InputKind.MESSAGE),
        (b"eyJh.b\n", InputKind.MESSAGE),
        (b"eyJh=.b", InputKind.MESSAGE),
        (b' "x', InputKind.MESSAGE),
        (b"", InputKind.MESSAGE),
    ],
)
def test_the_form_says_the_kind(data: bytes, kind: InputKind) -> None:
    assert kind_of(data) is kind


def test_identity(daemon, client, algorithm) -> None:
    key = client.private_key("k")
    assert isinstance(key, ALGORITHMS[algorithm][0])
    assert isinstance(key, ALGORITHMS[algorithm][1])
    assert (key.name, key.kid, key.jose_algorithm) == ("k", "k-1", algorithm)
    assert repr(key) == f"<{type(key).__name__} 'k' kid 'k-1'>"
    assert key.public_key() == daemon.public_keys()["k-1"]
    assert copy.copy(key) is key
    assert copy.deepcopy([key])[0] is key


def test_the_private_key_stays(client, algorithm) -> None:
    key = client.private_key("k")
    with pytest.raises(TypeError, match="stays in keyd"):
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(TypeError, match="stays in keyd"):
        key.private_bytes(encoding=Encoding.PEM, format=PrivateFormat.PKCS8, encryption_algorithm=NoEncryption())
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(key, protocol)
    for refusal in ("private_bytes_raw", "private_numbers"):
        with pytest.raises(TypeError, match="stays in keyd"):
            getattr(key, refusal)()
    for refusal in ("exchange", "decrypt"):
        if hasattr(ALGORITHMS[algorithm][1], refusal):
            with pytest.raises(TypeError, match="keyd does no"):
                getattr(key, refusal)(b"", None)


def test_a_rotation_does_not_move_the_key(daemon, client) -> None:
    key = client.private_key("agent")
    daemon.rotate("agent", grace=True)
    key.public_key().verify(key.sign(b'"x'), b'"x')
    daemon.rotate("agent")
    with pytest.raises(keyd.KeyStateError) as caught:
        key.sign(b'"x')
    assert caught.value.active_kid == "agent-3"
    assert client.private_key("agent").kid == "agent-3"


def test_a_disabled_key_has_no_object(daemon, client) -> None:
    daemon.disabled = True
    with pytest.raises(keyd.KeyStateError):
        client.private_key("agent")


def test_pyjwt(daemon, client, algorithm) -> None:
    key = client.private_key("k")
    name = "EdDSA" if algorithm == "Ed25519" else algorithm
    token = jwt.encode({"sub": "x"}, key, algorithm=name, headers={"kid": key.kid})
    assert jwt.decode(token, key.public_key(), algorithms=[name]) == {"sub": "x"}
    assert daemon.requests[-1].WhichOneof("input") == "jws_signing_input"
    assert daemon.requests[-1].kid == "k-1"
    header, _, signature = token.split(".")
    forged = ".".join((header, base64.urlsafe_b64encode(b'{"sub":"y"}').decode().rstrip("="), signature))
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(forged, key.public_key(), algorithms=[name])


def test_joserfc(daemon, client, algorithm) -> None:
    """joserfc takes the key from ``get_op_key``; one method is all that it needs."""
    remote = client.private_key("k")
    kind = ALGORITHMS[algorithm][2]

    class RemoteKey(kind):
        def get_op_key(self, operation: str):
            return remote if operation == "sign" else super().get_op_key(operation)

    public = kind.import_key(daemon.versions["k"][0].jwk())
    pem = remote.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    token = jws.serialize_compact({"alg": algorithm}, b"payload", RemoteKey.import_key(pem), algorithms=[algorithm])
    assert jws.deserialize_compact(token, public, algorithms=[algorithm]).payload == b"payload"
    assert daemon.requests[-1].WhichOneof("input") == "jws_signing_input"
    with pytest.raises(BadSignatureError):
        jws.deserialize_compact(token.replace(".cGF5", ".cGF6"), public, algorithms=[algorithm])


def test_http_message_signatures(daemon, client, algorithm) -> None:
    key = client.private_key("k")
    resolver = MappingKeyResolver(public_keys=daemon.public_keys(), private_keys={key.kid: key})
    message = requests.Request("GET", "https://a.example/x?y=1", headers={"x-a": "1"}).prepare()
    signer = HTTPMessageSigner(signature_algorithm=ALGORITHMS[algorithm][3], key_resolver=resolver)
    signer.sign(message, key_id=key.kid, covered_component_ids=("@method", "@authority", "x-a"))
    assert daemon.requests[-1].WhichOneof("input") == "signature_base"
    verifier = HTTPMessageVerifier(signature_algorithm=ALGORITHMS[algorithm][3], key_resolver=resolver)
    assert verifier.verify(message)[0].parameters["keyid"] == "k-1"
    message.headers["x-a"] = "2"
    with pytest.raises(InvalidHTTPSignature):
        verifier.verify(message)


def test_requests_http_signature(daemon, client, algorithm) -> None:
    from requests_http_signature import HTTPSignatureAuth

    key = client.private_key("k")
    resolver = MappingKeyResolver(public_keys=daemon.public_keys(), private_keys={key.kid: key})
    auth = HTTPSignatureAuth(signature_algorithm=ALGORITHMS[algorithm][3], key_id=key.kid, key_resolver=resolver)
    message = requests.Request("POST", "https://a.example/x", data=b"body", auth=auth).prepare()
    HTTPSignatureAuth.verify(message, signature_algorithm=ALGORITHMS[algorithm][3], key_resolver=resolver)
    message.body = b"other"
    with pytest.raises(InvalidHTTPSignature):
        HTTPSignatureAuth.verify(message, signature_algorithm=ALGORITHMS[algorithm][3], key_resolver=resolver)


def test_ed25519_signs_any_buffer(client) -> None:
    key = client.private_key("agent")
    for data in (b'"x', bytearray(b'"x'), memoryview(b'"x')):
        key.public_key().verify(key.sign(data), b'"x')
    with pytest.raises(InvalidSignature):
        key.public_key().verify(key.sign(b'"x'), b'"y')


@pytest.mark.parametrize(("name", "size", "curve"), [("ES256", 256, ec.SECP256R1), ("ES384", 384, ec.SECP384R1)])
def test_ec_has_the_librarys_contract(daemon, client, name, size, curve) -> None:
    daemon.add("k", name)
    key = client.private_key("k")
    good = hashes.SHA256() if name == "ES256" else hashes.SHA384()
    wrong = hashes.SHA384() if name == "ES256" else hashes.SHA256()
    assert (key.key_size, type(key.curve)) == (size, curve)
    signature = key.sign(b'"x', ec.ECDSA(good))
    key.public_key().verify(signature, b'"x', ec.ECDSA(good))
    with pytest.raises(InvalidSignature):
        key.public_key().verify(signature, b'"y', ec.ECDSA(good))
    asked = len(daemon.calls)
    for refused in (ec.ECDSA(wrong), ec.ECDSA(utils.Prehashed(good)), ec.ECDSA(good, deterministic_signing=True), None):
        with pytest.raises(UnsupportedAlgorithm, match=f"key 'k' signs {name} only"):
            key.sign(b'"x', refused)
    assert len(daemon.calls) == asked


def test_ec_refuses_a_signature_of_the_wrong_length(daemon, client) -> None:
    daemon.add("k", "ES256")
    key = client.private_key("k")
    daemon.algorithms["k"] = "Ed25519"
    daemon.versions["k"][0].private = rsa.generate_private_key(65537, 2048)
    daemon.algorithms["k"] = "RS256"
    with pytest.raises(ValueError, match="256 octets instead of 64"):
        key.sign(b'"x', ec.ECDSA(hashes.SHA256()))


PADDINGS = [
    ("PS512", PSS512, hashes.SHA512()),
    ("PS512", padding.PSS(padding.MGF1(hashes.SHA512()), padding.PSS.DIGEST_LENGTH), hashes.SHA512()),
    ("RS256", padding.PKCS1v15(), hashes.SHA256()),
    (None, padding.PSS(padding.MGF1(hashes.SHA512()), padding.PSS.MAX_LENGTH), hashes.SHA512()),
    (None, padding.PSS(padding.MGF1(hashes.SHA512()), 32), hashes.SHA512()),
    (None, padding.PSS(padding.MGF1(hashes.SHA256()), 64), hashes.SHA512()),
    (None, PSS512, hashes.SHA256()),
    (None, PSS512, utils.Prehashed(hashes.SHA512())),
    (None, padding.PKCS1v15(), hashes.SHA512()),
    (None, padding.PKCS1v15(), utils.Prehashed(hashes.SHA256())),
    (None, padding.PKCS1v15(), utils.NoDigestInfo()),
    (None, padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None), hashes.SHA256()),
]


@pytest.mark.parametrize("name", ["PS512", "RS256"])
def test_rsa_has_one_padding(daemon, client, name) -> None:
    daemon.add("k", name)
    key = client.private_key("k")
    assert key.key_size == 2048
    for maps_to, scheme, digest in PADDINGS:
        if maps_to == name:
            signature = key.sign(b'"x', scheme, digest)
            key.public_key().verify(signature, b'"x', scheme, digest)
            with pytest.raises(InvalidSignature):
                key.public_key().verify(signature, b'"y', scheme, digest)
        else:
            asked = len(daemon.calls)
            with pytest.raises(UnsupportedAlgorithm, match=f"key 'k' signs {name} only"):
                key.sign(b'"x', scheme, digest)
            assert len(daemon.calls) == asked


@pytest.mark.parametrize(
    ("algorithm", "jwk"),
    [
        ("Ed25519", {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}),
        ("Ed25519", {"kty": "OKP", "crv": "X25519", "x": "A" * 43}),
        ("Ed25519", {"kty": "OKP", "crv": "Ed25519", "x": "AA"}),
        ("Ed25519", {"kty": "OKP", "crv": "Ed25519"}),
        ("Ed25519", {"kty": "OKP", "crv": "Ed25519", "x": 7}),
        ("Ed25519", {"kty": "OKP", "crv": "Ed25519", "x": "!" * 43}),
        ("ES256", {"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"}),
        ("ES256", {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}),
        ("RS256", {"kty": "RSA", "e": "AQAB"}),
        ("HS256", {"kty": "oct", "k": "AA"}),
        ("Ed25519", {}),
    ],
)
def test_public_jwks_that_do_not_fit(algorithm: str, jwk: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="public JWK is not"):
        public_key(json.loads(json.dumps(jwk)), algorithm)
