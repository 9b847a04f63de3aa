"""Sees what other replicas changed, within milliseconds by notification and within a second in any case."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import inf

import structlog

from keyd.core.errors import KeydError
from keyd.core.fleet.clock import since_boot
from keyd.core.fleet.session import AWAY, Session, cause, session
from keyd.core.store.postgres import CHANNEL

INTERVAL = 1.0  # seconds after which it looks without having been told
_LONGEST_PAUSE = 1.0  # seconds between two attempts to reach the database
_LAST_READ = 2.0  # seconds that what is being read in the end may take
_log = structlog.get_logger("keyd.fleet")


class Follower:
    """Keeps the keys of this process as they are in the database."""

    def __init__(
        self,
        conninfo: str,
        newest: Callable[[], int],
        refresh: Callable[[], Awaitable[None]],
        reload: Callable[[], Awaitable[None]],
        *,
        listen: bool = True,
        boottime: Callable[[], float] = since_boot,
    ) -> None:
        """Watch the database at ``conninfo``.

        Args:
            conninfo: as libpq takes it.
            newest: returns the number of the newest change that was read.
            refresh: reads the changes after that.
            reload: reads everything, and sees to what was lost; for when the database was away, and may not be what it was.
            listen: hear notifications, not only look.
            boottime: seconds on a clock that nobody sets.
        """
        self._conninfo = conninfo
        self._newest = newest
        self._refresh = refresh
        self._reload = reload
        self._following = False
        self._listen = listen
        self._boottime = boottime
        self._looked = -inf
        #: Whether the database answers; None before the first attempt.
        self.up: bool | None = None

    @property
    def age(self) -> float:
        """Seconds since the keys were last known to be as in the database; ``inf`` before the first time."""
        return self._boottime() - self._looked

    async def run(self) -> None:
        """Follow for ever, whatever happens to the database."""
        pause = 0.1
        while True:
            try:
                async with session(self._conninfo) as connection:
                    if self._listen:
                        await connection.run(f"LISTEN {CHANNEL}")
                    if self._following:
                        await self._read(self._reload)
                    await self._look(connection)
                    self._following, pause = True, 0.1
                    while True:
                        await connection.notified(INTERVAL)
                        await self._look(connection)
            except (*AWAY, KeydError) as exc:
                self._lost(cause(exc))
            except Exception:  # noqa: BLE001 - a defect must not end it: this replica would never again hear of a change
                _log.exception("following the database failed, the next attempt goes on")
                self._lost("unexpected error")
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _look(self, connection: Session) -> None:
        began = self._boottime()
        # In this order: what is read while the database answers must not look like what it has lost.
        newest, last = self._newest(), await connection.run("SELECT last FROM changes")
        if last != newest:
            await self._read(self._refresh if last > newest else self._reload)
        self._looked = began
        if self.up is False:
            _log.info("database is back")
        self.up = True

    async def _read(self, read: Callable[[], Awaitable[None]]) -> None:
        """Read what changed; to the end also when this is to end, because the store is closed right after."""
        reading = asyncio.ensure_future(read())
        try:
            await asyncio.shield(reading)
        except asyncio.CancelledError:
            await asyncio.wait({reading}, timeout=_LAST_READ)
            raise

    def _lost(self, why: str) -> None:
        if self.up is not False:
            _log.error("database away: signing goes on, nothing can be changed and what others change is not seen", error=why)
        self.up = False
