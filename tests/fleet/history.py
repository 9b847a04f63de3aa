"""What happened, as the checks in the end need to know it. Every time is on the monotonic clock of the test."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf


@dataclass
class History:
    """Shared by all threads."""

    #: When the compromise of a kid began to be asked for, and when it was confirmed.
    compromised: dict[str, tuple[float, float]] = field(default_factory=dict)
    #: Kids whose public key a verifier had to look for again, because the first JWK Set did not have it yet.
    late: dict[str, int] = field(default_factory=dict)
    #: Keys that can have no active version: a compromise was recorded, and its successor met an outage. From when until when.
    without: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str) -> None:
        with self.lock:
            self.counts[what] += 1

    def fail(self, what: str) -> None:
        with self.lock:
            self.failures.append(what)
        print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)

    @contextmanager
    def emergency(self, key: str) -> Iterator[None]:
        """The key can have no active version meanwhile."""
        with self.lock:
            windows = self.without.setdefault(key, [])
            windows.append((time.monotonic(), inf))
        try:
            yield
        finally:
            with self.lock:
                windows[-1] = windows[-1][0], time.monotonic() + 1

    def in_emergency(self, key: str, begin: float, end: float) -> bool:
        with self.lock:
            return any(begin < until and end > since for since, until in self.without.get(key, ()))

    def compromising(self, kid: str) -> None:
        with self.lock:
            self.compromised[kid] = (time.monotonic(), inf)

    def confirmed(self, kid: str) -> None:
        with self.lock:
            self.compromised[kid] = (self.compromised[kid][0], time.monotonic())
