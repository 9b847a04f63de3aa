"""The monitor: what it notices, what it mends, and when a backend counts as sound again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from math import inf
from pathlib import Path

import pytest
from remote_backend import RemoteBackend
from support import FakeClock, keyring, new_key

from backends import errors as backend_errors
from backends.api import Algorithm
from keyd.core.keyring import Keyring
from keyd.core.monitor import Monitor
from keyd.core.runner import BackendRunner
from keyd.core.store import SqlStore
from keyd.core.timeline import KeyState

AWAY = backend_errors.BackendUnavailableError("connection refused")


class World:
    def __init__(self, path: Path, *, ordered: bool = False) -> None:
        self.clock = FakeClock()
        self.backend = RemoteBackend(ordered=ordered)
        self.path = path
        self.changes = 0
        self.open()

    def open(self) -> None:
        self.runner = BackendRunner("remote", self.backend)
        self.store = SqlStore(self.path)
        self.ring: Keyring = keyring(self.store, {"remote": self.runner}, self.clock)
        self.monitor = Monitor(self.ring, self.changed)

    async def restart(self) -> None:
        self.close()
        self.open()
        await self.ring.start()

    def close(self) -> None:
        self.store.close()
        self.runner._pool.shutdown()

    async def changed(self) -> None:
        self.changes += 1

    def handles(self) -> list[str | None]:
        return [v.record.handle for v in self.ring.snapshot.get("agent").versions]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path / "keyd.db")
    await world.ring.start()
    yield world
    world.close()


@pytest.fixture
async def ordered(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path / "keyd.db", ordered=True)
    await world.ring.start()
    yield world
    world.close()


async def test_it_starts_with_the_store_away_and_recovers_by_itself(world: World) -> None:
    await world.ring.create(new_key(backend="remote"))
    world.backend.failure = AWAY
    world.backend.calls.clear()
    await world.restart()
    assert world.backend.calls == [], "the start waits for a store outside"
    assert not await world.monitor.look("remote")
    assert "connection refused" in (world.monitor.failure("remote") or "")
    world.backend.failure = None
    assert await world.monitor.look("remote")
    assert world.monitor.failure("remote") is None
    assert world.changes == 2


async def test_every_version_proves_itself_when_the_store_is_there(world: World) -> None:
    for name in ("agent", "other"):
        await world.ring.create(new_key(name, backend="remote"))
    world.backend.calls.clear()
    assert await world.monitor.look("remote")
    assert world.backend.calls.count("sign") == 2
    world.backend.calls.clear()
    assert await world.monitor.look("remote")
    assert world.backend.calls.count("sign") == 0, "once is enough, until it fails"


async def test_a_failed_self_test_is_noticed(world: World) -> None:
    await world.ring.create(new_key(backend="remote"))
    world.backend.lies = True
    assert not await world.monitor.look("remote")
    assert "1 versions fail their self-test" in (world.monitor.failure("remote") or "")
    world.backend.lies = False
    assert await world.monitor.look("remote")


async def test_another_key_under_the_same_handle_is_noticed(world: World) -> None:
    change = await world.ring.create(new_key(backend="remote"))
    assert await world.monitor.look("remote")
    assert change.version.handle is not None
    world.backend.destroy(change.version.handle)
    world.backend.create("agent", 1, Algorithm.ED25519)
    assert not await world.monitor.look("remote")
    assert "another key than the recorded one" in (world.monitor.failure("remote") or "")
    assert world.ring.snapshot.get("agent").active(world.clock.time) is not None, "an odd store takes nothing off the record"


async def test_a_lost_answer_is_mended_when_the_store_is_back(world: World) -> None:
    intent = world.store.begin_version("agent", "remote")
    world.backend.create("agent", intent.version, Algorithm.ED25519)
    world.backend.failure = AWAY
    await world.restart()
    assert not await world.monitor.look("remote")
    assert world.store.load().intents
    world.backend.failure = None
    assert await world.monitor.look("remote")
    assert not world.store.load().intents
    assert world.backend.held == set()


async def test_a_destruction_that_was_not_confirmed_is_finished(world: World) -> None:
    await world.ring.create(new_key(backend="remote"))
    await world.ring.compromise("agent", 1, "stolen")
    assert await world.monitor.look("remote")
    world.backend.failure = AWAY
    change = await world.ring.destroy("agent", 1)
    assert "keyd tries again" in change.warnings[0]
    assert change.version.timeline.state(world.clock.time) is KeyState.DESTROYED
    world.backend.failure = None
    assert await world.monitor.look("remote")
    assert world.handles()[0] is None
    assert len(world.backend.held) == 1


async def test_a_plugin_that_raises_anything_does_not_end_the_watch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(world.backend, "list", broken)
    assert not await world.monitor.look("remote")
    assert world.monitor.failure("remote") == "unexpected ZeroDivisionError"


async def test_destruction_in_order(ordered: World) -> None:
    """Where the store destroys oldest first, a newer version waits, and goes with the older one, orphans included."""
    world = ordered
    await world.ring.create(new_key(backend="remote"))
    for _ in range(2):
        await world.ring.rotate("agent", at_once=True)
    await world.ring.compromise("agent", 2, "stolen")
    change = await world.ring.destroy("agent", 2)
    assert "after the versions before it" in change.warnings[0]
    assert len(world.backend.held) == 3
    world.clock.advance(30 * 86400)
    await world.restart()
    assert await world.monitor.look("remote"), "what waits for its turn is no failure"
    assert not world.runner.mend_wanted
    change = await world.ring.destroy("agent", 1)
    assert change.warnings == ()
    assert world.handles()[:2] == [None, None]
    assert world.handles()[2] is not None
    assert len(world.backend.held) == 1
    assert all(v.timeline.destroyed_at != inf for v in (change.version, world.ring.snapshot.get("agent").versions[1].record))


async def test_an_orphan_in_the_middle_waits_for_its_turn(ordered: World) -> None:
    world = ordered
    await world.ring.create(new_key(backend="remote"))
    intent = world.store.begin_version("agent", "remote")
    world.backend.create("agent", intent.version, Algorithm.ED25519)
    await world.restart()
    assert await world.monitor.look("remote")
    assert not world.store.load().intents
    await world.ring.rotate("agent", at_once=True)
    world.clock.advance(30 * 86400)
    await world.ring.destroy("agent", 1)
    await world.ring.rotate("agent", at_once=True)
    world.clock.advance(30 * 86400)
    await world.ring.destroy("agent", 3)
    assert world.backend.held == {"agent.4"}
