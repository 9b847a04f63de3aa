"""KeyService over a real socket."""

from __future__ import annotations

import json

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from service_conftest import Running, refused
from support import START, signature_base

from keyd.v1 import key_service_pb2 as pb
from keyd.v1 import signing_service_pb2, types_pb2


def pem(key: object, encryption: object = None) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())  # type: ignore[attr-defined, no-any-return]


def imported(name: str = "agent", **fields: object) -> pb.ImportKeyRequest:
    spec = fields.pop("spec", {})
    return pb.ImportKeyRequest(spec=pb.KeySpec(name=name, **spec), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["pkcs8_pem", "private_jwk"])
@pytest.mark.parametrize("kind", ["ed25519", "p256", "p384", "rsa"])
async def test_import_keeps_the_public_key_and_the_kid_that_verifiers_know(running: Running, form: str, kind: str) -> None:
    key: OKPKey | ECKey | RSAKey = {
        "ed25519": lambda: OKPKey.generate_key("Ed25519"),
        "p256": lambda: ECKey.generate_key("P-256"),
        "p384": lambda: ECKey.generate_key("P-384"),
        "rsa": lambda: RSAKey.generate_key(2048),
    }[kind]()
    material = key.as_pem(private=True) if form == "pkcs8_pem" else json.dumps(key.as_dict(private=True)).encode()
    algorithm = types_pb2.ALGORITHM_RS256 if kind == "rsa" else types_pb2.ALGORITHM_UNSPECIFIED
    request = imported(kid="https://agent.example#key-1", spec={"algorithm": algorithm}, **{form: material})
    version = (await running.keys.ImportKey(request)).key.versions[0]
    assert version.kid == "https://agent.example#key-1"
    assert version.thumbprint == key.thumbprint()
    base = signature_base(START, keyid=version.kid)
    assert (await running.signing.Sign(signing_service_pb2.SignRequest(key="agent", signature_base=base))).signature


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        (imported(), "set one of"),
        (imported(pkcs8_pem=b"junk"), "not a PKCS#8"),
        (imported(private_jwk=b"junk"), "not a private JWK"),
        (imported(private_jwk=b"[" * 100_000), "not a private JWK"),
        (imported(private_jwk=json.dumps(OKPKey.generate_key("Ed25519").as_dict(private=False)).encode()), "public key"),
        (imported(private_jwk=json.dumps(OctKey.generate_key().as_dict(private=True)).encode()), "not a private JWK"),
        (imported(pkcs8_pem=pem(ed25519.Ed25519PrivateKey.generate(), BestAvailableEncryption(b"x"))), "encrypted"),
        (imported(pkcs8_pem=pem(ec.generate_private_key(ec.SECP256K1()))), "another kind"),
        (imported(pkcs8_pem=pem(rsa.generate_private_key(65537, 1024))), "2048 are the least"),
        (imported(pkcs8_pem=pem(rsa.generate_private_key(65537, 2048))), "PS512 or RS256"),
        (
            imported(pkcs8_pem=pem(ed25519.Ed25519PrivateKey.generate()), spec={"algorithm": types_pb2.ALGORITHM_ES256}),
            "for Ed25519",
        ),
        (imported(pkcs8_pem=pem(ed25519.Ed25519PrivateKey.generate()), kid="k" * 256), "255 characters"),
    ],
)
async def test_material_that_is_not_taken(running: Running, request_: pb.ImportKeyRequest, complaint: str) -> None:
    refusal = await refused(running.keys.ImportKey(request_))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert complaint in refusal.message
    assert not (await running.keys.ListKeys(pb.ListKeysRequest())).keys


async def test_imported_material_is_nowhere_in_the_clear(running: Running) -> None:
    secret = ed25519.Ed25519PrivateKey.generate()
    await running.keys.ImportKey(imported(pkcs8_pem=pem(secret)))
    raw = secret.private_bytes_raw()
    files = [path for path in running.directory.rglob("*") if path.is_file()]
    assert len(files) >= 3
    assert not [path for path in files if raw in path.read_bytes()]


