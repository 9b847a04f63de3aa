"""Which worker serves whom: always the same one, so that what a caller may use up, and its sessions, are in one place."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

#: Callers that are remembered; of those that are not connected, who came longest ago is forgotten first.
_MOST = 10_000
#: For so many seconds after its last connection a caller comes back to the worker that it had.
_REMEMBERED = 3600.0


@dataclass(slots=True)
class _Place:
    worker: int
    connections: int
    last: float


class Assignments:
    """Callers and their workers. Who is new gets the worker with the fewest callers that are connected."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._places: OrderedDict[str, _Place] = OrderedDict()
        #: For each worker that takes connections, how many callers are connected to it.
        self._callers: dict[int, int] = {}
        #: How many are remembered for each.
        self._known: Counter[int] = Counter()

    @property
    def workers(self) -> frozenset[int]:
        """The numbers of those that take connections."""
        return frozenset(self._callers)

    def add_worker(self, number: int) -> None:
        """Give callers to this worker from here on."""
        self._callers[number] = 0

    def remove_worker(self, number: int) -> None:
        """Give it none any more. Its callers get another one when they come again; what they had there is gone anyway."""
        self._callers.pop(number, None)
        self._known.pop(number, None)
        for who in [who for who, place in self._places.items() if place.worker == number]:
            del self._places[who]

    def enter(self, who: str) -> int:
        """Return the worker for one more connection of a caller, which :meth:`leave` takes off. Raises LookupError: there is none."""
        now = self._monotonic()
        place = self._places.pop(who, None)
        if place is not None and not place.connections and now - place.last > _REMEMBERED:
            self._known[place.worker] -= 1
            place = None
        if place is None:
            place = _Place(self._freest(), 0, now)
            self._known[place.worker] += 1
        self._places[who] = place
        if not place.connections:
            self._callers[place.worker] += 1
        place.connections += 1
        place.last = max(place.last, now)
        self._make_room()
        return place.worker

    def leave(self, who: str, worker: int, stays: float = 0.0) -> None:
        """Take off one connection of a caller to a worker, which lasts for so many seconds more all the same."""
        place = self._places.get(who)
        if place is None or place.worker != worker or not place.connections:
            return  # of a worker that has ended meanwhile
        place.connections -= 1
        place.last = max(place.last, self._monotonic() + stays)
        if not place.connections:
            self._callers[worker] -= 1

    def _freest(self) -> int:
        if not self._callers:
            raise LookupError("no worker takes connections")
        return min(self._callers, key=lambda worker: (self._callers[worker], self._known[worker], worker))

    def _make_room(self) -> None:
        if len(self._places) > _MOST:
            idle = next((who for who, place in self._places.items() if not place.connections), None)
            if idle is not None:
                self._known[self._places.pop(idle).worker] -= 1
