"""Which replica plans: the one that holds a lock in the database.

That only saves the others the work. A replica that goes on although it lost the lock does no harm, because every change is made
on what is on record then, and every version that is being made has one owner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf

import structlog

from keyd.core.fleet.clock import since_boot
from keyd.core.fleet.session import AWAY, Session, session

#: The advisory lock, as PostgreSQL names those of two numbers: "keyd" in ASCII, and which of its locks.
LOCK = (0x6B657964, 1)
INTERVAL = 2.0  # seconds between two pings
LEASE = 6.0  # seconds after a ping in which the lock is certainly held
#: Seconds without a ping after which the database ends the session, and with it the lock. Longer than the lease.
SESSION_TIMEOUT = 10
_log = structlog.get_logger("keyd.fleet")


class Leader:
    """Tries to hold the lock, and knows whether it does."""

    def __init__(self, conninfo: str, *, boottime: Callable[[], float] = since_boot) -> None:
        """``conninfo`` is as libpq takes it; ``boottime`` returns seconds on a clock that nobody sets."""
        self._conninfo = conninfo
        self._boottime = boottime
        self._held_at = -inf
        self._told = False

    def leads(self) -> bool:
        """Say whether this replica plans now. A process that was stopped for long knows at once that it does not."""
        return self._boottime() - self._held_at < LEASE

    async def run(self) -> None:
        """Hold the lock whenever it can be had, for ever."""
        while True:
            try:
                async with session(self._conninfo) as connection:
                    await connection.run(f"SET idle_session_timeout = '{SESSION_TIMEOUT}s'")
                    await self._hold(connection)
            except AWAY:  # whether the database is there is the follower's to tell
                pass
            except Exception:  # noqa: BLE001 - a defect must not end it: nobody might plan any more
                _log.exception("holding the planner's lock failed, the next attempt goes on")
            finally:
                self._held_at = -inf
                self._tell()
            await asyncio.sleep(INTERVAL)

    async def _hold(self, connection: Session) -> None:
        held = False
        while True:
            asked = self._boottime()
            if held:
                await connection.run("SELECT 1")
            else:
                held = bool(await connection.run("SELECT pg_try_advisory_lock(%s, %s)", *LOCK))
            if held:
                self._held_at = asked
            self._tell()
            await asyncio.sleep(INTERVAL)

    def _tell(self) -> None:
        leads = self.leads()
        if leads is not self._told:
            self._told = leads
            _log.info("this replica plans rotations now" if leads else "this replica does not plan rotations any more")
