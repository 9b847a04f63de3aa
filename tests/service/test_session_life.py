"""How sessions are renewed ahead of time and end, and tokens for other keys; through the services, on a clock that is set."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
import structlog
from guarded import BOB, SHOP, House, reason
from session_support import (
    AGENT,
    GRANT,
    ORIGIN,
    claims_of,
    got,
    grants,
    opened,
    signed,
    tended,
)
from support import new_key

from backends.api import Algorithm
from backends.encoding import generate_private_key
from backends.errors import BackendUnavailableError
from keyd.core import jwk
from keyd.core.model import Purpose
from keyd.core.sessions.book import Limits
from keyd.core.sessions.renewals import RENEWALS
from keyd.core.sessions.tending import UNWATCHED
from keyd.v1 import session_service_pb2 as pb
from keyd.v1 import types_pb2


class TestRenewal:
    async def test_one_signature_of_the_issuer_key_for_each_token(self, agents: House) -> None:
        runner = agents.ring.backends["mem"]
        before = runner.signatures
        session = await opened(agents)
        for _ in range(50):
            await signed(agents, session)
        assert runner.signatures - before == 1
        agents.clock.time = session.renew_time.seconds + 1
        await tended(agents)
        assert runner.signatures - before == 2

    async def test_ahead_of_time_with_the_same_key(self, agents: House) -> None:
        session = await opened(agents)
        lifetime = session.token_expire_time.seconds - agents.clock.now()
        assert 0.6 * lifetime <= session.renew_time.seconds - agents.clock.now() <= 0.75 * lifetime
        agents.clock.time = session.renew_time.seconds - 1
        await tended(agents)
        assert (await got(agents, session)).token == session.token
        agents.clock.advance(2)
        await tended(agents)
        renewed = await got(agents, session)
        assert renewed.token_id != session.token_id
        assert renewed.thumbprint == session.thumbprint
        assert claims_of(agents, renewed.token)["exp"] == int(agents.clock.now()) + 3600
        assert agents.audit.last() == ("renew_session", "ap", "agents", None)
        await signed(agents, session)  # with the token before, which is good until its end
        await signed(agents, renewed)
        agents.clock.time = session.token_expire_time.seconds
        assert await reason(signed(agents, session)) == "BINDING"
        await signed(agents, renewed)

    async def test_who_watches_is_told(self, agents: House) -> None:
        session = await opened(agents)
        watch = agents.services["sessions"].watch_session(pb.WatchSessionRequest(id=session.id), agents.call(SHOP))
        assert (await anext(watch)).session.token == session.token
        following = asyncio.ensure_future(anext(watch))
        agents.clock.time = session.renew_time.seconds + 1
        await tended(agents)
        assert (await following).session.token != session.token
        following = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        agents.book.close_all()
        assert await reason(following) == "SESSION"

    async def test_a_planned_rotation_is_not_noticed(self, agents: House) -> None:
        agents.book.limits = Limits(idle_timeout=100_000)
        session = await opened(agents)
        await agents.ring.rotate("ap")
        old, new = agents.ring.snapshot.get("ap").versions
        agents.clock.time = new.record.timeline.activate_at - 10
        await tended(agents)
        last = await got(agents, session)
        assert last.token_kid == old.record.kid
        agents.clock.advance(20)
        await tended(agents)
        await signed(agents, last)
        assert claims_of(agents, last.token)["sub"] == AGENT, "its kid is still published"
        agents.clock.time = last.renew_time.seconds + 1
        await tended(agents)
        assert (await got(agents, session)).token_kid == new.record.kid

    async def test_a_compromised_issuer_key_is_replaced_at_once(self, agents: House) -> None:
        session = await opened(agents)
        agents.clock.advance(10)
        await agents.ring.compromise("ap", 1, "lost")
        await tended(agents)
        renewed = await got(agents, session)
        assert renewed.token_kid != session.token_kid
        assert claims_of(agents, renewed.token)["sub"] == AGENT
        await signed(agents, renewed)

    async def test_an_outage_of_the_backend_costs_nothing_until_the_token_ends(self, agents: House) -> None:
        session = await opened(agents)
        backend = agents.ring.backends["mem"].backend
        sign, backend.sign = backend.sign, refuse  # type: ignore[method-assign]
        agents.clock.time = session.renew_time.seconds + 1
        with structlog.testing.capture_logs() as logs:
            for _ in range(5):
                await tended(agents)
                agents.clock.advance(61)
        warned = [each for each in logs if each["event"].startswith("the token of a session cannot be renewed")]
        assert len(warned) == 1
        (listed,) = (await agents.operate("list_sessions", pb.ListSessionsRequest())).sessions
        assert listed.renewal_error.startswith("BACKEND_UNAVAILABLE: ")
        await signed(agents, session)
        backend.sign = sign  # type: ignore[method-assign]
        agents.clock.advance(61)
        await tended(agents)
        assert (await got(agents, session)).token != session.token
        (listed,) = (await agents.operate("list_sessions", pb.ListSessionsRequest())).sessions
        assert (listed.renewal_error, listed.tokens) == ("", 2)

    async def test_it_is_tried_again_later_and_later(self, agents: House) -> None:
        session = await opened(agents)
        agents.ring.backends["mem"].backend.sign = refuse  # type: ignore[method-assign]
        agents.clock.time = session.renew_time.seconds + 1
        waits = []
        for _ in range(9):
            await tended(agents)
            (own,) = agents.book.all()
            waits.append(own.renew_at - agents.clock.now())
            agents.clock.time = own.renew_at
        assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]

    async def test_not_all_at_once(self, agents: House) -> None:
        grants(agents, max_sessions=20)
        sessions = [await opened(agents) for _ in range(10)]
        assert len({session.renew_time.seconds for session in sessions}) > 5
        agents.clock.time = max(session.renew_time.seconds for session in sessions) + 1
        assert len(agents.book.tend()) == RENEWALS
        assert not agents.book.tend()

    async def test_one_that_is_closed_while_it_is_renewed_stays_closed(self, agents: House) -> None:
        session, other = await opened(agents), await opened(agents)
        agents.clock.time = session.renew_time.seconds + 600
        renewals = agents.book.tend()
        await asyncio.sleep(0)
        await agents.services["sessions"].close_session(pb.CloseSessionRequest(id=session.id), agents.call(SHOP))
        await asyncio.gather(*renewals)
        assert [each.id for each in agents.book.all()] == [other.id]
        assert agents.book._sessions._counts == {("uid:1001", "agents"): 1}
        assert await reason(signed(agents, session)) == "SESSION"

    async def test_without_a_record_the_old_token_stays(self, agents: House) -> None:
        session = await opened(agents)
        agents.clock.time = session.renew_time.seconds + 1
        agents.audit.failing = True
        await tended(agents)
        agents.audit.failing = False
        assert (await got(agents, session)).token == session.token


def refuse(*_: object) -> bytes:
    raise BackendUnavailableError("not today")


class TestLostAnswers:
    """OpenSession, called again because its answer was lost."""

    async def test_the_same_session_again(self, agents: House) -> None:
        one = await opened(agents, request_id="r1")
        assert (await opened(agents, request_id="r1")).id == one.id
        assert len(agents.book) == 1
        assert (await opened(agents, request_id="r2")).id != one.id
        assert (await opened(agents)).id != one.id

    async def test_nobody_elses_and_for_nothing_else(self, agents: House) -> None:
        await opened(agents, request_id="r1")
        assert await reason(opened(agents, request_id="r1", algorithm=types_pb2.ALGORITHM_ES256)) == "INVALID_ARGUMENT"
        assert await reason(opened(agents, BOB, request_id="r1")) == "GRANT"
        for wrong in ("a b", "x" * 65, "\u00e9"):
            assert await reason(opened(agents, request_id=wrong)) == "INVALID_ARGUMENT"

    async def test_a_new_one_when_it_has_ended(self, agents: House) -> None:
        one = await opened(agents, request_id="r1")
        await agents.services["sessions"].close_session(pb.CloseSessionRequest(id=one.id), agents.call(SHOP))
        assert (await opened(agents, request_id="r1")).id != one.id
        agents.book.close_all()
        assert not agents.book._sessions._requests


class TestEnd:
    async def test_by_its_owner(self, agents: House) -> None:
        session = await opened(agents)
        close = agents.services["sessions"].close_session
        assert await reason(close(pb.CloseSessionRequest(id=session.id), agents.call(BOB))) == "SESSION"
        await close(pb.CloseSessionRequest(id=session.id), agents.call(SHOP))
        assert agents.audit.last() == ("close_session", "ap", None, None)
        for call in (
            signed(agents, session),
            got(agents, session),
            close(pb.CloseSessionRequest(id=session.id), agents.call(SHOP)),
        ):
            assert await reason(call) == "SESSION"

    async def test_when_nobody_uses_it(self, agents: House) -> None:
        agents.book.limits = Limits(idle_timeout=600)
        used, unused, watched = [await opened(agents) for _ in range(3)]
        watch = agents.services["sessions"].watch_session(pb.WatchSessionRequest(id=watched.id), agents.call(SHOP))
        await anext(watch)
        agents.clock.advance(400)
        await signed(agents, used)
        agents.clock.advance(300)
        await tended(agents)
        assert {each.id for each in agents.book.all()} == {used.id, watched.id}
        assert await reason(signed(agents, unused)) == "SESSION"
        await watch.aclose()

    async def test_when_nobody_watches_it_any_more_if_that_was_asked_for(self, agents: House) -> None:
        kept, late = [await opened(agents, close_on_disconnect=True) for _ in range(2)]
        watch = agents.services["sessions"].watch_session(pb.WatchSessionRequest(id=kept.id), agents.call(SHOP))
        await anext(watch)
        agents.clock.advance(UNWATCHED + 1)
        await tended(agents)
        assert [each.id for each in agents.book.all()] == [kept.id], "nobody came to watch the other one"
        await watch.aclose()
        await tended(agents)
        await signed(agents, kept)
        agents.clock.advance(UNWATCHED + 1)
        await tended(agents)
        assert await reason(signed(agents, kept)) == "SESSION"
        assert await reason(signed(agents, late)) == "SESSION"

    async def test_with_its_grant(self, agents: House) -> None:
        session = await opened(agents)
        grants(agents)  # a reload that changes nothing of it
        await signed(agents, session)
        grants(agents, replace(GRANT, authorities=("other.example",)))
        assert await reason(signed(agents, session)) == "AUTHORITY"
        grants(agents, subjects=("aauth:other@agents.example",))
        assert await reason(signed(agents, session)) == "GRANT"
        grants(agents)
        assert await reason(signed(agents, session)) == "SESSION", "it does not come back"

    async def test_a_reload_while_it_is_opened(self, agents: House) -> None:
        backend = agents.ring.backends["mem"].backend
        sign = backend.sign

        def reload(*args: Any) -> bytes:
            grants(agents, subjects=("aauth:other@agents.example",))
            return sign(*args)

        backend.sign = reload  # type: ignore[method-assign]
        assert await reason(opened(agents)) == "GRANT"
        assert not len(agents.book)
        assert not agents.book._sessions._counts

    async def test_another_grant_may_take_over(self, agents: House) -> None:
        session = await opened(agents)
        grants(agents, replace(GRANT, name="renamed"))
        await signed(agents, session)
        assert agents.audit.last() == ("sign", "ap", "renamed", None)
        assert set(agents.book._sessions._counts) == {("uid:1001", "renamed")}


async def issued(house: House, **fields: Any) -> pb.IssueAgentTokenResponse:
    request = pb.IssueAgentTokenRequest(**{"issuer_key": "ap", "subject": AGENT, **fields})
    response: pb.IssueAgentTokenResponse = await house.services["sessions"].issue_agent_token(request, house.call(SHOP))
    return response


def public(algorithm: Algorithm = Algorithm.ED25519, **more: str) -> str:
    text, _ = jwk.from_public_key(generate_private_key(algorithm, 2048).public_key())
    return json.dumps({**json.loads(text), **more})


class TestTokensForOtherKeys:
    async def test_for_a_key_in_keyd(self, agents: House) -> None:
        shop = replace(GRANT, keys=("shop-*",), purposes=frozenset({Purpose.HTTP}))
        grants(agents, shop)
        answer = await issued(agents, key="shop-1")
        (version,) = agents.ring.snapshot.get("shop-1").versions
        claims = claims_of(agents, answer.token)
        assert answer.thumbprint == version.record.thumbprint == jwk.thumbprint(claims["cnf"]["jwk"])
        assert (claims["sub"], claims["jti"]) == (AGENT, answer.token_id)
        assert answer.signature_key == f'sig=jwt;jwt="{answer.token}"'
        assert agents.audit.last() == ("issue_agent_token", "ap", "agents", None)
        assert await reason(issued(agents, key="other")) == "GRANT"
        assert await reason(issued(agents, key="ap")) == "GRANT"
        assert await reason(issued(agents)) == "INVALID_ARGUMENT"
        assert await reason(issued(agents, key="shop-1", kind=pb.SESSION_KIND_JKT_JWT, subject="")) == "INVALID_ARGUMENT"

    @pytest.mark.parametrize("algorithm", [Algorithm.ED25519, Algorithm.ES256, Algorithm.ES384])
    async def test_for_a_key_of_the_callers_own(self, agents: House, algorithm: Algorithm) -> None:
        text = public(algorithm)
        answer = await issued(agents, public_jwk=text)
        assert claims_of(agents, answer.token)["cnf"]["jwk"] == {**json.loads(text), "alg": algorithm.value}
        grants(agents, foreign_keys=False)
        assert await reason(issued(agents, public_jwk=text)) == "GRANT"

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            '{"kty":"oct","k":"AAAA"}',
            '{"kty":"OKP","crv":"Ed25519","x":"AAAA"}',
            '{"kty":"OKP","crv":"X25519","x":"' + "A" * 43 + '"}',
            '{"kty":"EC","crv":"P-256","x":"AAAA","y":"AAAA"}',
            public(d="AAAA"),
            public(alg="HS256"),
            public(alg="ES256"),
            public(Algorithm.RS256),
            "{" * 3000,
        ],
        ids=range(11),  # the keys differ from one process to the next
    )
    async def test_not_for_what_is_no_public_key(self, agents: House, text: str) -> None:
        assert await reason(issued(agents, public_jwk=text)) == "INVALID_ARGUMENT"

    async def test_an_rsa_key_says_what_for(self, agents: House) -> None:
        answer = await issued(agents, public_jwk=public(Algorithm.PS512, alg="PS512"))
        assert claims_of(agents, answer.token)["cnf"]["jwk"]["alg"] == "PS512"


class TestOperators:
    async def test_they_see_sessions_and_cannot_use_them(self, agents: House) -> None:
        session = await opened(agents)
        await signed(agents, session)
        (listed,) = (await agents.operate("list_sessions", pb.ListSessionsRequest())).sessions
        assert (listed.subject, listed.issuer, listed.signatures, listed.tokens) == (AGENT, ORIGIN, 1, 1)
        assert (listed.grant, listed.principal) == ("agents", str(SHOP))
        assert session.id not in str(listed)
        assert session.token not in str(listed)
        assert not (await agents.operate("list_sessions", pb.ListSessionsRequest(issuer_key="x"))).sessions
        assert await reason(agents.operate("list_sessions", pb.ListSessionsRequest(), SHOP)) == "GRANT"

    async def test_they_take_one_back(self, agents: House) -> None:
        session = await opened(agents)
        child = await opened(agents, subject="aauth:shop+a@agents.example", parent=session.id)
        other = await opened(agents)
        agents.clock.time = session.renew_time.seconds + 600
        await tended(agents)
        renewed = await got(agents, session)
        (name,) = [each.name for each in agents.book.all() if each.id == session.id]
        assert await reason(agents.operate("revoke_session", pb.RevokeSessionRequest(session=session.id))) == "SESSION"
        assert await reason(agents.operate("revoke_session", pb.RevokeSessionRequest(session=name), SHOP)) == "GRANT"
        answer = await agents.operate("revoke_session", pb.RevokeSessionRequest(session=name))
        revoked = {token.token_id for token in answer.tokens}
        assert {session.token_id, renewed.token_id, child.token_id} <= revoked
        assert agents.audit.last()[:2] == ("revoke_session", None)
        assert agents.audit.decisions[-1].detail == f"done for session {name}"
        for each in (session, child):
            assert await reason(signed(agents, each)) == "SESSION"
        assert (await got(agents, other)).id == other.id
        listed = (await agents.operate("list_revoked_tokens", pb.ListRevokedTokensRequest(issuer=ORIGIN))).tokens
        assert {token.token_id for token in listed} == revoked
        agents.clock.advance(3601)
        assert not (await agents.operate("list_revoked_tokens", pb.ListRevokedTokensRequest())).tokens

    async def test_they_take_a_token_back(self, agents: House) -> None:
        await agents.ring.create(new_key("any"))
        token = await issued(agents, public_jwk=public())
        given = {"issuer": ORIGIN, "token_id": token.token_id, "expire_time": token.expire_time}
        assert not (await agents.operate("revoke_token", pb.RevokeTokenRequest(**given))).warnings
        assert agents.audit.decisions[-1].detail == f"done for token {token.token_id} of {ORIGIN}"
        (listed,) = (await agents.operate("list_revoked_tokens", pb.ListRevokedTokensRequest())).tokens
        assert (listed.token_id, listed.expire_time) == (token.token_id, token.expire_time)
        assert not (await agents.operate("list_revoked_tokens", pb.ListRevokedTokensRequest(issuer="x"))).tokens
        answer = await agents.operate("revoke_token", pb.RevokeTokenRequest(**{**given, "issuer": f"{ORIGIN}/"}))  # type: ignore[arg-type]
        assert ["published nowhere" in warning for warning in answer.warnings] == [True]
        now = int(agents.clock.now())
        for wrong in (
            {"issuer": ""},
            {"token_id": ""},
            {"token_id": "a\nb"},
            {"issuer": "x" * 300},
            {"expire_time": {"seconds": now}},
            {"expire_time": {"seconds": now + 90_000}},
        ):
            request = pb.RevokeTokenRequest(**{**given, **wrong})  # type: ignore[arg-type]
            assert await reason(agents.operate("revoke_token", request)) == "INVALID_ARGUMENT"
        assert await reason(agents.operate("revoke_token", pb.RevokeTokenRequest(**given), SHOP)) == "GRANT"
