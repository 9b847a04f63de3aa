"""SigningService over a real socket."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator

import grpc
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet, OKPKey
from service_conftest import Refusal, Running, refused
from support import START, signature_base

from backends.api import Algorithm
from backends.encoding import verify_raw
from keyd.core.jwk import to_public_key
from keyd.core.profile import BUILT_IN
from keyd.v1 import key_service_pb2 as keys_pb
from keyd.v1 import signing_service_pb2 as pb
from keyd.v1 import types_pb2

HTTP, JWT = types_pb2.PURPOSE_HTTP, types_pb2.PURPOSE_JWT


async def create(running: Running, name: str = "agent", **spec: object) -> types_pb2.Key:
    request = keys_pb.CreateKeyRequest(spec=keys_pb.KeySpec(name=name, **spec))  # type: ignore[arg-type]
    return (await running.keys.CreateKey(request)).key


@pytest.mark.parametrize("algorithm", list(Algorithm), ids=lambda a: a.value)
async def test_a_base_signed_with_each_algorithm_verifies_with_the_published_key(running: Running, algorithm: Algorithm) -> None:
    key = await create(running, algorithm=types_pb2.Algorithm.Value(f"ALGORITHM_{algorithm.value.upper()}"))
    base = signature_base(START, keyid=key.versions[0].kid)
    response = await running.signing.Sign(pb.SignRequest(key="agent", signature_base=base))
    assert (response.kid, response.version) == (key.versions[0].kid, 1)
    assert (response.http_algorithm, response.jose_algorithm) == (algorithm.http_name, algorithm.value)
    document = json.loads((await running.signing.GetJWKS(pb.GetJWKSRequest())).document)
    public = to_public_key(json.dumps(document["keys"][0]))
    verify_raw(public, algorithm, response.signature, base)
    with pytest.raises(Exception, match=r"^$"):  # InvalidSignature has no text
        verify_raw(public, algorithm, response.signature, base + b" ")


@pytest.mark.parametrize(
    ("base", "code", "reason"),
    [
        (b"not a base", grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED"),
        (b"eyJhbGciOiJFZDI1NTE5In0.e30", grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED"),
        (signature_base(START) + b"\n", grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED"),
        (signature_base(START).replace(b"GET", b"GE\rT"), grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED"),
        (signature_base(START).replace(b"GET", b"GE\0T"), grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED"),
        (signature_base(START)[:-11], grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED"),
        (b'"@method": GET\n' + signature_base(START), grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED"),
        (signature_base(START - 60), grpc.StatusCode.PERMISSION_DENIED, "FRESHNESS"),
        (signature_base(START + 60), grpc.StatusCode.PERMISSION_DENIED, "FRESHNESS"),
        (signature_base(START, extra=f";expires={int(START) + 3000}"), grpc.StatusCode.PERMISSION_DENIED, "FRESHNESS"),
        (signature_base(START, extra=';alg="rsa-pss-sha512"'), grpc.StatusCode.PERMISSION_DENIED, "ALGORITHM"),
        (f'"@signature-params": ();created={int(START)}'.encode(), grpc.StatusCode.PERMISSION_DENIED, "COVERAGE"),
        (signature_base(START, keyid="somebody-else"), grpc.StatusCode.PERMISSION_DENIED, "KEYID"),
        (b'"x": ' + b"y" * 20_000, grpc.StatusCode.INVALID_ARGUMENT, "SIZE"),
    ],
)
async def test_bad_bases_are_refused_with_a_reason(running: Running, base: bytes, code: grpc.StatusCode, reason: str) -> None:
    await create(running)
    refusal = await refused(running.signing.Sign(pb.SignRequest(key="agent", signature_base=base)))
    assert (refusal.code, refusal.reason) == (code, reason)
    assert (await running.signing.Sign(pb.SignRequest(key="agent", signature_base=signature_base(START)))).signature


async def test_a_base_that_names_another_keys_kid_is_refused(running: Running) -> None:
    await create(running, "one")
    other = (await create(running, "two")).versions[0].kid
    base = signature_base(START, keyid=other)
    assert (await refused(running.signing.Sign(pb.SignRequest(key="one", signature_base=base)))).reason == "KEYID"
    assert (await running.signing.Sign(pb.SignRequest(key="two", signature_base=base))).kid == other


@pytest.mark.parametrize(
    ("spec", "request_", "reason"),
    [
        ({}, pb.SignRequest(key="agent"), "INVALID_ARGUMENT"),
        ({}, pb.SignRequest(key="nobody", signature_base=signature_base(START)), "NOT_FOUND"),
        ({}, pb.SignRequest(key="agent", message=b"m"), "PURPOSE"),
        ({}, pb.SignRequest(key="agent", kid="nope", signature_base=signature_base(START)), "NOT_FOUND"),
        ({"purposes": [JWT]}, pb.SignRequest(key="agent", signature_base=signature_base(START)), "PURPOSE"),
        ({"purposes": [types_pb2.PURPOSE_RAW]}, pb.SignRequest(key="agent", signature_base=signature_base(START)), "PURPOSE"),
        ({"purposes": [types_pb2.PURPOSE_RAW]}, pb.SignRequest(key="agent", message=b"x" * 65537), "SIZE"),
        (
            {},
            pb.SignRequest(key="agent", signature_base=signature_base(START, extra=';tag="http-message-signatures-directory"')),
            "PURPOSE",
        ),
    ],
)
async def test_requests_that_no_key_may_sign(
    running: Running, spec: dict[str, object], request_: pb.SignRequest, reason: str
) -> None:
    await create(running, **spec)
    refusal = await refused(running.signing.Sign(request_))
    assert refusal.reason == reason
    assert "example.com" not in refusal.message  # a base is never echoed


async def test_raw_keys_sign_anything(running: Running) -> None:
    await create(running, purposes=[types_pb2.PURPOSE_RAW])
    assert len((await running.signing.Sign(pb.SignRequest(key="agent", message=b"\0anything"))).signature) == 64


async def test_a_rotation_between_build_and_sign_does_not_fail_the_request(running: Running) -> None:
    old = (await create(running)).versions[0].kid
    prepared = pb.SignRequest(key="agent", signature_base=signature_base(START, keyid=old))
    rotated = await running.keys.RotateKey(keys_pb.RotateKeyRequest(name="agent", now=True))
    new = rotated.key.versions[1].kid
    assert (await running.signing.Sign(prepared)).kid == old
    running.clock.advance(301)
    late = signature_base(running.clock.time, keyid=old)
    refusal = await refused(running.signing.Sign(pb.SignRequest(key="agent", signature_base=late)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "KEY_STATE")
    assert refusal.metadata == {"active_kid": new}


async def test_a_batch_answers_each_request(running: Running) -> None:
    await create(running)
    good = pb.SignRequest(key="agent", signature_base=signature_base(START))
    bad = pb.SignRequest(key="nobody", signature_base=signature_base(START))
    results = (await running.signing.SignBatch(pb.SignBatchRequest(requests=[good, bad, good]))).results
    assert [result.WhichOneof("result") for result in results] == ["response", "error", "response"]
    assert (results[1].error.reason, results[1].error.code) == ("NOT_FOUND", grpc.StatusCode.NOT_FOUND.value[0])
    for size in (0, 257):
        assert (await refused(running.signing.SignBatch(pb.SignBatchRequest(requests=[good] * size)))).reason == "SIZE"


async def test_a_stream_answers_every_id(running: Running) -> None:
    await create(running)

    async def requests() -> AsyncIterator[pb.SignStreamRequest]:
        for number in range(300):
            key = "nobody" if number % 7 == 0 else "agent"
            yield pb.SignStreamRequest(id=number, request=pb.SignRequest(key=key, signature_base=signature_base(START)))

    answers = {answer.id: answer.result async for answer in running.signing.SignStream(requests())}
    assert sorted(answers) == list(range(300))
    assert all((result.WhichOneof("result") == "error") == (number % 7 == 0) for number, result in answers.items())


async def test_sign_jwt_verifies_with_joserfc_under_the_served_set(running: Running) -> None:
    await create(running, purposes=[JWT])
    request = pb.SignJWTRequest(key="agent", typ="aa-agent+jwt", claims='{"iss": "https://a.example", "n": 12345678901234567890}')
    request.lifetime.FromSeconds(600)
    token = (await running.signing.SignJWT(request)).token
    document = json.loads((await running.signing.GetJWKS(pb.GetJWKSRequest(key="agent"))).document)
    decoded = jwt.decode(token, KeySet.import_key_set(document), algorithms=["Ed25519"])
    assert decoded.header == {"alg": "Ed25519", "typ": "aa-agent+jwt", "kid": document["keys"][0]["kid"]}
    assert decoded.claims == {"iss": "https://a.example", "n": 12345678901234567890, "iat": START, "exp": START + 600}
    with pytest.raises(Exception, match="bad_signature"):
        jwt.decode(token, OKPKey.generate_key("Ed25519"), algorithms=["Ed25519"])


@pytest.mark.parametrize(
    ("typ", "claims", "lifetime", "reason"),
    [
        ("JWT", "[]", 60, "MALFORMED"),
        ("JWT", "{", 60, "MALFORMED"),
        ("JWT", '{"a":1,"a":2}', 60, "MALFORMED"),
        ("JWT", "{}", None, "FRESHNESS"),
        ("JWT", "{}", 86401, "FRESHNESS"),
        ("JWT", f'{{"exp":{int(START) - 1}}}', None, "FRESHNESS"),
        ("JWT", '{"exp":1}', 60, "INVALID_ARGUMENT"),
        ("", "{}", 60, "INVALID_ARGUMENT"),
        ("secevent+jwt", "{}", 60, "TAG"),
    ],
)
async def test_jwts_that_are_refused(running: Running, typ: str, claims: str, lifetime: int | None, reason: str) -> None:
    await create(running, purposes=[JWT])
    request = pb.SignJWTRequest(key="agent", typ=typ, claims=claims)
    if lifetime is not None:
        request.lifetime.FromSeconds(lifetime)
    assert (await refused(running.signing.SignJWT(request))).reason == reason


async def test_no_jwt_outlives_the_publication_of_its_key(running: Running) -> None:
    spec = keys_pb.KeySpec(name="agent", purposes=[JWT])
    spec.lifecycle.retention.FromSeconds(86400)
    await running.keys.CreateKey(keys_pb.CreateKeyRequest(spec=spec))
    # A profile that was made laxer after the key was.
    lax = dataclasses.replace(BUILT_IN["rfc9421"], max_jwt_lifetime=1e6)
    running.daemon.signer.profiles = {**running.daemon.signer.profiles, "rfc9421": lax}
    for lifetime, allowed in ((86400, True), (86401, False)):
        request = pb.SignJWTRequest(key="agent", typ="JWT", claims="{}")
        request.lifetime.FromSeconds(lifetime)
        if allowed:
            assert (await running.signing.SignJWT(request)).token
        else:
            assert (await refused(running.signing.SignJWT(request))).reason == "FRESHNESS"


async def test_get_key_tells_what_an_agent_needs(running: Running) -> None:
    created = await create(running)
    key = await running.signing.GetKey(pb.GetKeyRequest(key="agent"))
    assert (key.active.kid, key.http_algorithm, key.jose_algorithm) == (created.versions[0].kid, "ed25519", "Ed25519")
    assert json.loads(key.active.public_jwk)["kid"] == key.active.kid
    await running.keys.DisableKey(keys_pb.DisableKeyRequest(name="agent"))
    assert not (await running.signing.GetKey(pb.GetKeyRequest(key="agent"))).HasField("active")
    assert isinstance(await refused(running.signing.GetKey(pb.GetKeyRequest(key="nobody"))), Refusal)


async def test_watchers_learn_of_changes_by_call_and_by_clock(running: Running) -> None:
    await create(running)
    watch = running.signing.WatchKeys(pb.WatchKeysRequest(keys=["agent"]))
    updates = aiter(watch)
    assert len((await anext(updates)).key.versions) == 1
    await running.keys.RotateKey(keys_pb.RotateKeyRequest(name="agent"))
    waiting = (await asyncio.wait_for(anext(updates), 5)).key
    assert [v.state for v in waiting.versions] == [types_pb2.KEY_STATE_PRE_ACTIVATION, types_pb2.KEY_STATE_ACTIVE]
    running.clock.advance(24 * 3600)
    await create(running, "other")  # any change wakes the watchers
    assert (await asyncio.wait_for(anext(updates), 5)).key.active.version == 2
    watch.cancel()
    assert (await refused(anext(aiter(running.signing.WatchKeys(pb.WatchKeysRequest(keys=["nobody"])))))).reason == "NOT_FOUND"


async def test_signing_never_waits_for_the_database(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    await create(running)

    def broken(*_: object, **__: object) -> None:
        raise AssertionError("the signing path touched the store")

    store = running.daemon.keyring._store
    for method in ("load", "begin_version", "finish_version", "update"):
        monkeypatch.setattr(store, method, broken)
    for transaction in ("reading", "writing"):
        monkeypatch.setattr(store._database, transaction, broken)
    assert (await running.signing.Sign(pb.SignRequest(key="agent", signature_base=signature_base(START)))).signature
    assert (await running.signing.GetJWKS(pb.GetJWKSRequest())).document
