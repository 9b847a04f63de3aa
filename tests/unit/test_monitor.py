"""The monitor: what it notices, what it mends, and when a backend counts as sound again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from math import inf
from pathlib import Path
from types import SimpleNamespace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from remote_backend import RemoteBackend
from support import FakeClock, intent, keyring, new_key
from unit.test_rotator import DAY, pasts

from backends import errors as backend_errors
from backends.api import Algorithm
from keyd.core.errors import BackendFailedError
from keyd.core.keyring import Keyring
from keyd.core.monitor import Monitor
from keyd.core.runner import BackendRunner
from keyd.core.snapshot import KeyView, Snapshot
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
    assert "1 of its versions are no good" in (world.monitor.failure("remote") or "")
    assert world.monitor.answers("remote"), "one bad key does not take the others out of service"
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


async def test_a_version_that_proved_itself_and_was_swapped_proves_itself_again_when_it_is_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.ring.create(new_key(backend="remote"))
    await world.ring.create(new_key("other", backend="remote"))
    assert await world.monitor.look("remote")
    there = world.backend.public_key
    with monkeypatch.context() as patch:
        patch.setattr(world.backend, "public_key", lambda _: there("other.1"))
        await world.monitor.look("remote")
        assert not await world.monitor.look("remote")
    world.backend.calls.clear()
    assert await world.monitor.look("remote")
    assert world.backend.calls.count("sign") == 1


async def test_a_lost_answer_is_mended_when_the_store_is_back(world: World) -> None:
    noted = intent(world.store, "agent", "remote")
    world.backend.create("agent", noted.version, Algorithm.ED25519)
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
    assert "failed unexpectedly (ZeroDivisionError)" in (world.monitor.failure("remote") or "")
    assert "secret" not in (world.monitor.failure("remote") or "")


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
    noted = intent(world.store, "agent", "remote")
    world.backend.create("agent", noted.version, Algorithm.ED25519)
    await world.restart()
    assert await world.monitor.look("remote")
    assert world.store.load().intents == (noted,), "it says whose the version is"
    await world.ring.rotate("agent", at_once=True)
    world.clock.advance(30 * 86400)
    await world.ring.destroy("agent", 1)
    await world.ring.rotate("agent", at_once=True)
    world.clock.advance(30 * 86400)
    await world.ring.destroy("agent", 3)
    assert world.backend.held == {"agent.4"}
    assert not world.store.load().intents


async def test_a_number_that_the_store_makes_later_is_ours_too(ordered: World) -> None:
    """A store that counts versions itself fills the gap which a creation that failed has left."""
    world = ordered
    await world.ring.create(new_key(backend="remote"))
    intent(world.store, "agent", "remote")
    await world.restart()
    assert await world.monitor.look("remote")
    assert not world.store.load().intents, "nothing was made, and whoever makes something there now is somebody else"
    await world.ring.rotate("agent", at_once=True)
    assert world.backend.held == {"agent.1", "agent.2", "agent.3"}
    world.clock.advance(30 * 86400)
    await world.ring.destroy("agent", 1)
    assert world.backend.held == {"agent.3"}
    assert not world.store.load().intents


async def test_until_it_was_looked_at_nothing_is_known(world: World) -> None:
    assert not world.monitor.answers("remote")
    assert await world.monitor.look("remote")
    assert world.monitor.answers("remote")
    await world.monitor.withdraw()
    assert not world.monitor.answers("remote"), "nobody is to be sent here any more"


async def test_health_that_changed_during_a_look_is_told(world: World) -> None:
    """The breaker opens and closes while a look hangs: what was told last is what is so."""
    told = []

    async def tell() -> None:
        told.append(world.monitor.answers("remote"))

    await world.ring.create(new_key(backend="remote"))
    world.monitor = Monitor(world.ring, tell)
    await world.monitor.look("remote")
    while not world.runner.breaker.failed("x"):
        pass
    await world.monitor.look("remote")  # finds it open, or takes the one place that there is
    world.runner.breaker.succeeded()
    await world.monitor.look("remote")
    assert world.monitor.answers("remote")
    assert told[-1] is True


async def test_every_key_of_every_backend_gets_its_turn(tmp_path: Path) -> None:
    backends = {name: RemoteBackend() for name in ("a", "b")}
    runners = {name: BackendRunner(name, backend) for name, backend in backends.items()}
    store = SqlStore(tmp_path / "keyd.db")
    ring = keyring(store, runners, FakeClock())
    await ring.start()
    for name in backends:
        for number in (1, 2):
            await ring.create(new_key(f"{name}{number}", backend=name))

    async def nobody() -> None: ...

    monitor = Monitor(ring, nobody)
    for name, backend in backends.items():
        await monitor.look(name)
        backend.asked.clear()
    for _ in range(2):
        for name in backends:
            await monitor.look(name)
    assert [backend.asked for backend in backends.values()] == [{"a1.1", "a2.1"}, {"b1.1", "b2.1"}]
    store.close()
    for runner in runners.values():
        runner.close()


async def test_one_bad_key_is_not_paid_for_by_the_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Disabled in KMS, for example: it is tried again at each look, the sound ones are not, and it hides none of them."""
    for number in range(4):
        await world.ring.create(new_key(f"k{number}", backend="remote"))
    good = world.backend.sign

    def sign(handle: str, algorithm: Algorithm, message: bytes) -> bytes:
        signature = good(handle, algorithm, message)
        if handle == "k0.1":
            raise backend_errors.BackendAccessError("key is disabled")
        return signature

    with monkeypatch.context() as patch:
        patch.setattr(world.backend, "sign", sign)
        world.backend.calls.clear()
        assert not await world.monitor.look("remote")
        assert world.backend.calls.count("sign") == 4
        for _ in range(5):
            assert not await world.monitor.look("remote")
        assert world.backend.calls.count("sign") == 9
        assert "key is disabled" in (world.monitor.failure("remote") or "")
        assert world.monitor.answers("remote")
    assert await world.monitor.look("remote")


