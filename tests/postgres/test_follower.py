"""Every replica hears of a change within a second, by notification or without, and follows again after any outage."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from math import inf

import pytest
import structlog
from components.postgres import Database
from support import FakeClock, keyring, memory_backend, new_key, until

from keyd.core.errors import StoreUnavailableError
from keyd.core.fleet.follower import Follower
from keyd.core.keyring import Keyring
from keyd.core.runner import BackendRunner
from keyd.core.sessions.revocations import Revocations
from keyd.core.store import SqlStore
from keyd.fleet import Fleet


@asynccontextmanager
async def running(follower: Follower) -> AsyncIterator[Follower]:
    task = asyncio.create_task(follower.run())
    try:
        yield follower
    finally:
        assert not task.done(), "nothing ends it"
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class Replica:
    """A keyring on the database of all, and what keeps it so."""

    def __init__(self, database: Database, runner: BackendRunner, *, listen: bool = True) -> None:
        self.store = SqlStore.on_postgres(database.conninfo, replica_name="test")
        self.ring: Keyring = keyring(self.store, {"mem": runner}, FakeClock())
        newest = lambda: self.ring.newest_change  # noqa: E731
        self.follower = Follower(database.conninfo, newest, self.ring.refresh, self.ring.reload, listen=listen)

    def versions(self) -> int:
        view = self.ring.snapshot.keys.get("agent")
        return 0 if view is None else len(view.versions)


@asynccontextmanager
async def two(database: Database, *, listen: bool = True) -> AsyncIterator[tuple[Replica, Replica]]:
    async with AsyncExitStack() as stack:
        runner = BackendRunner("mem", memory_backend())
        stack.callback(runner.close)
        replicas = []
        for _ in range(2):
            replica = Replica(database, runner, listen=listen)
            stack.callback(replica.store.close)
            await replica.ring.start()
            await stack.enter_async_context(running(replica.follower))
            replicas.append(replica)
        await until(lambda: all(replica.follower.up is True for replica in replicas))
        yield replicas[0], replicas[1]


async def seconds_until_seen(one: Replica, other: Replica) -> float:
    """Return the longest time in which a waiter at another replica heard of a change."""
    longest = 0.0
    for number in range(2, 7):
        heard = asyncio.create_task(other.ring.changed(5))
        await asyncio.sleep(0.13)
        await one.ring.rotate("agent", at_once=True)
        began = time.monotonic()
        await heard
        await until(lambda: other.versions() == number)  # noqa: B023 - run before the next turn
        longest = max(longest, time.monotonic() - began)
    return longest


async def test_changes_are_heard_of_at_once(database: Database) -> None:
    async with two(database) as (one, other):
        await one.ring.create(new_key())
        await until(lambda: other.versions() == 1)
        assert await seconds_until_seen(one, other) < 0.5
        assert other.ring.snapshot.keys == one.ring.snapshot.keys


async def test_changes_are_heard_of_within_a_second_without_notifications(database: Database) -> None:
    async with two(database, listen=False) as (one, other):
        await one.ring.create(new_key())
        await until(lambda: other.versions() == 1)
        assert await seconds_until_seen(one, other) < 1.5, "a second, and what it takes to read"


async def test_an_outage_is_told_once_and_ends(database: Database) -> None:
    async with two(database) as (one, other):
        await one.ring.create(new_key())
        await until(lambda: other.versions() == 1)
        with structlog.testing.capture_logs() as logs:
            with database.server.away():
                await until(lambda: one.follower.up is False and other.follower.up is False)
                await asyncio.sleep(0.3)
                assert other.follower.age > 0.3
                with pytest.raises(StoreUnavailableError):
                    await one.ring.rotate("agent", at_once=True)
                assert other.versions() == 1, "what was known stays so"
            await until(lambda: one.follower.up is True and other.follower.up is True)
        told = [entry["event"].split(":")[0] for entry in logs if entry["event"].startswith("database")]
        assert sorted(told) == ["database away", "database away", "database is back", "database is back"]
        await one.ring.rotate("agent", at_once=True)
        await until(lambda: other.versions() == 2)
        assert other.follower.age < 5


async def test_a_database_that_hangs_is_away(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyd.core.fleet.session._PATIENCE", 0.3)
    async with two(database) as (one, other):
        await one.ring.create(new_key())
        await until(lambda: other.versions() == 1)  # or it may hang in the store, which is more patient
        with database.server.hung():
            await until(lambda: other.follower.up is False)
        await until(lambda: other.follower.up is True)


async def test_a_refresh_that_fails_is_made_again(database: Database) -> None:
    SqlStore.on_postgres(database.conninfo, replica_name="test").close()
    failures: list[Exception] = [StoreUnavailableError("away"), ZeroDivisionError("a defect")]
    done = asyncio.Event()

    async def refresh() -> None:
        if failures:
            raise failures.pop()
        done.set()

    follower = Follower(database.conninfo, lambda: -1, refresh, refresh)
    assert follower.age == inf
    async with running(follower):
        await asyncio.wait_for(done.wait(), 10)
        assert not failures


async def test_what_is_changed_and_read_while_the_database_answers_is_no_loss(database: Database) -> None:
    looks, reloads = 0, 0
    with closing(SqlStore.on_postgres(database.conninfo, replica_name="test")) as store:

        def newest() -> int:
            nonlocal looks
            looks += 1
            store.revoke([], 0.0)  # takes the number of a change
            return store.load().change

        async def reload() -> None:
            nonlocal reloads
            reloads += 1

        async with running(Follower(database.conninfo, newest, nothing, reload)):
            await until(lambda: looks > 5)
    assert reloads == 0


async def nothing() -> None:
    """There is nothing to read."""


class Busy(Revocations):
    """A list during whose reading this replica changes a key."""

    def __init__(self, ring: Keyring, store: SqlStore) -> None:
        super().__init__(ring.clock, store)
        self.ring = ring
        self.reads = self.reloads = 0

    async def refresh(self) -> None:
        await super().refresh()
        self.reads += 1
        await self.ring.set_paused("agent", self.reads % 2 == 1)

    async def reload(self) -> None:
        self.reloads += 1
        await super().reload()


async def test_a_change_of_our_own_while_the_list_of_revoked_tokens_is_read_is_no_loss(database: Database) -> None:
    async with AsyncExitStack() as stack:
        store = SqlStore.on_postgres(database.conninfo, replica_name="test")
        runner, clock = BackendRunner("mem", memory_backend()), FakeClock()
        stack.callback(store.close)
        stack.callback(runner.close)
        ring = keyring(store, {"mem": runner}, clock)
        await ring.create(new_key())
        busy, fleet = Busy(ring, store), Fleet(store, database.conninfo, clock)
        await fleet.tell_time(stack)
        fleet.follow(ring, busy, lambda _: asyncio.sleep(0), stack)
        await until(lambda: busy.reads > 5)
    assert busy.reloads == 0
