"""Stores that write one PostgreSQL database at once: numbers are given out once, and who follows sees every change, in order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest
from components.postgres import Database
from support import FakeClock, keyring, memory_backend, new_key

from keyd.core.errors import AlreadyExistsError, ConflictError, KeyStateError
from keyd.core.keyring import Keyring
from keyd.core.runner import BackendRunner
from keyd.core.snapshot import Snapshot
from keyd.core.store import Intent, Records, SqlStore
from keyd.core.timeline import KeyState

NAMES = ("a", "b", "c")
ROUNDS = 8


@pytest.fixture
def stores(database: Database) -> Iterator[list[SqlStore]]:
    with ExitStack() as stack:
        opened = [SqlStore.on_postgres(database.conninfo, replica_name=f"replica {number}") for number in range(3)]
        for store in opened:
            stack.callback(store.close)
            store.register("replica")
        yield opened


def test_of_those_who_want_a_number_at_once_one_gets_it_and_no_change_is_counted(stores: list[SqlStore]) -> None:
    together = threading.Barrier(len(stores))

    def begin(store: SqlStore, number: int) -> str:
        together.wait(30)
        try:
            store.begin_version(Intent("agent", number, "mem", store.replica))
        except (AlreadyExistsError, ConflictError) as exc:
            return type(exc).__name__
        return "given"

    before = stores[0].load().change
    with ThreadPoolExecutor() as pool:
        for number in range(1, 3 * ROUNDS):
            told = list(pool.map(begin, stores, [number] * len(stores)))
            assert told.count("given") == 1, told
            (intent,) = stores[0].load().intents
            assert intent.version == number
            stores[0].abandon_version(intent)
    found = stores[0].load()
    assert (found.change, found.intents) == (before, ())


class Follower(threading.Thread):
    """Reads what changed, again and again, as a replica does, and keeps what it was told."""

    def __init__(self, store: SqlStore) -> None:
        super().__init__()
        self._store = store
        self._over = threading.Event()
        self.seen = Records((), (), (), 0)
        self.wrong: list[str] = []

    def run(self) -> None:
        while not self._over.is_set():
            self.look()

    def look(self) -> None:
        """Take what is newer than what was seen."""
        found = self._store.load(self.seen.change)
        if found.change < self.seen.change:
            self.wrong.append(f"change {found.change} came after {self.seen.change}")
        self.wrong += [
            f"{key.name} has {key.change}, the newest is {found.change}" for key in found.keys if key.change > found.change
        ]
        keys = {key.name: key for key in self.seen.keys} | {key.name: key for key in found.keys}
        versions = {(v.key, v.version): v for v in (*self.seen.versions, *found.versions)}
        self.seen = Records(tuple(keys.values()), tuple(versions.values()), (), found.change)

    def end(self) -> Snapshot:
        self._over.set()
        self.join(30)
        self.look()
        return Snapshot.of(self.seen.keys, self.seen.versions)


async def changes(ring: Keyring, turn: int) -> int:
    """Do a bit of everything, and return how much of it was done."""
    done = 0
    for number, name in enumerate(NAMES):
        active = ring.snapshot.get(name).active(ring.clock.now())
        acts = (
            lambda: ring.rotate(name, at_once=True),  # noqa: B023 - done in this turn
            lambda: ring.compromise(name, active.record.version if active else 1, "test"),  # noqa: B023
            lambda: ring.set_paused(name, turn % 2 == 0),  # noqa: B023
        )
        try:
            await acts[(turn + number) % len(acts)]()
            done += 1
        except (AlreadyExistsError, ConflictError, KeyStateError):
            pass
    return done


async def test_who_follows_sees_every_change_and_one_active_version(stores: list[SqlStore], database: Database) -> None:
    clock, runner = FakeClock(), BackendRunner("mem", memory_backend())
    rings = [keyring(store, {"mem": runner}, clock) for store in stores]
    for name in NAMES:
        await rings[0].create(new_key(name))
    for ring in rings:
        await ring.refresh()
    with closing(SqlStore.on_postgres(database.conninfo, replica_name="follower")) as own, closing(runner):
        follower = Follower(own)
        follower.start()
        done = 0
        for turn in range(ROUNDS):
            done += sum(await asyncio.gather(*(changes(ring, turn) for ring in rings)))
        followed = await asyncio.to_thread(follower.end)
        assert done >= ROUNDS, "they hinder each other so much that this shows nothing"
        assert not follower.wrong
        found = await asyncio.to_thread(own.load)
        everything = Snapshot.of(found.keys, found.versions)
        assert followed == everything
        for ring in rings:
            await ring.refresh()
            assert ring.snapshot == everything
            assert ring.newest_change == found.change
        for view in everything.keys.values():
            states = [version.record.timeline.state(clock.now()) for version in view.versions]
            assert states.count(KeyState.ACTIVE) == 1, states
            assert len({version.record.version for version in view.versions}) == len(states)
