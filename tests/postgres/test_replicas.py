"""Two keyrings on one database: whoever plans, and however often both do, each change is made once, on what is on record then."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from components.postgres import Database
from remote_backend import RemoteBackend
from support import FakeClock, keyring, memory_backend, new_key, until

from backends.api import Algorithm
from backends.errors import BackendUnavailableError
from keyd.core import moves, succession
from keyd.core.errors import AlreadyExistsError, ConflictError, KeyStateError
from keyd.core.fleet.remains import Remains
from keyd.core.keyring import Keyring
from keyd.core.runner import BackendRunner
from keyd.core.store import Intent, SqlStore
from keyd.core.timeline import KeyState


@dataclass
class Two:
    """Two replicas with one backend, and one clock."""

    clock: FakeClock
    stores: list[SqlStore] = field(default_factory=list)
    rings: list[Keyring] = field(default_factory=list)

    def active(self) -> list[int]:
        """Return the numbers of the active versions, as each replica sees them."""
        found = []
        for ring in self.rings:
            states = [(v.record.version, v.record.timeline.state(self.clock.now())) for v in ring.snapshot.get("agent").versions]
            (number,) = [number for number, state in states if state is KeyState.ACTIVE]
            found.append(number)
        return found

    async def refresh(self) -> None:
        for ring in self.rings:
            await ring.refresh()


@pytest.fixture
async def two(database: Database) -> AsyncIterator[Two]:
    runner = BackendRunner("mem", memory_backend())
    world = Two(FakeClock())
    for name in ("one", "other"):
        store = SqlStore.on_postgres(database.conninfo, replica_name=name)
        store.register(name)
        world.stores.append(store)
        world.rings.append(keyring(store, {"mem": runner}, world.clock))
    await world.rings[0].create(new_key())
    await world.refresh()
    yield world
    for store in world.stores:
        store.close()
    runner.close()


@pytest.mark.parametrize("at_once", [False, True])
async def test_both_act_as_leader_and_one_version_is_made(two: Two, at_once: bool) -> None:
    """A leader that lost its lock in the middle of its work goes on, while the next one does the same work."""
    for turn in range(5):
        before = len(two.rings[0].snapshot.get("agent").versions)
        results = await asyncio.gather(*(ring.rotate("agent", at_once=at_once) for ring in two.rings), return_exceptions=True)
        refused = [result for result in results if isinstance(result, BaseException)]
        assert all(isinstance(result, ConflictError | KeyStateError | AlreadyExistsError) for result in refused), refused
        assert len(refused) < 2, f"turn {turn}: one of them gets there"
        await two.refresh()
        after = len(two.rings[0].snapshot.get("agent").versions)
        assert after - before == 2 - len(refused) if at_once else after - before == 1
        assert two.rings[0].snapshot.keys == two.rings[1].snapshot.keys
        two.clock.advance(2 * 86400)
        assert len(set(two.active())) == 1


async def test_what_both_do_at_once_leaves_one_active_version(two: Two) -> None:
    for turn in range(12):
        one, other = two.rings
        came_to = await asyncio.gather(
            one.rotate("agent", at_once=turn % 2 == 0),
            other.compromise("agent", two.active()[0], "test"),
            one.set_paused("agent", turn % 3 == 0),
            other.rotate("agent", at_once=True),
            return_exceptions=True,
        )
        await two.rings[turn % 2].set_paused("agent", False)
        await two.refresh()
        for later in (0, 1, 86400, 86400):
            two.clock.advance(later)
            for ring in two.rings:
                states = [v.record.timeline.state(two.clock.now()) for v in ring.snapshot.get("agent").versions]
                assert states.count(KeyState.ACTIVE) == 1, f"turn {turn}: {states}, and the calls came to {came_to}"
    assert two.rings[0].snapshot.keys == two.rings[1].snapshot.keys
    kids = [v.record.kid for v in two.rings[0].snapshot.get("agent").versions]
    assert len(set(kids)) == len(kids)


async def test_an_emergency_at_one_while_the_other_plans_leaves_one_active_version(two: Two) -> None:
    """The one finds the waiting version of the other only when it records its own."""
    one, other = two.rings
    await other.rotate("agent")
    await one._next("agent", moves.at_once)
    await two.refresh()
    assert two.active() == [3, 3]
    two.clock.advance(86400)
    assert two.active() == [2, 2], "what was announced takes over when it was said to"
    two.clock.advance(86400)
    assert two.active() == [2, 2]


@dataclass
class Outside:
    """A replica that dies in the middle, and one that finds what it left."""

    backend: RemoteBackend
    dead: SqlStore
    store: SqlStore
    ring: Keyring
    runner: BackendRunner
    leads: bool = True
    remains: Remains = field(init=False)

    def __post_init__(self) -> None:
        self.remains = Remains(self.ring, self.store, lambda: self.leads)


@pytest.fixture
async def outside(database: Database) -> AsyncIterator[Outside]:
    backend = RemoteBackend()
    runner = BackendRunner("remote", backend)
    dead, store = (SqlStore.on_postgres(database.conninfo, replica_name=name) for name in ("dead", "alive"))
    dead.register("dead")
    store.register("alive")
    ring = keyring(store, {"remote": runner}, FakeClock())
    await ring.start()
    await ring.create(new_key(backend="remote"))
    runner.mend_wanted = False
    runner.troubled.clear()
    yield Outside(backend, dead, store, ring, runner)
    dead.close()
    store.close()
    runner.close()


async def test_what_a_dead_replica_was_making_is_mended_once_it_counts_as_dead(outside: Outside) -> None:
    intent = Intent("agent", outside.dead.next_version("agent"), "remote", outside.dead.replica)
    outside.dead.begin_version(intent)
    outside.backend.create("agent", 2, Algorithm.ED25519)
    await outside.remains.look()
    assert not outside.runner.mend_wanted, "it is being made"
    outside.store.alive_for = 0.0
    await outside.remains.look()
    assert outside.runner.mend_wanted
    assert outside.runner.troubled.is_set(), "the monitor looks at once"
    await outside.ring.mend("remote")
    assert outside.backend.held == {"agent.1"}
    assert not outside.store.load().intents
    outside.runner.mend_wanted = False
    await outside.remains.look()
    assert not outside.runner.mend_wanted


async def test_what_this_replica_makes_is_none_of_its_remains(outside: Outside) -> None:
    outside.store.begin_version(Intent("agent", 2, "remote", outside.store.replica))
    outside.store.alive_for = 0.0
    await outside.remains.look()
    assert not outside.runner.mend_wanted


async def test_a_destruction_that_nobody_finished_is_finished(outside: Outside) -> None:
    clock = outside.ring.clock
    assert isinstance(clock, FakeClock)
    await outside.ring.rotate("agent", at_once=True)
    clock.advance(30 * 86400)
    outside.backend.failure = BackendUnavailableError("away")
    await outside.ring.destroy("agent", 1)
    outside.backend.failure = None
    outside.runner.mend_wanted = False
    await outside.remains.look()
    assert not outside.runner.mend_wanted, "it may be under way"
    clock.advance(61)
    await outside.remains.look()
    assert outside.runner.mend_wanted
    outside.runner.mend_wanted = False
    await outside.remains.look()
    assert not outside.runner.mend_wanted, "asked for once: it may have to wait for an older one"


async def test_only_who_leads_looks_and_an_outage_does_not_end_it(
    outside: Outside, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyd.core.fleet.remains.INTERVAL", 0.01)
    outside.dead.begin_version(Intent("agent", 2, "remote", outside.dead.replica))
    outside.store.alive_for = 0.0
    outside.leads = False
    task = asyncio.create_task(outside.remains.run())
    await asyncio.sleep(0.2)
    assert not outside.runner.mend_wanted
    with database.server.away():
        outside.leads = True
        await asyncio.sleep(0.2)
    await until(lambda: outside.runner.mend_wanted)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_a_successor_that_another_replica_makes_is_waited_for(two: Two) -> None:
    one, other = two.rings
    view = one.snapshot.get("agent")
    stopped = moves.compromised(view, two.clock.now(), 1, "stolen")
    await asyncio.to_thread(two.stores[0].update, view.key, stopped.changed)  # as a compromise does before its successor
    await two.refresh()
    waiting = asyncio.ensure_future(succession.wait(other, "agent"))
    await one.rotate("agent")
    await asyncio.sleep(0)
    assert not waiting.done()
    await other.refresh()
    assert await waiting
    assert two.active() == [2, 2]


async def test_an_emergency_that_the_planner_mends_first_names_no_failure(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """The replica that plans sees the lack and makes the successor, before the one does that was told of the compromise."""
    one, other = two.rings
    begin = two.stores[0].begin_version

    def later(intent: Intent) -> None:
        monkeypatch.undo()
        two.stores[1].begin_version(Intent("agent", intent.version, "", two.stores[1].replica))
        two.stores[1].note(Intent("agent", intent.version, "mem", two.stores[1].replica))
        try:
            begin(intent)
        finally:
            two.stores[1].abandon_version(Intent("agent", intent.version, "mem", two.stores[1].replica))
            made.set()

    made = threading.Event()
    monkeypatch.setattr(two.stores[0], "begin_version", later)
    stopping = asyncio.ensure_future(one.compromise("agent", 1, "stolen"))
    await until(made.is_set)
    await other.refresh()
    await other.rotate("agent")
    await one.refresh()
    change = await stopping
    assert not any("successor" in warning for warning in change.warnings)
    await two.refresh()
    assert two.active() == [3, 3]
