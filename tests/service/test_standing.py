"""What is kept of a caller and a key between two signatures, and that nothing of it outlives what it was made of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
from guarded import GRANTS, SHOP, House, reason
from support import START, new_key, signature_base

from keyd.core.errors import KeydError
from keyd.core.grants import PrincipalPattern
from keyd.core.model import Purpose
from keyd.core.policy import Allowance, Policy
from keyd.core.principal import Principal
from keyd.core.profile import BUILT_IN
from keyd.core.rates import Rate
from keyd.core.signing import Signer
from keyd.core.standing import Standings
from keyd.v1 import signing_service_pb2 as pb


@pytest.fixture
def standings(house: House, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return for each request of a base whether it went the short way."""
    short: list[bool] = []
    inner = Signer._at_once

    def noted(self: Signer, *args: Any) -> Any:
        signed = inner(self, *args)
        short.append(signed is not None)
        return signed

    monkeypatch.setattr(Signer, "_at_once", noted)
    return short


async def test_an_ordinary_signature_goes_the_short_way(house: House, standings: list[bool]) -> None:
    first, second = await house.sign(), await house.sign()
    assert standings == [True, True]
    assert first == second  # Ed25519: the same base, the same key, all fields
    assert house.audit.last() == ("sign", "shop-1", "shop", None)


async def test_a_reload_between_two_calls_counts_at_once(house: House) -> None:
    assert (await house.sign()).signature
    house.guard.policy = Policy([replace(GRANTS[0], authorities=("other.example",))])
    assert await reason(house.sign()) == "AUTHORITY"
    house.guard.policy = Policy([replace(GRANTS[0], principals=(PrincipalPattern(uid=1),))])
    assert await reason(house.sign()) == "GRANT"
    house.guard.policy = Policy(GRANTS)
    assert (await house.sign()).signature


async def test_a_reload_of_the_profiles_counts_at_once(house: House) -> None:
    assert (await house.sign()).signature
    signer = house.signer
    signer.profiles = BUILT_IN | {"rfc9421": replace(BUILT_IN["rfc9421"], required_components=("@query",))}
    assert await reason(house.sign()) == "COVERAGE"
    signer.profiles = {}
    assert await reason(house.sign()) == "KEY_STATE"
    signer.profiles = BUILT_IN
    assert (await house.sign()).signature


async def test_a_disabled_key_signs_no_more_until_it_is_enabled(house: House) -> None:
    assert (await house.sign()).signature
    await house.ring.set_enabled("shop-1", False)
    assert await reason(house.sign()) == "KEY_STATE"
    await house.ring.set_enabled("shop-1", True)
    assert (await house.sign()).signature


async def test_a_compromised_version_signs_no_more(house: House) -> None:
    first = await house.sign()
    await house.ring.compromise("shop-1", 1, "leaked")
    second = await house.sign()
    assert (first.version, second.version) == (1, 2)
    assert await reason(house.sign(keyid=first.kid)) == "KEY_STATE"


async def test_time_alone_brings_the_next_version_and_the_clock_may_go_back(house: House) -> None:
    await house.ring.rotate("shop-1")
    activate_at = house.ring.snapshot.get("shop-1").versions[1].record.timeline.activate_at
    versions = []
    for at in (START, activate_at - 0.001, activate_at, activate_at + 1, activate_at - 1):
        house.clock.time = at
        versions.append((await house.sign()).version)
    assert versions == [1, 1, 2, 2, 1]


async def test_the_change_of_another_key_leaves_what_is_known(house: House, standings: list[bool]) -> None:
    await house.sign()
    kept = house.signer._standings._kept.copy()
    await house.ring.set_enabled("other", False)
    await house.sign()
    assert house.signer._standings._kept == kept
    assert standings == [True, True]


async def test_two_callers_have_their_own(house: House) -> None:
    assert (await house.sign()).signature
    assert await reason(house.sign(Principal(uid=4))) == "GRANT"
    assert (await house.sign()).signature