async def test_list_pages_by_name(running: Running) -> None:
    for name in ("c", "a", "b"):
        await running.keys.CreateKey(pb.CreateKeyRequest(spec=pb.KeySpec(name=name)))
    first = await running.keys.ListKeys(pb.ListKeysRequest(page_size=2))
    second = await running.keys.ListKeys(pb.ListKeysRequest(page_size=2, page_token=first.next_page_token))
    assert ([k.name for k in first.keys], [k.name for k in second.keys], second.next_page_token) == (["a", "b"], ["c"], "")
    assert (await refused(running.keys.ListKeys(pb.ListKeysRequest(page_size=-1)))).reason == "INVALID_ARGUMENT"


async def test_a_key_through_its_life(running: Running) -> None:
    name = "agent"
    await running.keys.CreateKey(pb.CreateKeyRequest(spec=pb.KeySpec(name=name, kid_format=types_pb2.KID_FORMAT_NAME_VERSION)))
    rotated = await running.keys.RotateKey(pb.RotateKeyRequest(name=name))
    assert (rotated.version, list(rotated.warnings)) == (2, [])
    refusal = await refused(running.keys.RotateKey(pb.RotateKeyRequest(name=name)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "KEY_STATE")
    assert list((await running.keys.RotateKey(pb.RotateKeyRequest(name=name, now=True))).warnings)
    compromised = await running.keys.CompromiseVersion(pb.CompromiseVersionRequest(name=name, version=2, reason="leak"))
    assert [types_pb2.KeyState.Name(v.state) for v in compromised.key.versions] == [
        "KEY_STATE_DEACTIVATED",
        "KEY_STATE_COMPROMISED",
        "KEY_STATE_ACTIVE",
    ]
    destroyed = await running.keys.DestroyVersion(pb.DestroyVersionRequest(name=name, version=2))
    assert destroyed.key.versions[1].state == types_pb2.KEY_STATE_DESTROYED
    assert (await running.keys.DisableKey(pb.DisableKeyRequest(name=name))).key.HasField("disable_time")
    assert not (await running.keys.EnableKey(pb.EnableKeyRequest(name=name))).key.HasField("disable_time")
    shown = (await running.keys.GetKey(pb.KeyServiceGetKeyRequest(name=name))).key
    assert [v.kid for v in shown.versions] == ["agent-1", "agent-2", "agent-3"]
    assert shown.versions[1].compromise_reason == "leak"


async def test_a_cancelled_call_leaves_a_whole_key_or_none(running: Running) -> None:
    call = running.keys.CreateKey(pb.CreateKeyRequest(spec=pb.KeySpec(name="agent", algorithm=types_pb2.ALGORITHM_PS512)))
    call.cancel()
    await running.keys.CreateKey(pb.CreateKeyRequest(spec=pb.KeySpec(name="other")))  # changes come one at a time
    store = running.daemon.keyring._store.load()
    assert not store.intents
    assert {version.key for version in store.versions} == {key.name for key in store.keys}


async def test_unknown_enum_values_are_refused(running: Running) -> None:
    for spec in ({"algorithm": 99}, {"purposes": [99]}, {"purposes": [0]}, {"kid_format": 99}):
        refusal = await refused(running.keys.CreateKey(pb.CreateKeyRequest(spec=pb.KeySpec(name="agent", **spec))))  # type: ignore[arg-type]
        assert refusal.reason == "INVALID_ARGUMENT"


@pytest.mark.parametrize("asked", [False, True])
async def test_what_others_may_use_is_not_rotated_or_destroyed_unless_somebody_says_so(running: Running, asked: bool) -> None:
    periods = {"rotation_period": {"seconds": 864000}, "destroy_after": {"seconds": 1}} if asked else {}
    material = OKPKey.generate_key("Ed25519").as_pem(private=True)
    key = (await running.keys.ImportKey(imported(pkcs8_pem=material, spec={"lifecycle": periods}))).key
    assert [key.lifecycle.HasField(name) for name in ("rotation_period", "destroy_after")] == [asked, asked]


async def test_what_keyd_makes_is_rotated_and_destroyed_in_time(running: Running) -> None:
    key = (await running.keys.CreateKey(pb.CreateKeyRequest(spec=pb.KeySpec(name="agent")))).key
    assert (key.lifecycle.rotation_period.seconds, key.lifecycle.destroy_after.seconds) == (30 * 86400, 30 * 86400)
    hidden = (await running.keys.CreateKey(pb.CreateKeyRequest(spec=pb.KeySpec(name="hidden", unpublished=True)))).key
    assert [hidden.lifecycle.HasField(name) for name in ("rotation_period", "destroy_after")] == [False, True]
