"""A daemon's services with an issuer key, and what agents ask of sessions."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from guarded import SHOP, House
from support import new_key

from backends.api import Algorithm
from backends.encoding import verify_raw
from keyd.core.grants import OPERATIONS, Grant, PrincipalPattern
from keyd.core.jwk import to_public_key
from keyd.core.model import Purpose
from keyd.core.policy import Policy
from keyd.core.principal import Principal
from keyd.core.publication import Issuer, Rules
from keyd.core.sessions.grant import SessionGrant, SessionKind
from keyd.core.timeline import LifecyclePolicy
from keyd.v1 import session_service_pb2 as pb
from keyd.v1 import signing_service_pb2

ORIGIN = "https://agents.example"
AGENT = "aauth:shop@agents.example"
SESSIONS = SessionGrant(
    ("ap",),
    frozenset(SessionKind),
    (AGENT, "aauth:shop+*@agents.example"),
    person_server="https://person.example",
    claims={"tenant": "shop"},
    caller_claims=frozenset({"task"}),
    audiences=frozenset({"https://api.example"}),
    max_sessions=3,
    sub_agents=True,
    foreign_keys=True,
)
GRANT = Grant("agents", (PrincipalPattern(uid=1001),), (), authorities=("example.com",), sessions=SESSIONS)
OPERATORS = Grant("ops", (PrincipalPattern(uid=2001),), ("*",), operations=OPERATIONS)
OTHER = Principal(uid=1001, pid=99, executable="/usr/bin/shop")
DAY = 86400.0


def grants(house: House, *given: Grant, **changes: Any) -> None:
    """Have the grant of these tests with ``changes`` to what it says of sessions, or the grants that are given."""
    house.guard.policy = Policy([*(given or (replace(GRANT, sessions=replace(SESSIONS, **changes)),)), OPERATORS])


@pytest.fixture
async def agents(house: House) -> House:
    await house.ring.create(new_key("ap", purposes=frozenset({Purpose.JWT}), lifecycle=LifecyclePolicy(retention=2 * DAY)))
    issuer = Issuer("agents", frozenset({"agents.example"}), ("ap",), "jose", 300, ORIGIN)
    house.publication.rules = Rules(issuers={"agents": issuer})
    grants(house)
    return house


async def opened(house: House, principal: Principal = SHOP, **fields: Any) -> pb.Session:
    request = pb.OpenSessionRequest(**{"issuer_key": "ap", "subject": AGENT, **fields})
    response = await house.services["sessions"].open_session(request, house.call(principal))
    session: pb.Session = response.session
    return session


async def got(house: House, session: pb.Session, principal: Principal = SHOP) -> pb.Session:
    response = await house.services["sessions"].get_session(pb.GetSessionRequest(id=session.id), house.call(principal))
    found: pb.Session = response.session
    return found


def base_of(house: House, session: pb.Session, *, authority: str = "example.com", extra: str = "", key: str = "") -> bytes:
    return (
        f'"@method": GET\n"@authority": {authority}\n"@path": /\n"signature-key": {key or session.signature_key}\n'
        f'"@signature-params": ("@method" "@authority" "@path" "signature-key");created={int(house.clock.now())}{extra}'
    ).encode()


async def signed(
    house: House, session: pb.Session, principal: Principal = SHOP, base: bytes | None = None, **fields: Any
) -> signing_service_pb2.SignResponse:
    data = base_of(house, session) if base is None else base
    request = signing_service_pb2.SignRequest(session=session.id, signature_base=data, **fields)
    response: signing_service_pb2.SignResponse = await house.services["signing"].sign(request, house.call(principal))
    return response


async def tended(house: House) -> None:
    await asyncio.gather(*house.book.tend())


def claims_of(house: House, token: str) -> Mapping[str, Any]:
    """Verify a token with the published key that it names, and return its claims."""
    header, payload, signature = token.split(".")
    published = json.loads(house.publication.document(key="ap").body)["keys"]
    (jwk,) = [jwk for jwk in published if jwk["kid"] == json.loads(decoded(header))["kid"]]
    verify_raw(to_public_key(json.dumps(jwk)), Algorithm.ED25519, decoded(signature), f"{header}.{payload}".encode())
    claims: Mapping[str, Any] = json.loads(decoded(payload))
    return claims


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "==")
