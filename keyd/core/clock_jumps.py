"""Notices that the clock was set, or that the machine slept: timers do not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from keyd.core.clock import Clock

_EVERY = 0.5  # seconds
_TOLERANCE = 0.1  # a clock that is slewed gains or loses less


async def watch_for_jumps(
    clock: Clock,
    jumped: Callable[[], None],
    *,
    every: float = _EVERY,
    monotonic: Callable[[], float] = time.monotonic,
) -> None:
    """Call ``jumped`` whenever the clock did not go on by as much time as passed. Never returns."""
    offset = clock.now() - monotonic()
    while True:
        await asyncio.sleep(every)
        found = clock.now() - monotonic()
        if abs(found - offset) > _TOLERANCE:
            jumped()
        offset = found
