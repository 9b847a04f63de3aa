"""Says to the other replicas that this one is alive, and looks at the database's clock while it does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import structlog

from keyd.core.errors import KeydError
from keyd.core.fleet.clock import FleetClock
from keyd.core.runner import THREAD_PREFIX

INTERVAL = 2.0  # seconds between two beats
_FIRST = 3  # looks at the clock before the start
_log = structlog.get_logger("keyd.fleet")


class Replicas(Protocol):
    """The part of the store that knows who is alive."""

    def seen(self) -> float:
        """Note that this replica is alive. Returns the database's clock in seconds since the epoch. Raises StoreUnavailableError."""
        ...


class Heartbeat:
    """Beats every :data:`INTERVAL` seconds, in a thread of its own: a database that hangs must not hold others up."""

    def __init__(self, store: Replicas, clock: FleetClock | None) -> None:
        """Beat in ``store``; ``clock`` is to look at its database's, if somebody goes by that."""
        self._store = store
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"{THREAD_PREFIX}heartbeat")

    async def first(self) -> None:
        """Find out the time before anything depends on it. Raises ClockError, StoreUnavailableError."""
        for _ in range(_FIRST):
            await self._beat()
        if self._clock is not None:
            self._clock.check()

    async def run(self, on_clock: Callable[[bool], Awaitable[None]]) -> None:
        """Beat for ever. ``on_clock`` is awaited with whether the clock is right, whenever that is otherwise than before."""
        told = True
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                await self._beat()
            except KeydError:  # whether the database is there is the follower's to tell
                if self._clock is not None:
                    self._clock.carry_on()
            except Exception:  # noqa: BLE001 - a defect must not end it: the others would take this replica for dead
                _log.exception("heartbeat failed, the next one comes")
            right = self._clock is None or self._clock.right
            if right is not told:
                told = right
                await on_clock(right)

    def close(self) -> None:
        """End the thread, once the beat under way is over."""
        self._thread.shutdown(wait=False)

    async def _beat(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._look)

    def _look(self) -> None:
        if self._clock is None:
            self._store.seen()
        else:
            self._clock.look(self._store.seen)
