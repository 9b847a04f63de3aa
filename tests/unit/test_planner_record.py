"""What the planner does by itself leaves records like an operator's call, and is not done without."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from pathlib import Path

import pytest
from support import FakeClock, keyring, memory_backend, new_key

from backends.errors import BackendUnavailableError
from keyd.core.decision import Decision
from keyd.core.errors import AuditError
from keyd.core.guard import Guard
from keyd.core.keyring import Keyring
from keyd.core.planner import Rules, StepKind
from keyd.core.planner_record import PlannerRecord
from keyd.core.policy import Policy
from keyd.core.rotator import Rotator
from keyd.core.runner import BackendRunner
from keyd.core.store import SqlStore
from keyd.core.timeline import LifecyclePolicy

DAY = 86400.0
LIFECYCLE = LifecyclePolicy(rotation_period=10 * DAY, destroy_after=0.0)


class Trail:
    """An audit trail that is kept in memory, and can refuse."""

    def __init__(self) -> None:
        self.records: list[Decision] = []
        self.full = False
        self.waits = False

    def write(self, decision: Decision) -> Awaitable[None] | None:
        if self.full:
            raise AuditError("no room")
        self.records.append(decision)
        return None

    def told(self) -> list[tuple[str, int | None, str | None, str | None]]:
        return [(each.operation, each.version, each.reason, each.detail) for each in self.records]


class World:
    def __init__(self, path: Path) -> None:
        self.clock, self.trail, self.backend = FakeClock(), Trail(), memory_backend()
        self.store, self.runner = SqlStore(path), BackendRunner("mem", self.backend)
        self.ring: Keyring = keyring(self.store, {"mem": self.runner}, self.clock)
        guard = Guard(Policy(), self.clock, self.trail)
        self.rotator = Rotator(self.ring, Rules(jitter=0, create_ahead=DAY), record=PlannerRecord(guard))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path / "keyd.db")
    await world.ring.create(new_key(lifecycle=LIFECYCLE))
    world.clock.advance(8.5 * DAY)  # the next version is due to be made
    yield world
    world.store.close()
    world.runner.close()


async def test_a_version_is_on_record_before_and_after_it_is_made(world: World) -> None:
    await world.rotator.step()
    assert world.trail.told() == [
        ("rotate_key", 2, None, "planned, by keyd itself"),
        ("rotate_key", 2, None, "done, version 2, by keyd itself"),
    ]
    assert {(each.key, each.principal.uid, each.principal.pid) for each in world.trail.records} == {
        ("agent", os.geteuid(), os.getpid())
    }


async def test_so_is_a_private_key_before_and_after_it_is_destroyed(world: World) -> None:
    await world.rotator.step()
    await world.ring.set_lifecycle("agent", replace(LIFECYCLE, rotation_period=1000 * DAY))
    world.clock.advance(5 * DAY)
    world.trail.records.clear()
    await world.rotator.step()
    assert world.rotator.done[StepKind.DESTROY] == 1
    assert world.trail.told() == [
        ("destroy_version", 1, None, "planned, by keyd itself"),
        ("destroy_version", 1, None, "done, version 1, by keyd itself"),
    ]


async def test_nothing_is_done_that_cannot_be_recorded(world: World) -> None:
    world.trail.full = True
    await world.rotator.step()
    assert len(world.ring.snapshot.get("agent").versions) == 1
    world.trail.full = False
    world.clock.advance(3600)
    await world.rotator.step()
    assert len(world.ring.snapshot.get("agent").versions) == 2


async def test_why_it_failed_is_on_record(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> str:
        raise BackendUnavailableError("away")

    monkeypatch.setattr(world.backend, "create", away)
    await world.rotator.step()
    assert [(operation, reason) for operation, _, reason, _ in world.trail.told()] == [
        ("rotate_key", None),
        ("rotate_key", "BACKEND_UNAVAILABLE"),
    ]
