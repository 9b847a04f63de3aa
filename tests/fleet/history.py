"""What happened, as the checks in the end need to know it. Every time is on the monotonic clock of the test."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from math import inf


@dataclass
class History:
    """Shared by all threads."""

    #: When the compromise of a kid began to be asked for, and when it was confirmed.
    compromised: dict[str, tuple[float, float]] = field(default_factory=dict)
    #: Kids whose public key a verifier had to look for again, because the first JWK Set did not have it yet.
    late: dict[str, int] = field(default_factory=dict)
    #: Keys without an active version: a compromise was recorded, and its successor met an outage. From when until when.
    without: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    #: Signatures that failed for want of an active version: which key, from when until when, and what is to be said of it.
    lacking: list[tuple[str, float, float, str]] = field(default_factory=list)
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

    def outage(self, key: str, begin: float) -> None:
        """The key had no active version since ``begin``, because its successor met an outage; now it has one."""
        with self.lock:
            self.without.setdefault(key, []).append((begin, time.monotonic() + 1))

    def lacked(self, key: str, begin: float, what: str) -> None:
        """A signature failed for want of an active version. Whether that may be is known in the end."""
        with self.lock:
            self.lacking.append((key, begin, time.monotonic(), what))

    def judge(self) -> None:
        """Fail for each signature that lacked an active version although nothing kept a successor from being made."""
        for key, begin, end, what in self.lacking:
            if any(begin < until and end > since for since, until in self.without.get(key, ())):
                self.count("without an active version, its successor met an outage")
            else:
                self.fail(what)

    def compromising(self, kid: str) -> None:
        with self.lock:
            self.compromised[kid] = (time.monotonic(), inf)

    def confirmed(self, kid: str) -> None:
        with self.lock:
            self.compromised[kid] = (self.compromised[kid][0], time.monotonic())
