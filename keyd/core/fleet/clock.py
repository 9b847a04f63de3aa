"""The time of a fleet, and a time that does not go back.

A version's state is its timeline and the time, so replicas whose clocks differ would disagree on what is active. In a fleet the
time is that of the database, for all of them: :class:`FleetClock`. Around either clock, :class:`SteadyClock` keeps what has
happened in the past.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import structlog

from keyd.core.clock import Clock, SystemClock
from keyd.core.errors import ClockError
from keyd.core.snapshot import Snapshot

#: How far this machine's clock may be from the database's, and time from what was recorded, in seconds.
MOST_SKEW = 30.0
#: Below this, what was refused for the skew is taken up again.
_RIGHT_AGAIN = 25.0
_SAMPLES = 8
_log = structlog.get_logger("keyd.clock")


def since_boot() -> float:
    """Return seconds since the machine was started, also those in which it slept. Nobody sets this clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True, slots=True)
class _Sample:
    """One look at the database's clock."""

    offset: float  # what to add to the time since boot
    error: float  # half of the time that the look took: at most so far off

    def contradicts(self, other: _Sample) -> bool:
        """Say whether one clock cannot have shown both, give or take how fast clocks drift."""
        return abs(self.offset - other.offset) > self.error + other.error + 0.01


class FleetClock:
    """The database's clock, carried on by the time since boot between two looks at it, and while the database is away.

    Steps of this machine's clock change nothing. The error of a look is half of the way to the database and back at most, so
    what a replica reads from the database is never ahead of its time by more than clocks drift between two looks.

    A database whose clock is more than :data:`MOST_SKEW` from this machine's is not believed, because nobody can tell which of
    them is wrong: the time goes on as it was, and :meth:`check` refuses until they agree again.

    Attributes:
        skew: how many seconds this machine's clock is ahead of the database's, as last seen.
        right: whether that is no more than can be borne.
    """

    def __init__(self, *, boottime: Callable[[], float] = since_boot, wall: Clock | None = None) -> None:
        self._boottime = boottime
        self._wall = wall or SystemClock()
        self._samples: deque[_Sample] = deque(maxlen=_SAMPLES)
        self._offset = self._wall.now() - boottime()
        self.right = True
        self.skew = 0.0

    def now(self) -> float:
        """Return seconds since 1970-01-01T00:00:00Z by the database's clock."""
        return self._boottime() + self._offset

    def look(self, database: Callable[[], float]) -> None:
        """Look at the database's clock. ``database`` returns seconds since the epoch; what it raises is raised."""
        before = self._boottime()
        shown = database()
        after = self._boottime()
        sample = _Sample(shown - (before + after) / 2, (after - before) / 2)
        if not self._judge(self._wall.now() - (after + sample.offset)):
            return
        if self._samples and sample.contradicts(min(self._samples, key=lambda known: known.error)):
            self._samples.clear()  # it was set
        self._samples.append(sample)
        self._offset = min(self._samples, key=lambda known: known.error).offset

    def carry_on(self) -> None:
        """Judge this machine's clock although the database does not show its own."""
        self._judge(self._wall.now() - self.now())

    def check(self) -> None:
        """Raise ClockError while this machine's clock and the database's are too far apart."""
        if not self.right:
            raise ClockError(_apart(self.skew))

    def _judge(self, skew: float) -> bool:
        """Note by how much the clocks differ. Returns whether that can be borne."""
        self.skew = skew
        right = abs(skew) <= (MOST_SKEW if self.right else _RIGHT_AGAIN)
        if self.right and not right:
            _log.error("clock wrong, nothing is signed or changed", error=_apart(skew))
        elif right and not self.right:
            _log.info("clock right again", ahead_of_database_seconds=round(skew, 3))
        self.right = right
        return right


def _apart(skew: float) -> str:
    return (
        f"the clock of this machine is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the database's, and at most "
        f"{MOST_SKEW:.0f} s are borne; set the one that is wrong, and keep both set by NTP"
    )


class SteadyClock:
    """A clock that never goes back: when the one beneath does, time stands still until that has caught up.

    So no version returns to a state that it has left. Where it went back by more than :data:`MOST_SKEW`, changes are refused,
    because their times would be wrong; signing goes on.
    """

    def __init__(self, beneath: Clock, whose: str = "this machine") -> None:
        """Go by the clock ``beneath``; ``whose`` it is, messages say."""
        self._beneath = beneath
        self._whose = whose
        self._newest = 0.0
        self._told = False

    def now(self) -> float:
        """Return seconds since 1970-01-01T00:00:00Z."""
        # Two threads at once can get times in the other order by microseconds; neither goes back.
        shown = self._beneath.now()
        if shown > self._newest:
            self._newest = shown
        return self._newest

    def not_before(self, moment: float) -> None:
        """Let it be no earlier than a moment that is known to be past."""
        self._newest = max(self._newest, moment)

    def check(self) -> None:
        """Raise ClockError while the clock beneath is far behind."""
        behind = self._newest - self._beneath.now()
        wrong = behind > MOST_SKEW
        error = (
            f"the clock of {self._whose} went back: it is {behind:.0f} s behind the newest time that was recorded or seen, so nothing "
            "can be changed; set it, or restart keyd if it is right now and was ahead before"
        )
        if wrong and not self._told:
            _log.error("clock went back, time stands still and nothing is changed", error=error)
        self._told = wrong
        if wrong:
            raise ClockError(error)


def newest_moment(snapshot: Snapshot) -> float:
    """Return the newest time on record that was the present when it was written; 0 when nothing is on record."""
    newest = 0.0
    for view in snapshot.keys.values():
        key = view.key
        newest = max(newest, key.created_at, key.disabled_at or 0.0, key.paused_at or 0.0)
        for version in view.versions:
            line = version.record.timeline
            for moment in (line.created_at, line.compromised_at, line.destroyed_at):
                if newest < moment < inf:
                    newest = moment
    return newest
