"""The daemon, but its clock is the one in $KEYD_TEST_CLOCK, and it looks after sessions and backends more often."""

from __future__ import annotations

import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from keyd import app
from keyd.cli import main
from keyd.config import Config
from keyd.core import monitor
from keyd.core.clock import Clock
from keyd.core.sessions import book
from sessions.clock import SharedClock

original = app.start
shared = SharedClock(Path(os.environ["KEYD_TEST_CLOCK"]))


async def start(config: Config, stack: AsyncExitStack, clock: Clock | None = None) -> app.Daemon:
    return await original(config, stack, clock or shared)


app.start = start
book.INTERVAL = 0.02
monitor.INTERVAL = 0.2
if __name__ == "__main__":
    sys.argv[0] = "keyd"
    main()