async def test_a_bad_key_that_the_database_lost_is_no_outage(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gone", "stays"):
        await world.ring.create(new_key(name, backend="remote"))
    good = world.backend.sign

    def sign(handle: str, algorithm: Algorithm, message: bytes) -> bytes:
        if handle == "gone.1":
            raise backend_errors.BackendAccessError("key is disabled")
        return good(handle, algorithm, message)

    monkeypatch.setattr(world.backend, "sign", sign)
    assert not await world.monitor.look("remote")
    assert "key is disabled" in (world.monitor.failure("remote") or "")
    world.ring._on_record.snapshot = Snapshot({"stays": world.ring.snapshot.get("stays")})
    assert await world.monitor.look("remote"), world.monitor.failure("remote")
    assert world.monitor.answers("remote")


async def test_a_bad_key_that_the_database_loses_during_the_look_is_no_outage(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("gone", "stays"):
        await world.ring.create(new_key(name, backend="remote"))
    good = world.backend.sign

    def sign(handle: str, algorithm: Algorithm, message: bytes) -> bytes:
        if handle == "gone.1":
            world.ring._on_record.snapshot = Snapshot({"stays": world.ring.snapshot.get("stays")})
            raise backend_errors.BackendAccessError("key is disabled")
        return good(handle, algorithm, message)

    monkeypatch.setattr(world.backend, "sign", sign)
    await world.monitor.look("remote")
    assert world.monitor.answers("remote")
    assert await world.monitor.look("remote")


@given(st.lists(st.tuples(pasts(), st.floats(-20 * DAY, 60 * DAY)), min_size=1, max_size=8))
@settings(max_examples=60)
def test_every_key_that_a_look_at_all_finds_in_use_is_looked_after(history: list[tuple[KeyView, float]]) -> None:
    outside = SimpleNamespace(backend=SimpleNamespace(capabilities=SimpleNamespace(in_process=False)))
    ring = SimpleNamespace(clock=FakeClock(), backends={"mem": outside, "other": outside})
    monitor, keys = Monitor(ring, lambda: None), Snapshot()  # type: ignore[arg-type,return-value]
    for view, passed in history:
        keys = keys.with_keys(view)
        for wait in (passed, 0.001):
            ring.clock.time += wait
            for name, outlook in monitor._outlooks.items():
                for _ in outlook.catch_up(keys, ring.clock.time):
                    pass
                used = {key.key.name for key in keys.keys.values() if key.key.backend == name and list(monitor._needed(key))}
                assert set(outlook.found) == used
                assert set(monitor._watched[name].unproven) == used


async def test_a_store_that_refuses_everything_does_not_answer(world: World) -> None:
    await world.ring.create(new_key(backend="remote"))
    await world.monitor.look("remote")
    world.backend.failure = backend_errors.BackendAccessError("token revoked")
    assert not await world.monitor.look("remote")
    assert not world.monitor.answers("remote")


async def test_one_destruction_that_fails_holds_up_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        await world.ring.create(new_key(name, backend="remote"))
        await world.ring.compromise(name, 1, "stolen")
    world.backend.failure = AWAY
    for name in ("a", "b", "c"):
        await world.ring.destroy(name, 1)
    world.backend.failure = None
    good = world.backend.destroy

    def destroy(handle: str) -> None:
        if handle == "b.1":
            raise backend_errors.BackendAccessError("not yours")
        good(handle)

    monkeypatch.setattr(world.backend, "destroy", destroy)
    await world.monitor.look("remote")
    shown = {name: world.ring.snapshot.get(name).versions[0].record.handle for name in ("a", "b", "c")}
    assert shown == {"a": None, "b": "b.1", "c": None}
    assert {v.key: v.handle for v in world.store.load().versions if v.version == 1} == shown
    assert world.runner.mend_wanted


async def test_what_must_wait_for_somebody_elses_version_wants_no_mending(
    ordered: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = ordered
    for version in (1, 2):
        world.backend.create("legacy", version, Algorithm.ED25519)
    await world.ring.adopt(new_key(backend="remote"), "legacy.2", None)
    await world.ring.compromise("agent", 1, "stolen")
    change = await world.ring.destroy("agent", 1)
    assert "after the versions before it" in change.warnings[0]
    await world.restart()
    assert await world.monitor.look("remote")
    assert not world.runner.mend_wanted
    assert {"legacy.1", "legacy.2"} <= world.backend.held


async def test_a_key_that_was_swapped_inside_of_the_process_signs_nothing(tmp_path: Path) -> None:
    world = World(tmp_path / "keyd.db")
    world.backend.capabilities = replace(world.backend.capabilities, in_process=True)
    await world.ring.start()
    await world.ring.create(new_key(backend="remote"))
    view = world.ring.snapshot.get("agent").versions[0]
    assert await world.runner.sign(view, Algorithm.ED25519, b"m")
    world.backend.destroy("agent.1")
    world.backend.create("agent", 1, Algorithm.ED25519)
    assert not await world.monitor.look("remote")
    with pytest.raises(BackendFailedError, match="does not verify"):
        await world.runner.sign(view, Algorithm.ED25519, b"m")
    world.close()
