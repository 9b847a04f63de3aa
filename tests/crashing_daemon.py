"""The daemon, but it kills itself with SIGKILL right before or after one step that $KEYD_TEST_CRASH names."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from backends.file import FileBackend
from keyd.cli import main
from keyd.core.monitor import Monitor
from keyd.core.store import SqlStore

when, step = os.environ["KEYD_TEST_CRASH"].split(":")
owner: type = FileBackend if step.startswith("backend.") else SqlStore
name = step.removeprefix("backend.")
original = getattr(owner, name)


def crash(*args: Any, **kwargs: Any) -> Any:
    if when == "after":
        original(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)


async def look(*args: Any) -> bool:
    return True  # it is to die of what it is asked for, not of looking after itself


setattr(owner, name, crash)
Monitor.look = look
if __name__ == "__main__":
    sys.argv[0] = "keyd"
    main()
