"""All services behind the guard over a real keyring, without a transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support import FakeClock, keyring, memory_backend, new_key, signature_base

from keyd.core.decision import Decision
from keyd.core.errors import AuditError, KeydError
from keyd.core.grants import OPERATIONS, Grant, PrincipalPattern
from keyd.core.guard import Guard
from keyd.core.keyring import Keyring
from keyd.core.model import Purpose
from keyd.core.monitor import Monitor
from keyd.core.planner import Rules
from keyd.core.policy import Policy
from keyd.core.principal import Principal
from keyd.core.profile import BUILT_IN
from keyd.core.publication import Publication
from keyd.core.publication import Rules as PublicationRules
from keyd.core.rotator import Rotator
from keyd.core.runner import BackendRunner, Limits
from keyd.core.sessions.book import SessionBook
from keyd.core.sessions.issuing import TokenIssuer
from keyd.core.sessions.revocations import Revocations
from keyd.core.sessions.signing import SessionSigner
from keyd.core.signing import Signer
from keyd.core.store import SqlStore
from keyd.core.timeline import LifecyclePolicy
from keyd.service.admission import admitted
from keyd.service.backends import BackendService
from keyd.service.call import Call, Caller
from keyd.service.keys import Defaults, KeyService
from keyd.service.operators import for_operators
from keyd.service.sessions import SessionAdminService, SessionService
from keyd.service.signing import SigningService
from keyd.v1 import backend_service_pb2, session_service_pb2, signing_service_pb2
from keyd.v1 import key_service_pb2 as keys_pb
from keyd.v1 import signing_service_pb2 as pb

SHOP, ROOT = Principal(uid=1001, pid=7, executable="/usr/bin/shop"), Principal(uid=0)
ALICE, BOB = Principal(uid=2001), Principal(uid=2002)
SERVICES = {
    "signing": signing_service_pb2.DESCRIPTOR.services_by_name["SigningService"],
    "keys": keys_pb.DESCRIPTOR.services_by_name["KeyService"],
    "backends": backend_service_pb2.DESCRIPTOR.services_by_name["BackendService"],
    "sessions": session_service_pb2.DESCRIPTOR.services_by_name["SessionService"],
    "session_admin": session_service_pb2.DESCRIPTOR.services_by_name["SessionAdminService"],
}
GRANTS = (
    Grant("shop", (PrincipalPattern(uid=1001),), ("shop-*",), frozenset({Purpose.HTTP}), authorities=("example.com",)),
    Grant("ops", (PrincipalPattern(uid=2001), PrincipalPattern(uid=2002)), ("shop-*",), operations=OPERATIONS),
)


class RecordedAudit:
    """Keeps decisions in memory, and fails when told to."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []
        self.failing = False
        self.waits = False
        self.waited = 0

    def write(self, decision: Decision) -> Awaitable[None] | None:
        if self.failing:
            raise AuditError("the disk is full")
        self.decisions.append(decision)
        return self._synced()

    async def _synced(self) -> None:
        await asyncio.sleep(0)
        self.waited += 1

    def last(self) -> tuple[str, str | None, str | None, str | None]:
        decision = self.decisions[-1]
        return decision.operation, decision.key, decision.grant, decision.reason


@dataclass
class House:
    """All services over a real keyring, without a transport."""

    clock: FakeClock
    monotonic: FakeClock
    ring: Keyring
    guard: Guard
    audit: RecordedAudit
    services: dict[str, Any]
    publication: Publication
    book: SessionBook
    signer: Signer
    held: list[float] = field(default_factory=list)

    def call(self, principal: Principal) -> Call:
        return Call(Caller(principal, self.held.append))

    async def sign(self, principal: Principal = SHOP, key: str = "shop-1", **base: Any) -> pb.SignResponse:
        request = pb.SignRequest(key=key, signature_base=signature_base(self.clock.now(), **base))
        response: pb.SignResponse = await self.services["signing"].sign(request, self.call(principal))
        return response

    async def operate(self, name: str, request: Any, principal: Principal = ALICE) -> Any:
        service = next(s for s in ("keys", "backends", "session_admin") if hasattr(self.services[s], name))
        return await getattr(self.services[service], name)(request, self.call(principal))


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    clock, monotonic, audit = FakeClock(), FakeClock(0), RecordedAudit()
    store = SqlStore(tmp_path / "keyd.db")
    runner = BackendRunner("mem", memory_backend(), Limits())
    ring = keyring(store, {"mem": runner}, clock)
    await ring.start()
    for name in ("shop-1", "other"):
        await ring.create(new_key(name))
    guard = Guard(Policy(GRANTS, owners={0}), clock, audit, monotonic=monotonic.now)
    defaults = Defaults("mem", new_key().algorithm, "rfc9421", new_key().kid_format, LifecyclePolicy())
    publication = Publication(ring, PublicationRules())
    issuer, revocations = TokenIssuer(ring, publication, guard), Revocations(clock)
    book = SessionBook(ring, guard, issuer, revocations)
    signer = Signer(ring, BUILT_IN, guard)
    inner = {
        "signing": SigningService(ring, signer, SessionSigner(ring, guard, book), publication, guard),
        "sessions": SessionService(book),
        "session_admin": for_operators(
            SERVICES["session_admin"], SessionAdminService(book, revocations, clock, publication), guard
        ),
        "keys": for_operators(SERVICES["keys"], KeyService(ring, defaults, guard, Rotator(ring, Rules())), guard),
        "backends": for_operators(
            SERVICES["backends"], BackendService(ring, Monitor(ring, lambda: asyncio.sleep(0)), {"mem": "memory"}), guard
        ),
    }
    services = {n: admitted(SERVICES[n], s, guard) for n, s in inner.items()}
    yield House(clock, monotonic, ring, guard, audit, services, publication, book, signer)
    book.close_all()
    runner.close()
    store.close()


async def reason(call: Awaitable[Any]) -> str:
    with pytest.raises(KeydError) as caught:
        await call
    return caught.value.reason
