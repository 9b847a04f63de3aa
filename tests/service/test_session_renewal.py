"""How renewals share the backends and follow the clock; through the services, on a clock that is set."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
import structlog
from guarded import House, reason
from session_support import GRANT, ORIGIN, SESSIONS, decoded, got, grants, opened, signed, tended
from support import memory_backend, new_key

from backends.errors import BackendUnavailableError
from keyd.core.model import Purpose
from keyd.core.publication import Issuer, Rules
from keyd.core.runner import BackendRunner, Limits
from keyd.core.sessions import book, tending
from keyd.v1 import session_service_pb2 as pb

CHILD = "aauth:shop+search@agents.example"


async def other_issuer(house: House) -> BackendRunner:
    """Make key ``ap-2`` in a backend of its own, and let the grant have it."""
    runner = BackendRunner("other", memory_backend(), Limits())
    house.ring._runners["other"], house.ring._working["other"] = runner, asyncio.Lock()  # type: ignore[index]
    await house.ring.create(new_key("ap-2", backend="other", purposes=frozenset({Purpose.JWT})))
    issuer = Issuer("agents", frozenset({"agents.example"}), ("ap*",), "jose", 300, ORIGIN)
    house.publication.rules = Rules(issuers={"agents": issuer})
    grants(house, issuer_keys=("ap*",), max_sessions=100)
    return runner


class TestBackends:
    async def test_one_round_renews_all_that_are_due(self, agents: House) -> None:
        grants(agents, max_sessions=50)
        sessions = [await opened(agents) for _ in range(30)]
        agents.clock.time = max(session.renew_time.seconds for session in sessions) + 1
        await tended(agents)
        for session in sessions:
            assert (await got(agents, session)).token != session.token

    async def test_one_that_hangs_holds_up_no_other(self, agents: House) -> None:
        runner = await other_issuer(agents)
        stuck = [await opened(agents, issuer_key="ap-2", token_lifetime={"seconds": 1800}) for _ in range(6)]  # due before it
        session = await opened(agents)
        answer = asyncio.Event()
        at_once = runner.sign

        async def sign(*args: Any) -> bytes:
            await answer.wait()
            return await at_once(*args)

        runner.sign = sign  # type: ignore[method-assign]
        agents.clock.time = session.renew_time.seconds + 600
        workers = agents.book.tend()
        while (renewed := await got(agents, session)).token == session.token:  # noqa: ASYNC110 - a session sets no event for tests
            await asyncio.sleep(0)
        await signed(agents, renewed)
        assert (await got(agents, stuck[0])).token == stuck[0].token
        assert not agents.book.tend(), "and no more of them are begun"
        answer.set()
        await asyncio.gather(*workers)
        assert all([(await got(agents, each)).token != each.token for each in stuck])
        runner.close()

    async def test_an_outage_is_on_record_once(self, agents: House) -> None:
        session = await opened(agents)
        backend = agents.ring.backends["mem"].backend
        sign, backend.sign = backend.sign, refuse  # type: ignore[method-assign]
        agents.clock.time = session.renew_time.seconds + 1
        for _ in range(5):
            await tended(agents)
            agents.clock.advance(61)
        agents.publication.rules = Rules()
        await tended(agents)
        backend.sign = sign  # type: ignore[method-assign]
        told = [each.reason for each in agents.audit.decisions if each.operation == "renew_session"]
        assert told == ["BACKEND_UNAVAILABLE", "KEY_STATE"]

    async def test_one_whose_grant_is_gone_ends_and_is_not_said_to_be_tried_again(self, agents: House) -> None:
        session = await opened(agents)
        agents.clock.time = session.renew_time.seconds + 1
        with structlog.testing.capture_logs() as logs:
            renewals = agents.book.tend()
            grants(agents, subjects=("aauth:other@agents.example",))
            await asyncio.gather(*renewals)
        assert [each["event"] for each in logs] == ["session ended: no grant allows it any more"]
        assert not len(agents.book)


def refuse(*_: object) -> bytes:
    raise BackendUnavailableError("not today")


class TestClock:
    async def test_one_that_was_an_hour_ahead(self, agents: House) -> None:
        agents.clock.advance(3600)
        session = await opened(agents)
        agents.book.tend()
        agents.clock.advance(-3600)
        await tended(agents)
        renewed = await got(agents, session)
        payload = renewed.token.split(".")[1]
        assert json.loads(decoded(payload))["iat"] == agents.clock.now()
        await tended(agents)
        assert (await got(agents, session)).token == renewed.token, "once is enough"

    async def test_what_was_to_be_tried_again_ahead_is_tried_soon(self, agents: House) -> None:
        session = await opened(agents)
        backend = agents.ring.backends["mem"].backend
        sign, backend.sign = backend.sign, refuse  # type: ignore[method-assign]
        agents.clock.time = session.renew_time.seconds + 3600
        await tended(agents)
        backend.sign = sign  # type: ignore[method-assign]
        agents.clock.advance(-3600)
        await tended(agents)
        agents.clock.advance(61)
        await tended(agents)
        assert (await got(agents, session)).token != session.token

    async def test_what_was_used_ahead_is_not_used_since(self, agents: House) -> None:
        agents.book.limits = book.Limits(idle_timeout=600)
        agents.clock.advance(3600)
        unused, unwatched = await opened(agents), await opened(agents, close_on_disconnect=True)
        await tended(agents)
        agents.clock.advance(-3600)
        await tended(agents)
        agents.clock.advance(tending.UNWATCHED + 1)
        await tended(agents)
        assert [each.id for each in agents.book.all()] == [unused.id], unwatched.id
        agents.clock.advance(600)
        await tended(agents)
        assert not len(agents.book)

    async def test_the_shortest_lifetime_at_any_fraction_of_a_second(self, agents: House) -> None:
        agents.clock.advance(0.7)
        session = await opened(agents, token_lifetime={"seconds": 30})
        assert session.token_expire_time.seconds == int(agents.clock.now()) + 30


class TestSubAgents:
    async def test_who_uses_one_uses_its_parent(self, agents: House) -> None:
        agents.book.limits = book.Limits(idle_timeout=600)
        parent = await opened(agents)
        child = await opened(agents, subject=CHILD, parent=parent.id)
        for _ in range(3):
            agents.clock.advance(400)
            await tended(agents)
            await signed(agents, child)
        agents.clock.advance(601)
        await tended(agents)
        assert not len(agents.book)

    async def test_a_parent_is_of_the_kind_that_has_them(self, agents: House) -> None:
        grants(agents, sub_agents=False)
        parent = await opened(agents, kind=pb.SESSION_KIND_JKT_JWT, subject="")
        assert await reason(opened(agents, subject=CHILD, parent=parent.id)) == "INVALID_ARGUMENT"
        assert await reason(opened(agents, kind=pb.SESSION_KIND_JKT_JWT, subject="", parent=parent.id)) == "INVALID_ARGUMENT"

    async def test_one_has_a_parent_and_of_its_issuer(self, agents: House) -> None:
        assert await reason(opened(agents, subject=CHILD)) == "INVALID_ARGUMENT", "the sign + says that it has one"
        runner = await other_issuer(agents)
        parent = await opened(agents)
        await opened(agents, subject=CHILD, parent=parent.id, issuer_key="ap-2")
        mine = Issuer("mine", frozenset({"agents.example"}), ("ap",), "jose", 300, ORIGIN)
        theirs = Issuer("theirs", frozenset({"other.example"}), ("ap-2",), "jose", 300, "https://other.example")
        agents.publication.rules = Rules(issuers={"mine": mine, "theirs": theirs})
        assert await reason(opened(agents, subject=CHILD, parent=parent.id, issuer_key="ap-2")) == "INVALID_ARGUMENT"
        runner.close()


class TestNames:
    @pytest.mark.parametrize("subject", ["agent\n", "x" * 518, "https://ä.example", "a b"])
    async def test_an_agent_of_lumoauth_is_named_in_visible_ascii(self, agents: House, subject: str) -> None:
        grants(agents, replace(GRANT, sessions=replace(SESSIONS, subjects=("*",), audiences=None)))
        assert await reason(opened(agents, kind=pb.SESSION_KIND_LUMOAUTH, subject=subject)) == "INVALID_ARGUMENT"
        await opened(agents, kind=pb.SESSION_KIND_LUMOAUTH, subject="https://agent.example/7")


async def test_what_takes_long_to_read_is_refused_unread(agents: House) -> None:
    asked: list[object] = []
    agents.book.issuer.allowed = lambda *them: asked.append(them)  # type: ignore[method-assign, assignment, return-value, func-returns-value]
    for fields in ({"subject": "x" * 518}, {"audiences": ["a"] * 65}):
        assert await reason(opened(agents, **fields)) == "INVALID_ARGUMENT"  # type: ignore[arg-type]
    assert not asked


async def test_a_disabled_issuer_key_makes_no_tokens_and_leaves_those_that_there_are(agents: House) -> None:
    session = await opened(agents)
    await agents.ring.set_enabled("ap", False)
    assert await reason(opened(agents)) == "KEY_STATE"
    await signed(agents, session)
    agents.clock.time = session.renew_time.seconds + 600
    await tended(agents)
    (own,) = agents.book.all()
    assert own.renewal_error.startswith("KEY_STATE")
    agents.clock.time = session.token_expire_time.seconds
    assert await reason(signed(agents, await got(agents, session))) == "BINDING"
