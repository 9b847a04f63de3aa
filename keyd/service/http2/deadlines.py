"""Ends calls when their callers wait no longer.

Nearly every call has a deadline and nearly none meets it: so there is one timer for all of them, at the earliest, and not one for each.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any


class Deadlines:
    """The deadlines of the calls that are under way, each in a task of its own."""

    def __init__(self) -> None:
        self._when: dict[asyncio.Task[Any], float] = {}
        self._passed: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._next = inf

    def set(self, task: asyncio.Task[Any], when: float) -> None:
        """Cancel the task at ``when``, on the clock of the event loop, unless :meth:`drop` comes first."""
        self._when[task] = when
        if when < self._next:
            self._wake_at(when)

    def drop(self, task: asyncio.Task[Any]) -> None:
        """Forget the deadline of a task."""
        self._when.pop(task, None)
        self._passed.discard(task)

    def passed(self, task: asyncio.Task[Any]) -> bool:
        """Say whether the task was cancelled because of its deadline."""
        return task in self._passed

    def _wake_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = when
        self._timer = None if when == inf else asyncio.get_running_loop().call_at(when, self._expire)

    def _expire(self) -> None:
        now = self._next  # the loop may be a little early, by the resolution of its clock
        for task in [task for task, when in self._when.items() if when <= now]:
            del self._when[task]
            self._passed.add(task)
            task.cancel()
        self._timer = None
        self._wake_at(min(self._when.values(), default=inf))
