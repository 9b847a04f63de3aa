"""The audit trail of a whole daemon: what is recorded, and what its dedicated key can be used for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import grpc
import pytest
from service_conftest import Running, refused
from support import signature_base

from keyd.core.audit.checkpoints import compromised_of, keys_of
from keyd.core.audit.verify import Expected, Verifier
from keyd.core.store.offline import audit_facts
from keyd.v1 import audit_service_pb2 as pb
from keyd.v1 import audit_service_pb2_grpc, signing_service_pb2, types_pb2
from keyd.v1 import key_service_pb2 as keys_pb


def records(running: Running) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(running.directory, "state/audit/audit.jsonl").read_text().splitlines()]


async def head(running: Running) -> pb.GetHeadResponse:
    async with grpc.aio.insecure_channel(running.address) as channel:
        return await audit_service_pb2_grpc.AuditServiceStub(channel).GetHead(pb.GetHeadRequest())  # type: ignore[no-any-return]


async def make_key(running: Running) -> None:
    await running.keys.CreateKey(keys_pb.CreateKeyRequest(spec=keys_pb.KeySpec(name="agent")))


async def test_a_signature_has_its_record_and_a_refusal_has_one(running: Running) -> None:
    await make_key(running)
    base = signature_base(running.clock.time)
    signed = await running.signing.Sign(signing_service_pb2.SignRequest(key="agent", signature_base=base))
    await refused(running.signing.Sign(signing_service_pb2.SignRequest(key="agent", signature_base=b"secret-token")))
    allowed, denied = [record for record in records(running) if record["operation"] == "sign"]
    assert (allowed["kid"], allowed["decision"], allowed["authority"]) == (signed.kid, "allow", "example.com")
    assert allowed["sha256"] == hashlib.sha256(base).hexdigest()
    assert (denied["decision"], denied["reason"]) == ("deny", "MALFORMED")
    text = json.dumps(records(running))
    assert "secret-token" not in text
    assert "signature-params" not in text


async def test_without_a_record_there_is_no_signature(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    await make_key(running)
    kept = running.daemon.audit
    assert kept is not None

    def full(data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(kept.trail._file, "append", full)
        refusal = await refused(
            running.signing.Sign(signing_service_pb2.SignRequest(key="agent", signature_base=signature_base(running.clock.time)))
        )
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "AUDIT_UNAVAILABLE")
        refusal = await refused(head(running))  # that is recorded as well, or not answered
        assert (refusal.reason, "No space left" in refusal.message) == ("AUDIT_UNAVAILABLE", True)
    await running.signing.Sign(signing_service_pb2.SignRequest(key="agent", signature_base=signature_base(running.clock.time)))
    assert (await head(running)).failure == ""


async def test_the_head_and_the_key_verify_the_files(running: Running) -> None:
    await make_key(running)
    kept = running.daemon.audit
    assert kept is not None
    assert await kept.checkpointer.make()
    await running.keys.RotateKey(keys_pb.RotateKeyRequest(name="keyd-audit", now=True))
    await running.signing.Sign(signing_service_pb2.SignRequest(key="agent", signature_base=signature_base(running.clock.time)))
    assert await kept.checkpointer.make()
    answer = await head(running)
    assert answer.enabled
    assert answer.directory == f"{running.directory}/state/audit"
    expected = [Expected(answer.seq, answer.digest, "the daemon")]
    expected += [Expected(row.seq, row.digest, "the database") for row in answer.checkpoints]
    keys = keys_of(json.loads(answer.public_jwks))
    assert len(keys) == 2, "every version of the key"
    report = Verifier(keys=keys, expected=expected, begins=1).run([Path(answer.directory, "audit.jsonl")])
    assert report.sound
    assert report.checkpoints == 2
    assert report.signed == answer.seq - 2  # then come the checkpoint itself, and the record of the question


async def test_a_compromised_audit_key_signs_for_nothing(running: Running) -> None:
    kept = running.daemon.audit
    assert kept is not None
    assert await kept.checkpointer.make()
    await running.keys.RotateKey(keys_pb.RotateKeyRequest(name="keyd-audit", now=True))
    await running.keys.CompromiseVersion(keys_pb.CompromiseVersionRequest(name="keyd-audit", version=1, reason="leaked"))
    path = Path(running.directory, "state/audit/audit.jsonl")
    documents = [json.loads((await head(running)).public_jwks), audit_facts(Path(running.directory, "state/keyd.db")).public_jwks]
    for document in documents:
        assert len(compromised_of(document)) == 1
        report = Verifier(keys=keys_of(document), compromised=compromised_of(document)).run([path])
        assert (report.sound, report.signed) == (True, None)
        assert "1 checkpoints are of a compromised key" in "\n".join(report.notes)
    assert await kept.checkpointer.make()
    report = Verifier(keys=keys_of(documents[0]), compromised=compromised_of(documents[0])).run([path])
    assert report.signed == report.last - 1  # type: ignore[operator]


async def test_the_audit_key_is_nobodys_to_use(running: Running) -> None:
    await make_key(running)
    kept = running.daemon.audit
    assert kept is not None
    assert await kept.checkpointer.make()
    key = (await running.keys.GetKey(keys_pb.KeyServiceGetKeyRequest(name="keyd-audit"))).key
    assert list(key.purposes) == [types_pb2.PURPOSE_AUDIT]
    kids = {
        jwk["kid"] for jwk in json.loads((await running.signing.GetJWKS(signing_service_pb2.GetJWKSRequest())).document)["keys"]
    }
    assert len(kids) == 1
    assert key.versions[0].kid not in kids
    now = running.clock.time
    claims = json.dumps({"seq": 1, "exp": int(now) + 60})
    for call in (
        running.signing.Sign(signing_service_pb2.SignRequest(key="keyd-audit", signature_base=signature_base(now))),
        running.signing.Sign(signing_service_pb2.SignRequest(key="keyd-audit", message=b"anything")),
        running.signing.Sign(signing_service_pb2.SignRequest(key="keyd-audit", jws_signing_input=b"eyJhbGciOiJFZDI1NTE5In0.e30")),
        running.signing.SignJWT(signing_service_pb2.SignJWTRequest(key="keyd-audit", typ="keyd-audit+jwt", claims=claims)),
    ):
        assert (await refused(call)).reason == "PURPOSE"
    for purposes in ([types_pb2.PURPOSE_AUDIT], [types_pb2.PURPOSE_AUDIT, types_pb2.PURPOSE_HTTP]):
        spec = keys_pb.KeySpec(name="mine", purposes=purposes, unpublished=True)
        for refusal in (
            await refused(running.keys.CreateKey(keys_pb.CreateKeyRequest(spec=spec))),
            await refused(running.keys.ImportKey(keys_pb.ImportKeyRequest(spec=spec, private_jwk=b"{}"))),
        ):
            assert refusal.reason in ("INVALID_ARGUMENT", "MALFORMED")
        assert (
            "keyd makes its audit key itself"
            in (await refused(running.keys.CreateKey(keys_pb.CreateKeyRequest(spec=spec)))).message
        )


async def test_an_empty_jwk_set_stays_empty(running: Running) -> None:
    assert running.daemon.audit is not None
    assert await running.daemon.audit.checkpointer.make()
    document = (await running.signing.GetJWKS(signing_service_pb2.GetJWKSRequest())).document
    assert json.loads(document) == {"keys": []}


async def test_a_key_of_that_name_that_is_another_is_not_used(running: Running) -> None:
    await running.keys.CreateKey(keys_pb.CreateKeyRequest(spec=keys_pb.KeySpec(name="keyd-audit")))
    assert running.daemon.audit is not None
    assert not await running.daemon.audit.checkpointer.make()
    assert not [record for record in records(running) if record["operation"] == "checkpoint"]
