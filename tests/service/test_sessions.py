"""Sessions through the services: who may open which, what their keys sign, how they are renewed, and how they end."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from guarded import ALICE, BOB, SHOP, House, reason
from session_support import (
    AGENT,
    GRANT,
    ORIGIN,
    OTHER,
    base_of,
    claims_of,
    decoded,
    got,
    grants,
    opened,
    signed,
)
from support import new_key

from backends.api import Algorithm
from backends.encoding import verify_raw
from backends.errors import BackendUnavailableError
from keyd.core.jwk import to_public_key
from keyd.core.model import Purpose
from keyd.core.principal import Principal
from keyd.core.publication import Issuer, Rules
from keyd.core.sessions.book import Limits
from keyd.core.sessions.grant import SessionKind
from keyd.v1 import session_service_pb2 as pb
from keyd.v1 import signing_service_pb2, types_pb2


class TestOpen:
    async def test_the_token_binds_a_key_that_signs(self, agents: House) -> None:
        session = await opened(agents, claims='{"task": "buy milk"}')
        now, jwk = int(agents.clock.now()), json.loads(session.public_jwk)
        assert claims_of(agents, session.token) == {
            "iss": ORIGIN,
            "dwk": "aauth-agent.json",
            "sub": AGENT,
            "jti": session.token_id,
            "cnf": {"jwk": {**jwk, "alg": "Ed25519"}},
            "ps": "https://person.example",
            "tenant": "shop",
            "task": "buy milk",
            "iat": now,
            "exp": now + 3600,
        }
        assert session.signature_key == f'sig=jwt;jwt="{session.token}"'
        answer = await signed(agents, session)
        verify_raw(to_public_key(session.public_jwk), Algorithm.ED25519, answer.signature, base_of(agents, session))
        assert (answer.kid, answer.version, answer.jose_algorithm) == (session.thumbprint, 0, "Ed25519")

    async def test_what_is_on_record(self, agents: House) -> None:
        session = await opened(agents)
        await signed(agents, session)
        opening, signing = agents.audit.decisions[-2:]
        (name,) = [each.name for each in agents.book.all()]
        assert (opening.operation, opening.key, opening.typ, opening.grant) == ("open_session", "ap", "aa-agent+jwt", "agents")
        assert opening.detail == f"session {name} of {AGENT}"
        assert opening.kid == session.token_kid
        assert (signing.operation, signing.kid, signing.authority) == ("sign", session.thumbprint, "example.com")
        assert signing.detail == f"session {name}"
        told = repr(agents.audit.decisions) + repr(agents.book.all()) + repr(agents.book.all()[0].token)
        assert session.id not in told
        assert session.token not in told

    async def test_es256(self, agents: House) -> None:
        session = await opened(agents, algorithm=types_pb2.ALGORITHM_ES256)
        answer = await signed(agents, session)
        verify_raw(to_public_key(session.public_jwk), Algorithm.ES256, answer.signature, base_of(agents, session))
        assert claims_of(agents, session.token)["cnf"]["jwk"]["alg"] == "ES256"

    @pytest.mark.parametrize("algorithm", [types_pb2.ALGORITHM_RS256, 99])
    async def test_no_other_algorithm(self, agents: House, algorithm: int) -> None:
        assert await reason(opened(agents, algorithm=algorithm)) == "INVALID_ARGUMENT"
        assert not len(agents.book)

    @pytest.mark.parametrize(
        ("fields", "why"),
        [
            ({"issuer_key": "shop-1"}, "GRANT"),
            ({"issuer_key": "x" * 500}, "GRANT"),
            ({"subject": "aauth:other@agents.example"}, "GRANT"),
            ({"subject": ""}, "INVALID_ARGUMENT"),
            ({"claims": '{"admin": true}'}, "GRANT"),
            ({"claims": '{"sub": "x"}'}, "GRANT"),
            ({"claims": "[]"}, "MALFORMED"),
            ({"claims": '{"task": 1, "task": 2}'}, "MALFORMED"),
            ({"claims": '{"task": "' + "x" * 5000 + '"}'}, "INVALID_ARGUMENT"),
            ({"audiences": ["https://api.example"]}, "GRANT"),
            ({"kind": 99}, "INVALID_ARGUMENT"),
            ({"parent": "nobody"}, "SESSION"),
            ({"token_lifetime": {"seconds": 1}}, "INVALID_ARGUMENT"),
        ],
    )
    async def test_what_is_not_granted(self, agents: House, fields: dict[str, Any], why: str) -> None:
        assert await reason(opened(agents, **fields)) == why
        assert not len(agents.book)

    async def test_callers_without_such_a_grant(self, agents: House) -> None:
        assert await reason(opened(agents, BOB)) == "GRANT"
        assert agents.audit.last() == ("open_session", "ap", None, "GRANT")
        grants(agents, kinds=frozenset({SessionKind.LUMOAUTH}))
        assert await reason(opened(agents)) == "GRANT"

    async def test_an_issuer_key_that_verifiers_could_not_find(self, agents: House) -> None:
        rules = agents.publication.rules
        twice = replace(rules.issuers["agents"], name="more", origin="https://more.example")
        for issuers in ({}, {"more": replace(twice, origin=None)}, {**rules.issuers, "more": twice}):
            agents.publication.rules = Rules(issuers=issuers)
            assert await reason(opened(agents)) == "KEY_STATE"
        agents.publication.rules = rules
        await opened(agents)

    @pytest.mark.parametrize(
        ("changes", "why"), [({"purposes": frozenset({Purpose.HTTP})}, "PURPOSE"), ({"publish": False}, "KEY_STATE")]
    )
    async def test_a_key_that_is_none_for_tokens(self, agents: House, changes: dict[str, Any], why: str) -> None:
        await agents.ring.create(new_key("ap2", **{"purposes": frozenset({Purpose.JWT}), **changes}))
        agents.publication.rules = Rules(issuers={"a": Issuer("a", frozenset({"x"}), ("*",), "jose", 300, ORIGIN)})
        grants(agents, issuer_keys=("ap*",))
        assert await reason(opened(agents, issuer_key="ap2")) == why

    async def test_a_lifetime_is_as_short_as_grant_and_caller_say(self, agents: House) -> None:
        now = agents.clock.now()
        for asked, given in ((600, 600), (7200, 3600)):
            session = await opened(agents, token_lifetime={"seconds": asked})
            assert session.token_expire_time.seconds - now == given

    async def test_as_many_as_the_grant_and_keyd_allow(self, agents: House) -> None:
        sessions = [await opened(agents) for _ in range(3)]
        assert await reason(opened(agents)) == "OVERLOADED"
        await agents.services["sessions"].close_session(pb.CloseSessionRequest(id=sessions[0].id), agents.call(SHOP))
        await opened(agents)
        grants(agents, max_sessions=9)
        agents.book.limits = Limits(max_sessions=3)
        assert await reason(opened(agents)) == "OVERLOADED"

    async def test_opening_is_held_to_the_rate_of_the_grant(self, agents: House) -> None:
        from keyd.core.rates import Rate

        grants(agents, replace(GRANT, rate=Rate(1, 2)))
        await opened(agents)
        await opened(agents)
        assert await reason(opened(agents)) == "RATE"

    async def test_without_a_record_there_is_no_session(self, agents: House) -> None:
        agents.audit.failing = True
        assert await reason(opened(agents)) == "AUDIT_UNAVAILABLE"
        assert not len(agents.book)
        agents.audit.failing = False
        for _ in range(3):
            await opened(agents)

    async def test_a_backend_that_fails_leaves_none_and_takes_no_place(self, agents: House) -> None:
        runner = agents.ring.backends["mem"]
        sign, runner.backend.sign = runner.backend.sign, refuse  # type: ignore[method-assign]
        for _ in range(4):
            assert await reason(opened(agents)) == "BACKEND_UNAVAILABLE"
        assert not len(agents.book)
        runner.backend.sign = sign  # type: ignore[method-assign]
        for _ in range(3):
            await opened(agents)


def refuse(*_: object) -> bytes:
    raise BackendUnavailableError("not today")


class TestSign:
    async def test_the_limits_of_the_grant_hold(self, agents: House) -> None:
        session = await opened(agents)
        base = base_of(agents, session, authority="evil.example")
        assert await reason(signed(agents, session, base=base)) == "AUTHORITY"
        assert agents.audit.last() == ("sign", "ap", "agents", "AUTHORITY")

    async def test_only_requests_that_show_its_own_token(self, agents: House) -> None:
        session, another = await opened(agents), await opened(agents)
        for base, why in (
            (base_of(agents, session, key=another.signature_key), "BINDING"),
            (base_of(agents, session, key='sig=hwk;kty="OKP";crv="Ed25519";x="AAAA";alg="Ed25519"'), "BINDING"),
            (base_of(agents, session, extra=';alg="ed25519"'), "ALGORITHM"),
            (base_of(agents, session, extra=f';keyid="{another.thumbprint}"'), "KEYID"),
            (base_of(agents, session, extra=';tag="http-message-signatures-directory"'), "PURPOSE"),
            (base_of(agents, session).replace(b"GET", b"GET\n"), "MALFORMED"),
        ):
            assert await reason(signed(agents, session, base=base)) == why
        await signed(agents, session, base=base_of(agents, session, extra=f';keyid="{session.thumbprint}"'))

    async def test_no_signature_is_good_for_longer_than_its_token(self, agents: House) -> None:
        session = await opened(agents, token_lifetime={"seconds": 100})
        now = int(agents.clock.now())
        await signed(agents, session, base=base_of(agents, session, extra=f";expires={now + 100}"))
        assert await reason(signed(agents, session, base=base_of(agents, session, extra=f";expires={now + 101}"))) == "FRESHNESS"

    async def test_nothing_but_signature_bases(self, agents: House) -> None:
        session, service = await opened(agents), agents.services["signing"]
        token = session.token.rpartition(".")[0].encode()
        for fields, why in (
            ({"jws_signing_input": token}, "PURPOSE"),
            ({"message": b"x"}, "PURPOSE"),
            ({"signature_base": base_of(agents, session), "kid": "other"}, "KEYID"),
            ({"signature_base": base_of(agents, session), "key": "ap"}, "INVALID_ARGUMENT"),
        ):
            request = signing_service_pb2.SignRequest(session=session.id, **fields)
            assert await reason(service.sign(request, agents.call(SHOP))) == why

    async def test_in_a_batch_with_named_keys(self, agents: House) -> None:
        session = await opened(agents)
        requests = [
            signing_service_pb2.SignRequest(session=session.id, signature_base=base_of(agents, session)),
            signing_service_pb2.SignRequest(session="nobody's", signature_base=base_of(agents, session)),
        ]
        batch = signing_service_pb2.SignBatchRequest(requests=requests)
        good, bad = (await agents.services["signing"].sign_batch(batch, agents.call(SHOP))).results
        assert good.response.kid == session.thumbprint
        assert bad.error.reason == "SESSION"

    async def test_it_is_of_use_to_its_own_caller_only(self, agents: House) -> None:
        session = await opened(agents)
        await signed(agents, session, OTHER)  # another process of the same program
        for other in (BOB, ALICE, Principal(uid=0)):
            assert await reason(signed(agents, session, other)) == "SESSION"
            assert await reason(got(agents, session, other)) == "SESSION"

    async def test_without_a_record_there_is_no_signature(self, agents: House) -> None:
        session = await opened(agents)
        agents.audit.failing = True
        assert await reason(signed(agents, session)) == "AUDIT_UNAVAILABLE"

    async def test_one_that_ends_while_it_is_recorded_is_withheld(self, agents: House) -> None:
        session = await opened(agents)
        task = asyncio.ensure_future(signed(agents, session))
        while agents.audit.last()[0] != "sign":  # noqa: ASYNC110 - the audit of these tests sets no event
            await asyncio.sleep(0)
        agents.book.close_all()
        assert await reason(task) == "SESSION"


class TestKinds:
    async def test_lumoauth(self, agents: House) -> None:
        session = await opened(agents, kind=pb.SESSION_KIND_LUMOAUTH, audiences=["https://api.example"])
        claims = claims_of(agents, session.token)
        assert (claims["aud"], claims["cnf"]["jkt"]) == (["https://api.example"], session.thumbprint)
        assert session.agent_auth == f"agent_token={session.token}"
        header = json.loads(decoded(session.token.split(".")[0]))
        assert header["alg"] == "EdDSA"
        names = ("@method", "@authority", "@path", "signature-key", "content-digest", "content-type", "authorization")
        values = ("GET", "example.com", "/", session.signature_key, "sha-256=:AAAA:", "text/plain", "")
        lines = [f'"{name}": {value}' for name, value in zip(names, values, strict=True)]
        covered = " ".join(f'"{name}"' for name in names)
        params = f'("{covered[1:-1]}");created={int(agents.clock.now())};nonce="0123456789abcdef"'
        base = "\n".join([*lines, f'"@signature-params": {params}']).encode()
        answer = await signed(agents, session, base=base)
        verify_raw(to_public_key(session.public_jwk), Algorithm.ED25519, answer.signature, base)
        assert await reason(signed(agents, session)) in ("COVERAGE", "FRESHNESS")  # the form of AAuth is none of LumoAuth's
        assert await reason(opened(agents, kind=pb.SESSION_KIND_LUMOAUTH, audiences=["https://evil.example"])) == "GRANT"

    async def test_delegation(self, agents: House) -> None:
        session = await opened(agents, kind=pb.SESSION_KIND_JKT_JWT, subject="")
        header, payload, signature = session.token.split(".")
        members, claims = (json.loads(decoded(part)) for part in (header, payload))
        (version,) = agents.ring.snapshot.get("ap").versions
        assert members["typ"] == "jkt-s256+jwt"
        assert claims["iss"] == f"urn:jkt:sha-256:{version.record.thumbprint}"
        assert session.signature_key.startswith('sig=jkt-jwt;jwt="')
        public = to_public_key(json.dumps({name: value for name, value in members["jwk"].items() if name != "alg"}))
        verify_raw(public, Algorithm.ED25519, decoded(signature), f"{header}.{payload}".encode())
        await signed(agents, session)
        assert await reason(opened(agents, kind=pb.SESSION_KIND_JKT_JWT)) == "INVALID_ARGUMENT"  # it names an agent

    async def test_sub_agents(self, agents: House) -> None:
        parent = await opened(agents)
        child = await opened(agents, subject="aauth:shop+search@agents.example", parent=parent.id)
        assert claims_of(agents, child.token)["parent_agent"] == AGENT == child.parent_agent
        assert child.thumbprint != parent.thumbprint
        await signed(agents, child)
        for fields, why in (
            ({"subject": AGENT, "parent": parent.id}, "INVALID_ARGUMENT"),
            ({"subject": "", "parent": parent.id}, "INVALID_ARGUMENT"),
            ({"subject": "aauth:shop+x@agents.example", "parent": child.id}, "SESSION"),
            ({"kind": pb.SESSION_KIND_LUMOAUTH, "audiences": ["https://api.example"], "parent": parent.id}, "INVALID_ARGUMENT"),
        ):
            assert await reason(opened(agents, **fields)) == why
        await agents.services["sessions"].close_session(pb.CloseSessionRequest(id=parent.id), agents.call(SHOP))
        assert await reason(signed(agents, child)) == "SESSION"
        assert not agents.book._sessions._counts
        grants(agents, sub_agents=False)
        parent = await opened(agents)
        assert await reason(opened(agents, subject="aauth:shop+x@agents.example", parent=parent.id)) == "GRANT"
