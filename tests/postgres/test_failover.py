"""A database that has lost what it had confirmed: the replicas agree again, and what was stopped stays stopped."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import structlog
from components.postgres import Database
from postgres.test_follower import Replica, two
from support import new_key, until

from keyd.core import failover
from keyd.core.errors import StoreUnavailableError
from keyd.core.model import KeyVersion
from keyd.core.snapshot import Snapshot
from keyd.core.timeline import KeyState


class Copy:
    """The database as it was at one moment, to take the place of what it is."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._name = f"{database.name}_copy"
        self._cut()
        database.server.execute(f"CREATE DATABASE {self._name} TEMPLATE {database.name} OWNER keyd")

    def take_over(self) -> None:
        server, name = self._database.server, self._database.name
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")
        server.execute(f"ALTER DATABASE {self._name} RENAME TO {name}")

    def _cut(self) -> None:
        """End every connection, or there is no copy to be had."""
        self._database.server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [self._database.name]
        )


def states(replica: Replica, name: str = "agent") -> dict[int, KeyState]:
    view, now = replica.ring.snapshot.get(name), replica.ring.clock.now()
    return {v.record.version: v.record.timeline.state(now) for v in view.versions}


async def copied(database: Database) -> Copy:
    for _ in range(200):  # somebody may connect between the cut and the copy
        try:
            return await asyncio.to_thread(Copy, database)
        except Exception:
            await asyncio.sleep(0.02)
    raise AssertionError("no copy to be had")


async def test_what_was_stopped_stays_stopped_on_every_replica_and_in_the_database(database: Database) -> None:
    async with two(database) as (one, other):
        for name in ("agent", "off", "same"):
            await one.ring.create(new_key(name))
        await one.ring.rotate("off", at_once=True)
        copy = await copied(database)
        await one.ring.compromise("agent", 1, "stolen")
        await one.ring.set_enabled("off", False)
        await one.ring.destroy("off", 1, force=True)
        await until(lambda: other.ring.snapshot == one.ring.snapshot)
        same = other.ring.snapshot.get("same")
        with structlog.testing.capture_logs() as logs:
            copy.take_over()
            await until(lambda: all(r.ring.snapshot.get("off").key.change > 0 and len(states(r)) == 1 for r in (one, other)))
            await until(lambda: all(r.follower.up is True for r in (one, other)))
            await until(lambda: one.ring.snapshot == other.ring.snapshot)
        for replica in (one, other):
            assert states(replica) == {1: KeyState.COMPROMISED}
            assert states(replica, "off")[1] is KeyState.DESTROYED
            assert replica.ring.snapshot.get("off").key.disabled_at is not None
        records = one.store.load()
        assert Snapshot.of(records.keys, records.versions) == one.ring.snapshot
        assert other.ring.snapshot.get("same") is same
        told = {entry["event"].partition(";")[0] for entry in logs if entry["log_level"] == "error"}
        assert "the database has lost what was stopped" in told
        assert "the database has lost versions that it had confirmed" in told


async def test_numbers_of_changes_that_are_given_out_again_hide_nothing(database: Database) -> None:
    """The other replica makes as many changes as were lost, and more, before this one is back."""
    async with two(database) as (one, other):
        for name in ("agent", "other"):
            await one.ring.create(new_key(name))
        copy = await copied(database)
        await one.ring.compromise("agent", 1, "stolen")
        await until(lambda: other.ring.snapshot == one.ring.snapshot)
        seen = one.ring.newest_change
        copy.take_over()
        await until(lambda: other.ring.newest_change != seen or other.follower.up is False)
        for _ in range(4):
            for attempt in range(200):
                try:
                    await other.ring.rotate("other", at_once=True)
                    break
                except StoreUnavailableError:
                    assert attempt < 199
                    await asyncio.sleep(0.02)
        await until(lambda: one.ring.snapshot == other.ring.snapshot and one.ring.newest_change > seen)
        assert states(one)[1] is KeyState.COMPROMISED


async def test_an_outage_without_a_loss_changes_nothing(database: Database) -> None:
    async with two(database) as (one, other):
        await one.ring.create(new_key())
        await one.ring.compromise("agent", 1, "stolen")
        await until(lambda: other.ring.snapshot == one.ring.snapshot)
        before, views = one.store.load().change, dict(other.ring.snapshot.keys)
        with structlog.testing.capture_logs() as logs:
            database.server.restart()
            await until(lambda: one.follower.up is False or other.follower.up is False or bool(logs))
            await until(lambda: one.follower.up is True and other.follower.up is True)
        assert one.store.load().change == before
        assert all(other.ring.snapshot.keys[name] is view for name, view in views.items())
        assert not [entry for entry in logs if "lost" in entry["event"]]


class TestAgain:
    """What has to be stopped again, without a database."""

    @staticmethod
    def snapshot(**timeline: float) -> Snapshot:
        from keyd.core.timeline import first

        key = new_key()
        record = KeyVersion("agent", 1, "kid", "thumb", "{}", "h", replace(first(0.0), **timeline), "stolen")
        return Snapshot.of([key], [record])

    @pytest.mark.parametrize(("field", "what"), [("compromised_at", "compromised"), ("destroyed_at", "destroyed")])
    def test_a_version(self, field: str, what: str) -> None:
        before, found = self.snapshot(**{field: 5.0}), self.snapshot()
        (stop,) = failover.again(before, found, 10.0)
        assert stop.what == f"version 1 {what}"
        assert getattr(stop.changed[0].timeline, field) <= 10.0
        assert failover.again(found, before, 10.0) == []
        assert failover.again(before, before, 10.0) == []

    def test_another_version_of_the_same_number(self) -> None:
        before, found = self.snapshot(compromised_at=5.0), self.snapshot()
        (view,) = found.keys.values()
        other = Snapshot.of([view.key], [replace(view.versions[0].record, thumbprint="another")])
        assert failover.again(before, other, 10.0) == []
        assert failover.lost(before, other) == ["kid"]
        assert failover.lost(before, found) == []
