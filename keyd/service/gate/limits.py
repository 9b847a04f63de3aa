"""How much there may be of something, in all and for each caller, and how often the log hears of what there may not."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import structlog

_log = structlog.get_logger("keyd.gate")


class Quota:
    """Counts connections, or calls, in all and for each account (:attr:`keyd.core.principal.Principal.account`)."""

    def __init__(self, most: int, most_per_account: int) -> None:
        self._most = most
        self._most_per_account = most_per_account
        self._count = 0
        self._by_account: Counter[str] = Counter()
        #: How many were refused since the start.
        self.refused = 0

    def enter(self, account: str) -> bool:
        """Count one more, if it may be; each one that was is taken off by :meth:`leave`."""
        if self._count >= self._most or self._by_account[account] >= self._most_per_account:
            self.refused += 1
            if not self._by_account[account]:
                del self._by_account[account]
            return False
        self._count += 1
        self._by_account[account] += 1
        return True

    def leave(self, account: str) -> None:
        """Take one off that :meth:`enter` counted."""
        self._count -= 1
        self._by_account[account] -= 1
        if not self._by_account[account]:
            del self._by_account[account]  # nothing is kept of who has gone


class Complaints:
    """Warns in the log, once a second at most for each event; what is left out is counted in the next."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[str, float] = {}
        self._unsaid: Counter[str] = Counter()

    def __call__(self, event: str, **fields: object) -> None:
        """Warn of an event, which is one of a few fixed texts."""
        now = self._clock()
        if now - self._last.get(event, -1.0) < 1:
            self._unsaid[event] += 1
            return
        self._last[event] = now
        more = self._unsaid.pop(event, 0)
        _log.warning(event, **fields, **({"more": more} if more else {}))
