"""Rates: token buckets, one for each principal and one for each grant that a principal uses."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MAX_BUCKETS = 10_000
#: What a call that is refused for what it asks takes from its rate beside its own: it was as much work as one that is not, and is on record.
REFUSAL_COST = 9
#: How often a share is refused for its rate, in the long run, before it is left waiting.
REFUSALS_PER_SECOND = 10
#: A connection is held back for that long at most, in seconds: for one refusal, as its other calls wait as well; and for many, less
#: than what makes either side think that the other is gone.
LONGEST_HOLD, LONGEST_HOLD_FOR_MANY = 1.0, 15.0


@dataclass(frozen=True, slots=True)
class Rate:
    """So many per second, and so many at once after a pause."""

    per_second: float
    burst: int


class Bucket:
    """A token bucket. It starts full."""

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._tokens = float(rate.burst)
        self._at = now

    def take(self, rate: Rate, cost: int, now: float) -> float:
        """Take ``cost`` tokens and return 0, or take none and return in how many seconds they are there.

        What costs more than a whole burst is let through when the bucket is full, and leaves it in debt.

        Args:
            rate: the rate that holds now; a reload may have changed it.
            now: on the monotonic clock.
        """
        tokens, burst = self._tokens, rate.burst
        if now > self._at:
            tokens += (now - self._at) * rate.per_second
            self._at = now
        self._rate = rate
        if tokens > burst:
            tokens = float(burst)
        needed = min(burst, cost)
        if tokens + 1e-9 < needed:  # what half a second at rate 2 gives may be a rounding error less than 1
            self._tokens = tokens
            return (needed - tokens) / rate.per_second
        self._tokens = tokens - cost
        return 0.0

    def owe(self, cost: int) -> None:
        """Take ``cost`` tokens, there or not, down to a whole burst in debt."""
        self._tokens = max(self._tokens - cost, -float(self._rate.burst))

    def full(self, now: float) -> bool:
        """Say whether a new bucket would be the same."""
        return self._tokens + (now - self._at) * self._rate.per_second >= self._rate.burst


class Rates:
    """The buckets by name, as many as are in use; a full one is forgotten, for a new one is the same."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, *, limit: int = MAX_BUCKETS) -> None:
        self._monotonic = monotonic
        self._limit = limit
        self._buckets: OrderedDict[tuple[str, str], Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: tuple[str, str], rate: Rate, cost: int = 1) -> float:
        """Take from the bucket ``key``; see :meth:`Bucket.take`."""
        now = self._monotonic()
        bucket = self._buckets.get(key)
        if bucket is None:
            self._make_room(now)
            bucket = self._buckets[key] = Bucket(rate, now)
        return bucket.take(rate, cost, now)

    def owe(self, key: tuple[str, str], cost: int) -> None:
        """Take from the bucket ``key`` what may not be there; see :meth:`Bucket.owe`. Nothing, if the bucket is not in use."""
        bucket = self._buckets.get(key)
        if bucket is not None:
            bucket.owe(cost)

    def _make_room(self, now: float) -> None:
        """Forget full buckets once there are many; when none is full, those that were made first."""
        if len(self._buckets) < self._limit:
            return
        for key in [key for key, bucket in self._buckets.items() if bucket.full(now)]:
            del self._buckets[key]
        while len(self._buckets) > self._limit * 3 // 4:  # a scan for each new one would itself be a load
            self._buckets.popitem(last=False)


class Refusals:
    """Counts what is refused for its rate, so that a flood of it does not flood the audit trail as well."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, *, limit: int = MAX_BUCKETS) -> None:
        self._monotonic = monotonic
        self._limit = limit
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def to_report(self, share: str) -> int:
        """Count one refusal; return how many there are to report, at most once a second for each share, else 0."""
        now = self._monotonic()
        count, reported_at = self._counts.get(share, (0, now - 1))
        if now - reported_at < 1:
            self._counts[share] = (count + 1, reported_at)
            return 0
        if share not in self._counts and len(self._counts) >= self._limit:
            self._counts.popitem(last=False)
        self._counts[share] = (0, now)
        return count + 1


class Holds:
    """Says how long not to listen to who was refused.

    To refuse costs time as well, and who has many calls under way over many connections has them all refused at once. So each share
    is refused so often a second and no more: every refusal makes the next hold longer by the time that it stands for.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, *, limit: int = MAX_BUCKETS) -> None:
        self._monotonic = monotonic
        self._limit = limit
        self._until: OrderedDict[str, float] = OrderedDict()

    def after_refusal(self, share: str, wait: float) -> float:
        """Count one refusal; return for how many seconds its connection is to be held. The rate asks for ``wait``."""
        now = self._monotonic()
        until = max(self._until.pop(share, now), now) + 1 / REFUSALS_PER_SECOND
        self._until[share] = until = min(until, now + LONGEST_HOLD_FOR_MANY)
        if len(self._until) > self._limit:
            self._until.popitem(last=False)
        return max(min(wait, LONGEST_HOLD), until - now)
