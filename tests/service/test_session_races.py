"""What changes while a token is signed or recorded: grants, keys, callers that go away. Through the services, on a clock that is set."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from guarded import SHOP, House, reason
from session_support import AGENT, GRANT, SESSIONS, decoded, got, grants, opened, signed, tended

from backends.api import Algorithm
from backends.encoding import generate_private_key
from keyd.core import jwk
from keyd.core.decision import Decision
from keyd.core.errors import StoreUnavailableError
from keyd.core.grants import PrincipalPattern
from keyd.core.model import Purpose
from keyd.core.policy import Allowance
from keyd.core.rates import Rate
from keyd.v1 import session_service_pb2 as pb

CHILD = "aauth:shop+search@agents.example"


def while_signing(house: House, change: Callable[[], None]) -> None:
    """Have ``change`` happen, once, while the issuer key signs."""
    backend = house.ring.backends["mem"].backend
    sign = backend.sign

    def signing(*args: Any) -> bytes:
        backend.sign = sign  # type: ignore[method-assign]
        change()
        return sign(*args)

    backend.sign = signing  # type: ignore[method-assign]


class Held:
    """Signatures of issuer keys that wait, on their way to the backend, until they are let go."""

    def __init__(self, house: House) -> None:
        self._runner = house.ring.backends["mem"]
        self._sign, self._let_go = self._runner.sign, asyncio.Event()
        self.at_work = 0
        self._runner.sign = self.sign  # type: ignore[method-assign]

    async def sign(self, *args: Any) -> bytes:
        self.at_work += 1
        await self._let_go.wait()
        return await self._sign(*args)

    def let_go(self) -> None:
        self._let_go.set()

    async def until(self, number: int) -> None:
        while self.at_work < number:  # noqa: ASYNC110 - who waits here has nothing else to wait for
            await asyncio.sleep(0)


def while_recording(house: House, operation: str, change: Callable[[], Any]) -> None:
    """Have ``change`` happen, once, while a record is being written of an operation that was allowed."""
    write = house.audit.write

    async def changed(writing: Any) -> None:
        try:
            result = change()
            if asyncio.iscoroutine(result):
                await result
        finally:
            await writing

    def writing(decision: Decision) -> Any:
        if decision.operation != operation or decision.reason is not None:
            return write(decision)
        house.audit.write = write  # type: ignore[method-assign]
        return changed(write(decision))

    house.audit.write = writing  # type: ignore[method-assign]


async def issued(house: House, **fields: Any) -> pb.IssueAgentTokenResponse:
    request = pb.IssueAgentTokenRequest(**{"issuer_key": "ap", "subject": AGENT, **fields})
    response: pb.IssueAgentTokenResponse = await house.services["sessions"].issue_agent_token(request, house.call(SHOP))
    return response


def public() -> str:
    return jwk.from_public_key(generate_private_key(Algorithm.ED25519, 0).public_key())[0]


class TestReload:
    async def test_a_renewal_does_not_bring_a_grant_back(self, agents: House) -> None:
        session = await opened(agents)
        narrow = replace(GRANT, name="narrow", authorities=("narrow.example",))
        somebody = replace(GRANT, principals=(PrincipalPattern(uid=7),))
        agents.clock.time = session.renew_time.seconds + 1

        async def reload() -> None:
            grants(agents, somebody, narrow)
            assert await reason(signed(agents, session)) == "AUTHORITY"

        while_recording(agents, "renew_session", reload)
        await tended(agents)
        assert await reason(signed(agents, session)) == "AUTHORITY", "the other grant is somebody else's now"
        assert set(agents.book._sessions._counts) == {("uid:1001", "narrow")}

    async def test_a_token_of_the_grant_before_is_not_handed_out(self, agents: House) -> None:
        session = await opened(agents)
        agents.clock.time = session.renew_time.seconds + 1
        while_signing(agents, lambda: grants(agents, claims={"tenant": "other"}))
        await tended(agents)
        assert (await got(agents, session)).token == session.token
        await tended(agents)
        renewed = await got(agents, session)
        assert renewed.token != session.token
        payload = renewed.token.split(".")[1]
        assert json.loads(decoded(payload))["tenant"] == "other"

    async def test_opening_by_a_grant_that_says_another_thing_now(self, agents: House) -> None:
        while_signing(agents, lambda: grants(agents, claims={"tenant": "other"}))
        assert await reason(opened(agents)) == "GRANT"
        assert not agents.book._sessions._counts
        grants(agents)
        while_signing(agents, lambda: grants(agents))  # a reload that changes nothing
        await opened(agents)

    async def test_a_token_for_a_foreign_key_that_may_have_none_any_more(self, agents: House) -> None:
        while_signing(agents, lambda: grants(agents, foreign_keys=False))
        assert await reason(issued(agents, public_jwk=public())) == "GRANT"
        grants(agents)
        await issued(agents, public_jwk=public())

    async def test_a_token_for_a_key_that_the_caller_may_not_use_any_more(self, agents: House) -> None:
        both = replace(GRANT, keys=("shop-*",), purposes=frozenset({Purpose.HTTP}))
        signs = replace(both, name="signs", sessions=None)
        grants(agents, GRANT, signs)
        while_signing(agents, lambda: grants(agents, GRANT))
        assert await reason(issued(agents, key="shop-1")) == "GRANT"
        grants(agents, GRANT, signs)
        await issued(agents, key="shop-1")

    async def test_a_sub_agent_that_ends_with_its_parent_is_counted_off_once(self, agents: House) -> None:
        of_parent = replace(GRANT, name="parents", sessions=replace(SESSIONS, subjects=(AGENT,)))
        of_child = replace(GRANT, name="children", sessions=replace(SESSIONS, subjects=("aauth:shop+*@agents.example",)))
        grants(agents, of_parent, of_child)
        parent = await opened(agents)
        child = await opened(agents, subject=CHILD, parent=parent.id)
        grants(agents, replace(of_child, name="renamed"))
        await tended(agents)
        assert await reason(signed(agents, child)) == "SESSION"
        assert not agents.book._sessions._counts

    async def test_calls_go_on_while_thousands_are_looked_at_again(self, agents: House) -> None:
        grants(agents, max_sessions=300)
        agents.guard.policy.allowance = Allowance(Rate(1e6, 10**6))
        sessions = [await opened(agents) for _ in range(200)]
        looked_at: list[int] = []
        allowed = agents.book.issuer.allowed
        agents.book.issuer.allowed = lambda *asked: looked_at.append(0) or allowed(*asked)  # type: ignore[method-assign, func-returns-value]
        grants(agents, subjects=("aauth:other@agents.example",))
        work = asyncio.create_task(agents.book.run())
        await asyncio.sleep(0)
        assert await reason(signed(agents, sessions[-1])) == "GRANT", "who calls is looked at first"
        assert 0 < len(looked_at) < 200
        while len(agents.book):  # noqa: ASYNC110 - it runs for ever and sets no event
            await asyncio.sleep(0)
        work.cancel()
        assert not agents.book._sessions._counts


class TestCompromise:
    async def test_a_token_that_was_recorded_meanwhile_is_replaced(self, agents: House) -> None:
        while_recording(agents, "open_session", lambda: compromise(agents))
        session = await opened(agents)
        await tended(agents)
        assert (await got(agents, session)).token_kid != session.token_kid

    async def test_and_one_of_a_renewal(self, agents: House) -> None:
        session = await opened(agents)
        agents.clock.time = session.renew_time.seconds + 1
        while_recording(agents, "renew_session", lambda: compromise(agents))
        await tended(agents)
        await tended(agents)
        assert (await got(agents, session)).token_kid != session.token_kid


async def compromise(house: House) -> None:
    await house.ring.compromise("ap", 1, "lost")
    house.book.tend()


class TestCallersThatGoAway:
    async def test_at_any_point_it_takes_no_place(self, agents: House) -> None:
        held = Held(agents)
        for number in range(1, 4):
            task = asyncio.ensure_future(opened(agents))
            await held.until(number)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert agents.audit.decisions[-1].reason == "CANCELLED"
        assert (len(agents.book), agents.book._sessions._opening, len(agents.guard.turns)) == (0, 0, 0)
        assert not agents.book._sessions._counts
        held.let_go()

        writing = asyncio.Event()
        while_recording(agents, "open_session", writing.wait)
        task = asyncio.ensure_future(opened(agents))
        while agents.audit.decisions[-1].reason == "CANCELLED":  # noqa: ASYNC110 - the audit of these tests sets no event
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not agents.book._sessions._counts
        for _ in range(3):
            await opened(agents)

    async def test_a_parent_that_is_closed_meanwhile(self, agents: House) -> None:
        parent = await opened(agents)
        held = Held(agents)
        child = asyncio.ensure_future(opened(agents, subject=CHILD, parent=parent.id))
        await held.until(1)
        await agents.services["sessions"].close_session(pb.CloseSessionRequest(id=parent.id), agents.call(SHOP))
        held.let_go()
        assert await reason(child) == "SESSION"
        assert not len(agents.book)
        assert not agents.book._sessions._counts


class TestFairness:
    async def test_tokens_take_turns_as_signatures_do(self, agents: House) -> None:
        held = Held(agents)
        most = agents.guard.policy.allowance.max_signatures
        tasks = [asyncio.ensure_future(issued(agents, public_jwk=public())) for _ in range(2 * most)]
        await held.until(most)
        for _ in range(50):
            await asyncio.sleep(0)
        under_way = held.at_work
        held.let_go()
        assert len({token.token_id for token in await asyncio.gather(*tasks)}) == 2 * most
        assert under_way == most, "of one caller, however many it asks for"
        assert not len(agents.guard.turns)


class TestRecords:
    async def test_a_key_that_may_not_be_bound_is_on_record(self, agents: House) -> None:
        assert await reason(issued(agents, key="other")) == "GRANT"
        assert agents.audit.last() == ("issue_agent_token", "ap", None, "GRANT")

    async def test_an_id_that_an_operator_takes_for_a_name_is_on_none(self, agents: House) -> None:
        session = await opened(agents)
        with pytest.raises(Exception, match="there is no session of that name") as caught:
            await agents.operate("revoke_session", pb.RevokeSessionRequest(session=session.id))
        assert session.id not in str(caught.value)
        assert session.id not in repr(agents.audit.decisions)
        assert agents.audit.last()[0] == "revoke_session"

    async def test_a_session_that_was_revoked_without_the_store_can_be_revoked_again(self, agents: House) -> None:
        session = await opened(agents)
        (name,) = [each.name for each in agents.book.all()]
        revocations = agents.book.revocations
        revoke, revocations.revoke = revocations.revoke, no_store  # type: ignore[method-assign]
        request = pb.RevokeSessionRequest(session=name)
        assert await reason(agents.operate("revoke_session", request)) == "STORE_UNAVAILABLE"
        assert await reason(signed(agents, session)) == "SESSION"
        revocations.revoke = revoke  # type: ignore[method-assign]
        (token,) = (await agents.operate("revoke_session", request)).tokens
        assert token.token_id == session.token_id
        (listed,) = (await agents.operate("list_revoked_tokens", pb.ListRevokedTokensRequest())).tokens
        assert listed.token_id == session.token_id
        assert await reason(agents.operate("revoke_session", request)) == "SESSION"


async def no_store(_: object) -> None:
    raise StoreUnavailableError("not today")
