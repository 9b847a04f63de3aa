"""What the daemon is told by signals: to stop (SIGTERM, SIGINT), or to read its configuration again (SIGHUP)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

import structlog

from keyd import process

_log = structlog.get_logger("keyd")


class Signals:
    """Catches them in the running event loop, and keeps each until it is seen to.

    Attributes:
        stop: set once the daemon has to end.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.stop, self._reload = asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)

    async def obey(self, reload: Callable[[], Awaitable[None] | None], drain: float) -> None:
        """Serve until told to stop, and tell the service manager; ``drain`` is how long calls under way then have, in seconds."""
        process.notify("READY=1")
        while not self.stop.is_set():
            await first(self.stop, self._reload)
            if self._reload.is_set() and not self.stop.is_set():
                self._reload.clear()
                if (reloading := reload()) is not None:
                    await reloading
        process.notify("STOPPING=1")
        _log.info("stopping, calls under way are finished first", drain_seconds=drain)


async def first(*waits: asyncio.Event | asyncio.Task[bool]) -> None:
    """Return when one of these has happened; tasks go on."""
    tasks = [each if isinstance(each, asyncio.Task) else asyncio.ensure_future(each.wait()) for each in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if task not in waits:
            task.cancel()
