"""Puts together what this process shares with others on the same database. Without others, it is the only one of its fleet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import structlog

from keyd.core.clock import Clock, SystemClock
from keyd.core.errors import KeydError
from keyd.core.fleet.clock import FleetClock, SteadyClock, newest_moment
from keyd.core.fleet.heartbeat import Heartbeat
from keyd.core.fleet.remains import Remains
from keyd.core.keyring import Keyring
from keyd.core.sessions.revocations import Revocations
from keyd.core.store import SqlStore
from keyd.service.metrics import Replica

if TYPE_CHECKING:  # the driver of PostgreSQL is needed only by those who use it
    from keyd.core.fleet.follower import Follower
    from keyd.core.fleet.leader import Leader


_LOOK = 1.0  # seconds between two looks at what other workers changed
_log = structlog.get_logger("keyd.fleet")


class Fleet:
    """The replicas on one database as one of them sees them.

    Attributes:
        clock: the time that all of them go by.
    """

    def __init__(
        self, store: SqlStore, conninfo: str | None, clock: Clock | None = None, leads: Callable[[], bool] | None = None
    ) -> None:
        """Begin with an open store.

        Args:
            store: the store; on PostgreSQL, this replica is registered there.
            conninfo: how to reach the PostgreSQL database beneath, as libpq takes it; None: it is SQLite, and nobody else's.
            clock: go by this one, whatever the database's says. Without it, by the database's, and for SQLite by this machine's.
            leads: says whether this process plans, where it is one of several workers on one SQLite database.
        """
        self._store = store
        self._conninfo = conninfo
        self._team_leads = leads
        self._databases = FleetClock() if conninfo is not None and clock is None else None
        beneath = clock or self._databases or SystemClock()
        self.clock = SteadyClock(beneath, "this machine" if self._databases is None else "the database")
        self._heart: Heartbeat | None = None
        self._follower: Follower | None = None
        self._leader: Leader | None = None
        self._keyring: Keyring | None = None

    async def tell_time(self, stack: AsyncExitStack) -> None:
        """Find out the time; before this, the clock may be wrong. Raises ClockError, StoreUnavailableError."""
        if self._conninfo is not None:
            self._heart = Heartbeat(self._store, self._databases)
            stack.callback(self._heart.close)
            await self._heart.first()

    def keep_time(self, keyring: Keyring) -> None:
        """Keep time after what is on record, and have changes refused while it is in doubt."""
        self.clock.not_before(newest_moment(keyring.snapshot))
        keyring.check_clock = self._check_change

    def check_signing(self) -> None:
        """Raise ClockError while nothing may be signed because the time is in doubt."""
        if self._databases is not None:
            self._databases.check()

    def follow(
        self, keyring: Keyring, revocations: Revocations, on_clock: Callable[[bool], Awaitable[None]], stack: AsyncExitStack
    ) -> None:
        """See what others change, and be seen, until ``stack`` ends it.

        ``on_clock`` is awaited with whether the clock is right, whenever that is otherwise than before.
        """
        if self._conninfo is None or self._heart is None:
            if self._team_leads is not None:
                remains = Remains(keyring, self._store, self.leads)
                for work in (self._look(keyring, revocations), remains.run()):
                    stack.push_async_callback(_end, asyncio.create_task(work))
            return
        from keyd.core.fleet.follower import Follower
        from keyd.core.fleet.leader import Leader

        async def reload() -> None:
            await keyring.reload()
            await revocations.reload()

        async def refresh() -> None:
            await keyring.refresh()
            read = keyring.newest_change  # a change of our own may come while the list is read
            await revocations.refresh()
            if revocations.newest_change < read:  # the database has lost changes that were read
                await reload()

        def newest() -> int:
            # What one of them lacks is read, also where the other knows of that change by itself.
            return min(keyring.newest_change, revocations.newest_change)

        self._keyring = keyring
        self._follower = Follower(self._conninfo, newest, refresh, reload)
        self._leader = Leader(self._conninfo)
        remains = Remains(keyring, self._store, self._leader.leads)
        for work in (self._heart.run(on_clock), self._follower.run(), self._leader.run(), remains.run()):
            stack.push_async_callback(_end, asyncio.create_task(work))

    def leads(self) -> bool:
        """Say whether this replica is the one that plans rotations."""
        if self._conninfo is None:
            return self._team_leads is None or self._team_leads()
        return self._leader is not None and self._leader.leads()

    def figures(self) -> Replica:
        """Return what the figures say of this replica."""
        follower = self._follower
        return Replica(
            leads=self.leads(),
            store_up=None if follower is None else bool(follower.up),
            newest_change=None if self._keyring is None else self._keyring.newest_change,
            refresh_age=None if follower is None else follower.age,
            clock_offset=None if self._databases is None else self._databases.skew,
        )

    async def _look(self, keyring: Keyring, revocations: Revocations) -> None:
        """Look at the database that other workers share: they tell of their changes, but one may have ended before it could."""
        while True:
            await asyncio.sleep(_LOOK)
            try:
                await keyring.refresh()
                await revocations.refresh()
            except KeydError as exc:
                _log.warning("what other workers changed cannot be read, the next look comes", error=str(exc))

    def _check_change(self) -> None:
        self.check_signing()
        self.clock.check()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