async def test_a_rate_of_a_grant_is_one_for_both_ways(house: House) -> None:
    house.guard.policy = Policy([replace(GRANTS[0], rate=Rate(1, 2))])
    await house.ring.rotate("shop-1")
    kid = house.ring.snapshot.get("shop-1").versions[0].record.kid
    await house.sign()
    await house.sign(keyid=kid)
    assert await reason(house.sign()) == "RATE"


async def test_who_has_its_turns_under_way_waits_for_one(house: House, standings: list[bool]) -> None:
    house.guard.policy = Policy(GRANTS, allowance=Allowance(max_signatures=1))
    share = house.guard.share(SHOP)
    await house.guard.turns.take(share, 1, None)
    waiting = asyncio.create_task(house.sign())
    for _ in range(5):
        await asyncio.sleep(0)
    assert (waiting.done(), standings) == (False, [False])
    house.guard.turns.give_back(share)
    assert (await waiting).signature
    assert (await house.sign()).signature
    assert standings == [False, True]


async def test_no_more_is_kept_than_there_is_room_for(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyd.core.standing._MAX_KEPT", 3)
    for uid in range(10):
        house.guard.policy.rights(principal := Principal(uid=1001, pid=uid))
        assert (await house.sign(principal)).signature
        assert len(house.signer._standings) <= 3


REQUESTS: dict[str, Callable[[House], pb.SignRequest]] = {
    "plain": lambda house: _request(house, "shop-1"),
    "of the kid": lambda house: _request(house, kid=_kid(house)),
    "of an earlier kid": lambda house: _request(house, "shop-2", kid=_kid(house, "shop-2")),
    "of another kid": lambda house: _request(house, kid=_kid(house, "other")),
    "names the kid": lambda house: _request(house, keyid=_kid(house)),
    "names an earlier kid": lambda house: _request(house, "shop-2", keyid=_kid(house, "shop-2")),
    "names another kid": lambda house: _request(house, keyid=_kid(house, "other")),
    "names an alias": lambda house: _request(house, "shop-2", keyid="alias"),
    "names one and asks for another": lambda house: _request(
        house, "shop-2", kid=_kid(house, "shop-2", -1), keyid=_kid(house, "shop-2")
    ),
    "malformed": lambda _: pb.SignRequest(key="shop-1", signature_base=b'"@method": GET'),
    "old": lambda _: pb.SignRequest(key="shop-1", signature_base=signature_base(START - 100)),
    "of another authority": lambda house: _request(house, authority="evil.example"),
    "of a directory": lambda house: _request(house, extra=';tag="http-message-signatures-directory"'),
    "without purpose": lambda house: _request(house, "shop-jwt"),
    "of nobody's key": lambda house: _request(house, "other"),
    "of no key": lambda house: _request(house, "shop-none"),
    "of a disabled key": lambda house: _request(house, "shop-off"),
}


def _kid(house: House, key: str = "shop-1", at: int = 0) -> str:
    return house.ring.snapshot.get(key).versions[at].record.kid


def _request(house: House, key: str = "shop-1", kid: str = "", **base: Any) -> pb.SignRequest:
    return pb.SignRequest(key=key, kid=kid, signature_base=signature_base(house.clock.now(), **base))


@pytest.mark.parametrize("make", REQUESTS.values(), ids=REQUESTS)
async def test_both_ways_answer_record_and_refuse_the_same(
    house: House, make: Callable[[House], pb.SignRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.ring.create(new_key("shop-2", keyid_aliases=("alias",)))
    await house.ring.create(new_key("shop-jwt", purposes=frozenset({Purpose.JWT})))
    await house.ring.create(new_key("shop-off"))
    await house.ring.set_enabled("shop-off", False)
    await house.ring.rotate("shop-2", at_once=True)
    request = make(house)
    short = [await outcome(house, request) for _ in range(2)]
    monkeypatch.setattr(Standings, "get", lambda *_: None)
    assert short == [await outcome(house, request)] * 2


async def outcome(house: House, request: pb.SignRequest) -> object:
    try:
        answer: Any = await house.services["signing"].sign(request, house.call(SHOP))
    except KeydError as error:
        answer = type(error), str(error), error.metadata
    return answer, asdict(house.audit.decisions[-1]) | {"latency": 0}
