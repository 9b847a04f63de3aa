"""What changes while a call is under way: keys, grants, and callers that go away."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from guarded import ALICE, BOB, GRANTS, ROOT, House, reason
from support import new_key

from keyd.core.model import KidFormat
from keyd.core.policy import Allowance, Policy
from keyd.core.runner import BackendRunner
from keyd.v1 import key_service_pb2 as keys_pb

ONE_AT_A_TIME = Allowance(max_signatures=1)


class Gate:
    """Holds every backend call until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began = asyncio.Event()
        self.open = asyncio.Event()
        inner = BackendRunner.sign

        async def sign(runner: BackendRunner, *args: Any) -> bytes:
            self.began.set()
            await self.open.wait()
            return await inner(runner, *args)

        monkeypatch.setattr(BackendRunner, "sign", sign)
        monkeypatch.setattr(BackendRunner, "signs_inline", lambda *_: False)  # or it is not asked to wait


async def outcomes(house: House, gate: Gate, calls: list[asyncio.Task[Any]]) -> list[str | None]:
    gate.open.set()
    async with asyncio.timeout(20):
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert len(house.guard.turns) == 0
    assert sorted(str(d.reason) for d in house.audit.decisions) == sorted(
        str(getattr(result, "reason", None)) for result in results
    )
    return [getattr(result, "reason", None) for result in results]


class TestSignaturesThatWait:
    @pytest.mark.parametrize("change", ["compromise", "disable"])
    async def test_none_leaves_once_its_key_is_stopped(self, house: House, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
        house.guard.policy = Policy(GRANTS, allowance=ONE_AT_A_TIME)
        gate = Gate(monkeypatch)
        calls = [asyncio.create_task(house.sign()) for _ in range(3)]  # one is with the backend, two wait
        await gate.began.wait()
        if change == "compromise":
            await house.ring.compromise("shop-1", 1, "stolen")
        else:
            await house.ring.set_enabled("shop-1", False)
        assert await outcomes(house, gate, calls) == ["KEY_STATE"] * 3

    async def test_none_leaves_once_its_grant_is_gone(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        house.guard.policy = Policy(GRANTS, allowance=ONE_AT_A_TIME)
        gate = Gate(monkeypatch)
        calls = [asyncio.create_task(house.sign()) for _ in range(2)]
        await gate.began.wait()
        house.guard.policy = Policy([replace(GRANTS[0], authorities=("elsewhere.example",)), GRANTS[1]])
        assert await outcomes(house, gate, calls) == ["AUTHORITY"] * 2

    async def test_changes_of_other_keys_and_grants_are_no_matter(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        gate = Gate(monkeypatch)
        calls = [asyncio.create_task(house.sign()) for _ in range(2)]
        await gate.began.wait()
        await house.ring.set_enabled("other", False)
        house.guard.policy = Policy([replace(GRANTS[0], name="renamed"), GRANTS[1]])
        assert await outcomes(house, gate, calls) == [None, None]
        assert {decision.grant for decision in house.audit.decisions} == {"renamed"}


class TestOperators:
    async def test_how_a_change_ended_is_recorded_even_when_its_caller_is_gone(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        began, proceed, inner = asyncio.Event(), asyncio.Event(), house.ring._rotate

        async def slow(*args: Any) -> Any:
            began.set()
            await proceed.wait()
            return await inner(*args)

        monkeypatch.setattr(house.ring, "_rotate", slow)
        rotating = asyncio.create_task(house.operate("rotate_key", keys_pb.RotateKeyRequest(name="shop-1")))
        await began.wait()
        rotating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await rotating
        proceed.set()
        async with asyncio.timeout(20):
            await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})
        assert len(house.ring.snapshot.keys["shop-1"].versions) == 2
        assert [(d.reason, d.detail) for d in house.audit.decisions] == [(None, "asked for"), (None, "done, version 2")]

    async def test_an_operator_who_lost_its_grant_is_no_first_one(self, house: House) -> None:
        request, dual = keys_pb.DisableKeyRequest(name="shop-1"), frozenset({"disable_key"})
        house.guard.policy = Policy(GRANTS, dual_control=dual)
        assert await reason(house.operate("disable_key", request, ALICE)) == "APPROVAL_NEEDED"
        without_alice = replace(GRANTS[1], principals=GRANTS[1].principals[1:])
        house.guard.policy = Policy([GRANTS[0], without_alice], dual_control=dual)
        assert await reason(house.operate("disable_key", request, BOB)) == "APPROVAL_NEEDED"
        assert house.ring.snapshot.keys["shop-1"].key.disabled_at is None

    async def test_who_is_not_on_record_is_no_first_one(self, house: House) -> None:
        house.guard.policy = Policy(GRANTS, dual_control=frozenset({"disable_key"}))
        request = keys_pb.DisableKeyRequest(name="shop-1")
        house.audit.failing = True
        assert await reason(house.operate("disable_key", request, ALICE)) == "AUDIT_UNAVAILABLE"
        house.audit.failing = False
        assert await reason(house.operate("disable_key", request, BOB)) == "APPROVAL_NEEDED"

    async def test_the_next_kid_of_another_key_cannot_be_taken(self, house: House) -> None:
        """Else an operator of some keys keeps those of another from rotating."""
        await house.ring.create(new_key("named", kid_format=KidFormat.NAME_VERSION))
        pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        request = keys_pb.ImportKeyRequest(spec=keys_pb.KeySpec(name="shop-7"), pkcs8_pem=pem, kid="named-2")
        assert await reason(house.operate("import_key", request)) == "ALREADY_EXISTS"
        await house.ring.rotate("named", at_once=True)
        request.kid = "other-2"  # the kids of that key are thumbprints
        assert (await house.operate("import_key", request)).key.versions[0].kid == "other-2"

    async def test_the_key_pair_of_another_key_cannot_be_adopted(self, house: House) -> None:
        handle = house.ring.snapshot.keys["other"].versions[0].record.handle or ""
        for kid in ("", "a-kid"):
            request = keys_pb.AdoptKeyRequest(spec=keys_pb.KeySpec(name="shop-9"), handle=handle, kid=kid)
            assert await reason(house.operate("adopt_key", request)) == "ALREADY_EXISTS"
        house.guard.policy = Policy(owners={0})
        assert (await house.sign(ROOT, "other")).signature  # and it is still there
