"""One replica plans. Its lock ends with it, however it ends, and when it is stopped for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
import structlog
from components.postgres import Database
from support import until

from keyd.core.fleet import leader as module
from keyd.core.fleet.leader import INTERVAL, LEASE, Leader


@asynccontextmanager
async def running(leader: Leader) -> AsyncIterator[Leader]:
    task = asyncio.create_task(leader.run())
    try:
        yield leader
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0.02)


def sessions(database: Database) -> list[int]:
    """Return the server's processes that serve a session with the lock."""
    rows = database.execute(
        "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = %s AND objid = %s",
        (module.LOCK[0], module.LOCK[1]),
    )
    return [pid for (pid,) in rows]


async def test_one_leads_and_the_next_one_when_it_ends(database: Database) -> None:
    async with AsyncExitStack() as others:
        second, third = Leader(database.conninfo), Leader(database.conninfo)
        async with running(Leader(database.conninfo)) as first:
            assert not first.leads(), "not before it has the lock"
            await until(first.leads)
            await others.enter_async_context(running(second))
            await others.enter_async_context(running(third))
            await asyncio.sleep(0.2)
            assert first.leads()
            assert not second.leads()
            assert not third.leads()
        assert not first.leads(), "nor after"
        await until(lambda: second.leads() or third.leads())
        assert second.leads() is not third.leads()
        assert len(sessions(database)) == 1


async def test_a_lost_session_is_a_lost_lock(database: Database) -> None:
    async with running(Leader(database.conninfo)) as first:
        await until(first.leads)
        with structlog.testing.capture_logs() as logs:
            async with running(Leader(database.conninfo)) as second:
                for pid in sessions(database):
                    database.execute("SELECT pg_terminate_backend(%s)", (pid,))
                await until(lambda: len(logs) >= 2)
                await until(lambda: first.leads() is not second.leads())
        assert "this replica does not plan rotations any more" in [entry["event"] for entry in logs]


async def test_it_leads_again_after_the_database_was_away(database: Database) -> None:
    async with running(Leader(database.conninfo)) as leader:
        await until(leader.leads)
        with database.server.away():
            await until(lambda: not leader.leads())
        await until(leader.leads)


async def test_who_was_stopped_for_longer_than_its_lease_does_not_lead(database: Database) -> None:
    skipped = 0.0

    def boottime() -> float:
        return asyncio.get_running_loop().time() + skipped

    async with running(Leader(database.conninfo, boottime=boottime)) as leader:
        await until(leader.leads)
        skipped += LEASE - 1
        assert leader.leads()
        skipped += 1
        assert not leader.leads(), "at once, without asking the database"
        await until(leader.leads)


async def test_the_database_takes_the_lock_from_who_does_not_ping(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a process that is stopped: its session goes on, and nothing comes."""
    monkeypatch.setattr(module, "SESSION_TIMEOUT", 1)
    async with running(Leader(database.conninfo)) as first:
        await until(first.leads)
        monkeypatch.setattr(module, "INTERVAL", 30)
        await asyncio.sleep(0.1)  # it sleeps for 30 s now
        assert sessions(database)
        await until(lambda: not sessions(database))
        monkeypatch.setattr(module, "INTERVAL", 0.02)
        async with running(Leader(database.conninfo)) as second:
            await until(second.leads)


def test_the_lease_ends_before_the_database_gives_the_lock_away() -> None:
    assert LEASE < module.SESSION_TIMEOUT
    assert INTERVAL < LEASE / 2


async def test_a_database_that_is_not_there_ends_nothing(tmp_path: object) -> None:
    async with running(Leader(f"host={tmp_path} dbname=none")) as leader:
        await asyncio.sleep(0.2)
        assert not leader.leads()
