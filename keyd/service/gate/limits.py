"""How much there may be of something, in all and for each caller, and how often the log hears of what there may not."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Protocol

import structlog

#: Accounts that are remembered; the one that connected longest ago is forgotten first.
_MAX_ACCOUNTS = 10_000
_log = structlog.get_logger("keyd.gate")


class Places(Protocol):
    """Where connections are counted, perhaps in another process."""

    async def take(self, account: str) -> Callable[[], None] | None:
        """Count one more connection of the account. Returns what takes it off again, to be called once; None: there may be no more."""
        ...


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

    async def take(self, account: str) -> Callable[[], None] | None:
        """Be the :class:`Places` of this process."""
        return partial(self.leave, account) if self.enter(account) else None

    def leave(self, account: str) -> None:
        """Take one off that :meth:`enter` counted."""
        self._count -= 1
        self._by_account[account] -= 1
        if not self._by_account[account]:
            del self._by_account[account]  # nothing is kept of who has gone


class Arrivals:
    """Says when to look at a new connection. To find out whose it is costs more than a call does; who connects again and again waits."""

    PER_SECOND, AT_ONCE = 50, 50

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next: OrderedDict[str, float] = OrderedDict()

    def wait(self, account: str) -> float:
        """Count one connection of the account, and return in how many seconds it has its turn."""
        now = self._clock()
        turn = max(self._next.pop(account, 0.0), now - self.AT_ONCE / self.PER_SECOND)
        self._next[account] = turn + 1 / self.PER_SECOND
        while len(self._next) > _MAX_ACCOUNTS:
            self._next.popitem(last=False)
        return max(0.0, turn - now)


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
