"""Every call through the guard, by callers of several kinds: what is refused, what is recorded, and that nobody is starved."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from guarded import ALICE, BOB, GRANTS, ROOT, SERVICES, SHOP, House, reason
from support import START, new_key, signature_base

from keyd.core import errors
from keyd.core.decision import Decision
from keyd.core.grants import OPERATIONS, PrincipalPattern
from keyd.core.model import Purpose
from keyd.core.policy import Allowance, Policy
from keyd.core.principal import Principal
from keyd.core.rates import REFUSALS_PER_SECOND, Rate
from keyd.core.runner import BackendRunner
from keyd.core.snapshot import KeyView
from keyd.service.admission import methods
from keyd.v1 import key_service_pb2 as keys_pb
from keyd.v1 import signing_service_pb2 as pb


def test_every_operators_call_is_an_operation() -> None:
    calls = {name for service in ("keys", "backends") for _, name in methods(SERVICES[service])}
    assert calls <= OPERATIONS
    assert calls.isdisjoint(name for _, name in methods(SERVICES["signing"]) if name != "get_key")


class TestSigning:
    async def test_what_is_signed_is_recorded_once_before_it_leaves(self, house: House) -> None:
        base = signature_base(START)
        assert (await house.sign()).signature
        (decision,) = house.audit.decisions
        assert house.audit.waited == 1
        assert replace(decision, kid=None, latency=0) == Decision(
            SHOP,
            "sign",
            START,
            key="shop-1",
            version=1,
            purpose="http",
            grant="shop",
            method="GET",
            authority="example.com",
            path="/",
            created=int(START),
            digest=hashlib.sha256(base).digest(),
        )
        assert decision.kid == house.ring.snapshot.keys["shop-1"].versions[0].record.kid
        assert 0 < decision.latency < 5

    @pytest.mark.parametrize(
        ("principal", "key", "base", "expected"),
        [
            (SHOP, "shop-1", {"authority": "evil.example"}, "AUTHORITY"),
            (SHOP, "shop-1", {"authority": "example.com:443"}, "AUTHORITY"),
            (SHOP, "shop-1", {"keyid": "another"}, "KEYID"),
            (SHOP, "shop-2", {}, "NOT_FOUND"),
            (SHOP, "other", {}, "GRANT"),
            (SHOP, "nothing-there", {}, "GRANT"),
            (ROOT, "shop-1", {}, "GRANT"),
            (ALICE, "shop-1", {}, "GRANT"),
            (Principal(), "shop-1", {}, "GRANT"),
            (SHOP, "x" * 100_000, {}, "GRANT"),
        ],
    )
    async def test_what_is_refused_is_recorded_once(
        self, house: House, principal: Principal, key: str, base: dict[str, str], expected: str
    ) -> None:
        assert await reason(house.sign(principal, key, **base)) == expected
        (decision,) = house.audit.decisions
        assert (decision.reason, decision.principal) == (expected, principal)
        assert decision.digest == hashlib.sha256(signature_base(START, **base)).digest()
        assert len(decision.key or "") <= 66
        assert "example.com" not in (decision.detail or "")

    async def test_what_a_caller_sends_does_not_fill_the_trail(self, house: House) -> None:
        house.guard.policy = Policy(owners={0})
        assert await reason(house.sign(ROOT, "x" * 100_000)) == "NOT_FOUND"
        (decision,) = house.audit.decisions
        assert len(decision.detail or "") == 512
        assert len(decision.key or "") == 66

    async def test_who_has_no_grant_does_not_learn_which_keys_there_are(self, house: House) -> None:
        messages = set()
        for key in ("other", "elsew"):  # one is there
            with pytest.raises(errors.GrantError) as caught:
                await house.sign(SHOP, key)
            messages.add(str(caught.value).replace(key, "KEY"))
            assert not caught.value.metadata
        assert len(messages) == 1

    @pytest.mark.parametrize("bad", [False, True])
    async def test_without_a_record_there_is_no_signature(self, house: House, bad: bool) -> None:
        house.audit.failing = True
        assert await reason(house.sign(authority="evil.example" if bad else "example.com")) == "AUDIT_UNAVAILABLE"
        house.audit.failing = False
        assert (await house.sign()).signature

    async def test_a_token_is_recorded_with_what_it_says(self, house: House) -> None:
        await house.ring.create(new_key("shop-jwt", purposes=frozenset({Purpose.JWT})))
        house.guard.policy = Policy(
            [replace(GRANTS[0], purposes=frozenset({Purpose.JWT}), authorities=None, issuers=frozenset({"i"}))]
        )
        request = pb.SignJWTRequest(key="shop-jwt", typ="at+jwt", claims='{"iss": "i", "aud": ["a", "b"]}')
        request.lifetime.FromSeconds(60)
        token = (await house.services["signing"].sign_jwt(request, house.call(SHOP))).token
        (decision,) = house.audit.decisions
        assert (decision.purpose, decision.typ, decision.issuer, decision.audience) == ("jwt", "at+jwt", "i", ("a", "b"))
        assert decision.digest == hashlib.sha256(token.rpartition(".")[0].encode()).digest()
        request.claims = '{"iss": "j"}'
        assert await reason(house.services["signing"].sign_jwt(request, house.call(SHOP))) == "ISSUER"
        assert house.audit.last() == ("sign", "shop-jwt", "shop", "ISSUER")

    async def test_who_goes_away_leaves_a_record(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        started = asyncio.Event()

        async def hang(*_: object) -> bytes:
            started.set()
            await asyncio.Event().wait()
            raise AssertionError

        monkeypatch.setattr(BackendRunner, "sign", hang)
        monkeypatch.setattr(BackendRunner, "signs_inline", lambda *_: False)  # or it is not asked to wait
        signing = asyncio.create_task(house.sign())
        await started.wait()
        signing.cancel()
        house.audit.failing = False
        with pytest.raises(asyncio.CancelledError):
            await signing
        assert house.audit.last() == ("sign", "shop-1", "shop", "CANCELLED")
        assert len(house.guard.turns) == 0

    async def test_a_signature_that_was_made_is_on_record_even_when_its_caller_is_gone(self, house: House) -> None:
        written = asyncio.Event()
        inner = house.audit._synced

        async def synced() -> None:
            written.set()
            await asyncio.sleep(60)

        house.audit._synced = synced  # type: ignore[method-assign]
        signing = asyncio.create_task(house.sign())
        await written.wait()
        signing.cancel()
        house.audit._synced = inner  # type: ignore[method-assign]
        with pytest.raises(asyncio.CancelledError):
            await signing
        assert house.audit.decisions[0].reason is None

    async def test_get_key_needs_any_grant_for_the_key(self, house: House) -> None:
        signing = house.services["signing"]
        for principal in (SHOP, ALICE):
            assert (await signing.get_key(pb.GetKeyRequest(key="shop-1"), house.call(principal))).key == "shop-1"
            assert (await signing.get_jwks(pb.GetJWKSRequest(key="shop-1"), house.call(principal))).document
            for key in ("other", "nothing"):
                assert await reason(signing.get_key(pb.GetKeyRequest(key=key), house.call(principal))) == "GRANT"
                assert await reason(signing.get_jwks(pb.GetJWKSRequest(key=key), house.call(principal))) == "GRANT"
        assert (await signing.get_jwks(pb.GetJWKSRequest(), house.call(Principal()))).document

    async def test_a_watch_ends_with_its_grant(self, house: House) -> None:
        watch = house.services["signing"].watch_keys(pb.WatchKeysRequest(keys=["shop-1"]), house.call(SHOP))
        assert (await anext(watch)).key.key == "shop-1"
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        house.guard.policy = Policy([replace(GRANTS[0], keys=("shop-2",))])
        house.ring.wake()
        async with asyncio.timeout(20):
            assert await reason(waiting) == "GRANT"
        assert not house.guard._calls

    async def test_a_watch_goes_on_over_a_reload_that_leaves_its_grant(self, house: House) -> None:
        watch = house.services["signing"].watch_keys(pb.WatchKeysRequest(keys=["shop-1"]), house.call(SHOP))
        await anext(watch)
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        house.guard.policy = Policy(GRANTS)
        house.ring.wake()
        await asyncio.sleep(0)
        await house.ring.set_enabled("shop-1", False)
        async with asyncio.timeout(20):
            assert not (await waiting).key.HasField("active")
        await watch.aclose()
        assert not house.guard._calls


class TestRates:
    async def test_the_rate_of_a_principal_is_looked_at_first(self, house: House) -> None:
        house.guard.policy = Policy(GRANTS, allowance=Allowance(Rate(1, 2)))
        await house.sign()
        assert await reason(house.sign(key="other")) == "GRANT"  # what is refused counts as well
        with pytest.raises(errors.RateError) as caught:
            await house.sign()
        assert caught.value.metadata == {"retry_after": "3.000"}
        assert house.held == [1.0]
        house.monotonic.advance(3)
        assert (await house.sign()).signature

    async def test_a_refusal_for_what_is_asked_counts_as_ten(self, house: House) -> None:
        house.guard.policy = Policy(GRANTS, allowance=Allowance(Rate(1, 20)))
        for _ in range(2):
            assert await reason(house.sign(authority="evil.example")) == "AUTHORITY"
        assert await reason(house.sign()) == "RATE"
        house.monotonic.advance(1)
        assert (await house.sign()).signature

    async def test_of_a_batch_each_refusal_counts_as_ten(self, house: House) -> None:
        house.guard.policy = Policy(GRANTS, allowance=Allowance(Rate(1, 20)))
        good, bad = (pb.SignRequest(key="shop-1", signature_base=base) for base in (signature_base(START), b"no base"))
        answer = await house.services["signing"].sign_batch(pb.SignBatchRequest(requests=[good, bad]), house.call(SHOP))
        assert [result.error.reason for result in answer.results] == ["", "MALFORMED"]
        for _ in range(9):
            await house.sign()
        assert await reason(house.sign()) == "RATE"

    async def test_the_state_of_a_key_is_not_the_callers_doing(self, house: House) -> None:
        house.guard.policy = Policy(GRANTS, allowance=Allowance(Rate(1, 20)))
        await house.ring.set_enabled("shop-1", False)
        for _ in range(20):
            assert await reason(house.sign()) == "KEY_STATE"
        assert await reason(house.sign()) == "RATE"

    async def test_a_program_that_grants_tell_apart_has_a_rate_of_its_own_and_a_copy_has_not(self, house: House) -> None:
        copy = replace(SHOP, executable="/tmp/copy")
        house.guard.policy = Policy(GRANTS, allowance=Allowance(Rate(1, 2)))
        await house.sign()
        await house.sign()
        assert await reason(house.sign(copy)) == "RATE"
        own = replace(GRANTS[0], name="copy", principals=(PrincipalPattern(uid=SHOP.uid, executable=copy.executable),))
        house.guard.policy = Policy([*GRANTS, own], allowance=Allowance(Rate(1, 2)))
        assert await reason(house.sign()) == "RATE"  # a reload gives nothing back
        assert (await house.sign(copy)).signature

    async def test_all_processes_of_a_principal_share_its_rate(self, house: House) -> None:
        house.guard.policy = Policy(GRANTS, allowance=Allowance(Rate(1, 2)))
        await house.sign(replace(SHOP, pid=8))
        await house.sign(replace(SHOP, pid=9))
        assert await reason(house.sign(replace(SHOP, pid=10))) == "RATE"

    async def test_the_rate_of_a_grant(self, house: House) -> None:
        house.guard.policy = Policy([replace(GRANTS[0], rate=Rate(0.5, 1))])
        await house.sign()
        assert await reason(house.sign(authority="evil.example")) == "AUTHORITY"  # takes nothing
        with pytest.raises(errors.RateError) as caught:
            await house.sign()
        assert caught.value.metadata == {"retry_after": "2.000", "grant": "shop"}
        assert house.held == [1.0]  # at most a second at a time
        house.monotonic.advance(2)
        await house.sign()

    async def test_many_refusals_at_once_are_held_one_longer_than_the_other(self, house: House) -> None:
        """Or all of them come back together, and everybody else waits behind them."""
        house.guard.policy = Policy(GRANTS, allowance=Allowance(Rate(100, 1)))
        await house.sign()
        for _ in range(50):
            assert await reason(house.sign()) == "RATE"
        assert house.held == sorted(house.held)
        assert house.held[-1] == pytest.approx(50 / REFUSALS_PER_SECOND)

    async def test_refusals_are_recorded_once_a_second_with_their_number(self, house: House) -> None:
        house.guard.policy = Policy(GRANTS, allowance=Allowance(Rate(0.1, 1)))
        await house.sign()
        for _ in range(50):
            assert await reason(house.sign()) == "RATE"
        house.monotonic.advance(1)
        assert await reason(house.sign()) == "RATE"
        told = [decision.detail for decision in house.audit.decisions if decision.reason == "RATE"]
        assert len(told) == 2
        assert "1 refused" in (told[0] or "") and "50 refused" in (told[1] or "")

    async def test_each_of_a_batch_counts(self, house: House) -> None:
        house.guard.policy = Policy(GRANTS, allowance=Allowance(Rate(1, 5)))
        batch = pb.SignBatchRequest(requests=[pb.SignRequest(key="shop-1", signature_base=signature_base(START))] * 5)
        results = (await house.services["signing"].sign_batch(batch, house.call(SHOP))).results
        assert all(result.HasField("response") for result in results)
        assert await reason(house.sign()) == "RATE"

    async def test_each_of_a_stream_counts_and_waits_for_its_turn(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        slept: list[float] = []
        sleep = asyncio.sleep

        async def advance(seconds: float) -> None:
            slept.append(seconds)
            house.monotonic.advance(seconds)
            await sleep(0)

        monkeypatch.setattr(asyncio, "sleep", advance)
        house.guard.policy = Policy(GRANTS, allowance=Allowance(Rate(1, 4)))

        async def requests() -> AsyncIterator[pb.SignStreamRequest]:
            for number in range(6):
                yield pb.SignStreamRequest(id=number, request=pb.SignRequest(key="shop-1", signature_base=signature_base(START)))

        stream = house.services["signing"].sign_stream(requests(), house.call(SHOP))
        answers = [answer async for answer in stream]
        assert [answer.result.error.reason for answer in answers] == [""] * 6
        assert [seconds for seconds in slept if seconds] == [1.0, 1.0, 1.0]
        assert house.held == []

    async def test_calls_under_way_are_bounded_and_given_back(self, house: House) -> None:
        house.guard.policy = Policy(GRANTS, allowance=Allowance(max_calls=2))
        watch = pb.WatchKeysRequest(keys=["shop-1"])
        one, two = (house.services["signing"].watch_keys(watch, house.call(SHOP)) for _ in range(2))
        await anext(one)
        await anext(two)
        assert await reason(house.sign()) == "OVERLOADED"
        assert await reason(house.sign(ALICE)) == "GRANT"  # no matter to others
        await one.aclose()
        assert (await house.sign()).signature
        await two.aclose()
        assert not house.guard._calls

    async def test_one_callers_flood_leaves_room_for_another(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        """However much one asks for at once, no more than its share is with the backend."""
        under_way, most = 0, 0
        inner = BackendRunner.sign
        gate = asyncio.Event()

        async def sign(self: BackendRunner, *args: Any) -> bytes:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await gate.wait()
            try:
                return await inner(self, *args)
            finally:
                under_way -= 1

        monkeypatch.setattr(BackendRunner, "sign", sign)
        monkeypatch.setattr(BackendRunner, "signs_inline", lambda *_: False)  # or it is not asked to wait
        house.guard.policy = Policy(
            [GRANTS[0], replace(GRANTS[0], name="bob", principals=(PrincipalPattern(uid=2002),))],
            allowance=Allowance(max_signatures=3),
        )
        flood = [asyncio.create_task(house.sign()) for _ in range(100)]
        await asyncio.sleep(0.01)
        assert most == 3
        other = asyncio.create_task(house.sign(BOB))
        await asyncio.sleep(0.01)
        assert most == 4  # it did not queue behind the flood
        gate.set()
        assert all(response.signature for response in await asyncio.gather(*flood, other))
        assert len(house.guard.turns) == 0


class TestOperators:
    async def test_each_call_is_recorded_before_and_after(self, house: House) -> None:
        await house.operate("rotate_key", keys_pb.RotateKeyRequest(name="shop-1"))
        before, after = house.audit.decisions
        assert (before.operation, before.key, before.grant, before.detail, before.reason) == (
            *("rotate_key", "shop-1", "ops", "asked for"),
            None,
        )
        assert (after.operation, after.key, after.version, after.detail, after.reason) == (
            *("rotate_key", "shop-1", 2, "done, version 2"),
            None,
        )

    async def test_a_call_that_fails_is_recorded_as_one(self, house: House) -> None:
        assert (
            await reason(house.operate("destroy_version", keys_pb.DestroyVersionRequest(name="shop-1", version=9))) == "NOT_FOUND"
        )
        before, after = house.audit.decisions
        assert (before.version, before.reason) == (9, None)
        assert (after.version, after.reason) == (9, "NOT_FOUND")

    async def test_nothing_is_done_without_a_record(self, house: House) -> None:
        house.audit.failing = True
        assert await reason(house.operate("rotate_key", keys_pb.RotateKeyRequest(name="shop-1"))) == "AUDIT_UNAVAILABLE"
        assert len(house.ring.snapshot.keys["shop-1"].versions) == 1

    @pytest.mark.parametrize("principal", [SHOP, ROOT, Principal(), replace(ALICE, uid=2003)], ids=str)
    async def test_nothing_works_without_a_grant(self, house: House, principal: Principal) -> None:
        for service in ("keys", "backends"):
            for method, name in methods(SERVICES[service]):
                from google.protobuf.message_factory import GetMessageClass

                request = GetMessageClass(method.input_type)()
                if "name" in method.input_type.fields_by_name:
                    request.name = "shop-1"
                assert await reason(house.operate(name, request, principal)) == "GRANT", name
                assert house.audit.decisions[-1].reason == "GRANT"
        assert len(house.audit.decisions) == sum(len(SERVICES[s].methods) for s in ("keys", "backends"))
        assert set(house.ring.snapshot.keys) == {"shop-1", "other"}

    async def test_keys_outside_of_the_globs_are_out_of_reach(self, house: House) -> None:
        assert await reason(house.operate("disable_key", keys_pb.DisableKeyRequest(name="other"))) == "GRANT"
        assert await reason(house.operate("create_key", keys_pb.CreateKeyRequest(spec=keys_pb.KeySpec(name="till-1")))) == "GRANT"
        await house.operate("create_key", keys_pb.CreateKeyRequest(spec=keys_pb.KeySpec(name="shop-2")))
        assert house.audit.decisions[-1].key == "shop-2"
        listed = await house.operate("list_keys", keys_pb.ListKeysRequest())
        assert [key.name for key in listed.keys] == ["shop-1", "shop-2"]

    async def test_to_list_few_keys_among_many_leaves_the_loop_to_others(self, house: House) -> None:
        many = {name: KeyView(new_key(name), ()) for name in (f"other-{number:05}" for number in range(20_000))}
        house.ring._on_record.snapshot = house.ring.snapshot.with_keys(*many.values())
        listing = asyncio.ensure_future(house.operate("list_keys", keys_pb.ListKeysRequest()))
        turns = 0
        while not listing.done():
            await asyncio.sleep(0)
            turns += 1
        assert [key.name for key in listing.result().keys] == ["shop-1"]
        assert turns > 20_000 // 500, "it looks at all names in one go"

    async def test_dual_control(self, house: House) -> None:
        house.guard.policy = Policy(GRANTS, dual_control=frozenset({"disable_key"}))
        request = keys_pb.DisableKeyRequest(name="shop-1")
        with pytest.raises(errors.ApprovalError) as caught:
            await house.operate("disable_key", request, ALICE)
        assert caught.value.metadata["requested_by"] == "uid:2001"
        assert house.audit.last() == ("disable_key", "shop-1", "ops", "APPROVAL_NEEDED")
        assert await reason(house.operate("disable_key", request, replace(ALICE, executable="/bin/other"))) == "APPROVAL_NEEDED"
        assert house.ring.snapshot.keys["shop-1"].key.disabled_at is None
        assert await reason(house.operate("disable_key", request, SHOP)) == "GRANT"  # the second needs a grant too
        await house.operate("disable_key", request, BOB)
        assert house.ring.snapshot.keys["shop-1"].key.disabled_at is not None
        assert [d.detail for d in house.audit.decisions[-2:]] == ["asked for, as uid:2001 did before", "done"]
        await house.operate("enable_key", keys_pb.EnableKeyRequest(name="shop-1"), ALICE)  # not under dual control
