"""What agents are told of keys, and what of it is new to who watches them.

A change can wake a thousand who watch the same key. So it must cost each of them next to nothing: what they are told is made once.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from math import inf, isinf

from keyd.core.snapshot import KeyView, Snapshot
from keyd.service import convert
from keyd.v1 import signing_service_pb2 as pb


class KeyStates:
    """What agents are told, kept until it changes. There is one for each key at most."""

    def __init__(self) -> None:
        #: The view that it is of, from when and until when it is good, and what is told.
        self._states: dict[str, tuple[KeyView, float, float, pb.GetKeyResponse]] = {}

    def of(self, view: KeyView, now: float) -> tuple[pb.GetKeyResponse, float]:
        """Return what agents are told of a key, not to be changed, and until when time alone changes nothing in it."""
        known = self._states.get(view.key.name)
        if known is not None and known[0] is view and known[1] <= now < known[2]:
            return known[3], known[2]
        state, until = convert.agents_key(view, now), view.next_change(now)
        self._states[view.key.name] = view, now, until, state
        return state, until


class Watch:
    """What one caller watches, and what it was told of it."""

    def __init__(self, states: KeyStates, names: Iterable[str], now: Callable[[], float]) -> None:
        self._states = states
        self._now = now
        self._names = dict.fromkeys(names)
        self._sent: dict[str, pb.GetKeyResponse] = {}
        self._views: dict[str, KeyView] = {}
        self._looked = -inf
        #: When which key has to be looked at again, the next first. A key that changed meanwhile is there more than once, and looked at
        #: for nothing; ``_until`` has what holds.
        self._due: list[tuple[float, str]] = []
        self._until: dict[str, float] = {}

    @property
    def until(self) -> float:
        """When time alone changes any of it; ``inf``: never."""
        return self._due[0][0] if self._due else inf

    def news(self, snapshot: Snapshot, changed: Iterable[str] | None = None) -> Iterator[pb.GetKeyResponse]:
        """Return each key that is not as it was told last.

        Args:
            snapshot: the keys as they are now.
            changed: those that can be others than the last time; None: any can.

        Raises:
            NotFoundError: one of them does not exist.
        """
        for name in self._stale(snapshot, changed):
            view = self._views[name] = snapshot.get(name)
            state, until = self._states.of(view, self._now())
            self._note(name, until)
            if name not in self._sent or (self._sent[name] is not state and self._sent[name] != state):
                self._sent[name] = state
                yield state

    def _note(self, name: str, until: float) -> None:
        if self._until.get(name) == until:
            return
        self._until[name] = until
        if not isinf(until):
            heapq.heappush(self._due, (until, name))
        if len(self._due) > 2 * len(self._names):
            self._due = [(until, name) for name, until in self._until.items() if not isinf(until)]
            heapq.heapify(self._due)

    def _stale(self, snapshot: Snapshot, changed: Iterable[str] | None) -> list[str]:
        now, looked = self._now(), self._looked
        self._looked = now
        if now < looked:  # the clock was set back
            self._due.clear()
            self._until.clear()
            return list(self._names)
        asked = self._names if changed is None else changed
        names = {name: None for name in asked if name not in self._views or self._views[name] is not snapshot.keys.get(name)}
        while self._due and self._due[0][0] <= now:
            _, name = heapq.heappop(self._due)
            names[name] = None
        return list(names)
