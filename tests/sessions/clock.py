"""One clock for all processes: keyd, the agents and the resources. It stands still until somebody moves it."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path


class SharedClock:
    """Seconds since the epoch, in a file that every process maps."""

    def __init__(self, path: Path) -> None:
        """Open the clock in a file that :meth:`set_up` made."""
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8)

    @classmethod
    def set_up(cls, path: Path, now: float) -> SharedClock:
        path.write_bytes(struct.pack("=d", now))
        return cls(path)

    def now(self) -> float:
        found: float = struct.unpack("=d", self._map[:8])[0]
        return found

    def advance(self, seconds: float) -> None:
        self._map[:8] = struct.pack("=d", self.now() + seconds)
