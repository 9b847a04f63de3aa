"""What was found out about each key, found out again only where the key is another or its time has come.

Whoever looks after keys would else look at all of them again and again, and with a hundred thousand that takes the signing loop's time.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterator
from math import inf, isinf
from typing import Generic, TypeVar

from keyd.core.snapshot import KeyView, Snapshot

T = TypeVar("T")
#: Keys that are looked at in one go, and the seconds until the next go. To pause for nothing would let other tasks go on, but no other thread:
#: one that is woken comes too late for the interpreter, and a call needs several of them.
_AT_ONCE, _PAUSE = 100, 0.002


class Outlook(Generic[T]):
    """What there is to know of keys, by name.

    Attributes:
        found: what was found, of those keys of which something was.
    """

    def __init__(self, find: Callable[[KeyView, float], tuple[T | None, float]]) -> None:
        """``find`` returns what is to be known of a key at a time, None: nothing, and until when that is so; ``inf``: for good."""
        self.found: dict[str, T] = {}
        self._find = find
        self._snapshot = Snapshot()
        self._looked = -inf
        self._stale: dict[str, None] = {}
        #: When which key has to be looked at again, the next first. One that was looked at meanwhile can be there more than once;
        #: ``_until`` has what holds.
        self._due: list[tuple[float, str]] = []
        self._until: dict[str, float] = {}

    @property
    def next(self) -> float:
        """When time alone changes any of it; ``inf``: never."""
        while self._due and self._until.get(self._due[0][1]) != self._due[0][0]:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else inf

    def forget(self) -> None:
        """Have every key looked at again: something else changed that it depends on."""
        self._due.clear()
        self._until.clear()
        self._stale = dict.fromkeys(self._snapshot.keys)

    def catch_up(self, snapshot: Snapshot, now: float) -> Iterator[None]:
        """Look at what has to be looked at again, one key at each step; who has not the time goes on with the rest another time."""
        self._note(snapshot, now)
        while self._stale:
            name, _ = self._stale.popitem()
            # Somebody else may have begun later than this, and seen that the clock was set back.
            self._look(self._snapshot.keys[name], self._looked)
            yield

    def _note(self, snapshot: Snapshot, now: float) -> None:
        if now < self._looked:  # the clock was set back
            self.forget()
        self._looked = now
        old, self._snapshot = self._snapshot, snapshot
        if old is not snapshot:
            self._stale |= dict.fromkeys(snapshot.keys.differing(old.keys))
            for name in old.keys.differing(snapshot.keys):
                if name not in snapshot.keys:  # the database lost it
                    for known in (self.found, self._until, self._stale):
                        known.pop(name, None)
        while self.next <= now:
            self._stale[heapq.heappop(self._due)[1]] = None

    def _look(self, view: KeyView, now: float) -> None:
        name = view.key.name
        found, until = self._find(view, now)
        if found is None:
            self.found.pop(name, None)
        else:
            self.found[name] = found
        if isinf(until):
            self._until.pop(name, None)
            return
        self._until[name] = until
        heapq.heappush(self._due, (until, name))
        if len(self._due) > 2 * len(self._until) + 16:
            self._due = [(until, name) for name, until in self._until.items()]
            heapq.heapify(self._due)


async def others_turn(looked_at: int) -> None:
    """Let others go on when it is their turn, for whoever has looked at so many keys in a row."""
    if looked_at % _AT_ONCE == 0:
        await asyncio.sleep(_PAUSE)
