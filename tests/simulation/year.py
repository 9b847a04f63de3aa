"""The year: what happens when, to keyd and to its keys, and when all verifiers look."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import ceil, inf, isinf

from support import START

from keyd.core.errors import BackendUnavailableError
from keyd.core.model import Key
from keyd.core.snapshot import KeyView, Snapshot
from keyd.core.timeline import Timeline
from keyd.core.verifiers import not_yet_known
from simulation.house import MAX_AGE, House
from simulation.operators import RATES, Operators, announced
from simulation.population import BACKENDS, DAY, HOUR
from simulation.witness import Witness

#: Seconds around each moment of a timeline at which somebody verifies.
_AROUND = {
    "publish_at": (-1, 0),
    "activate_at": (-1, 0, 1, 31, 61, 301),
    "sign_until": (-1, 0),
    "unpublish_at": (-1, 0),
}
#: Seconds after an emergency; the last of them is past every cache.
_AFTER_EMERGENCY = (0, 1, 29, 31, 61, 299, 301, 601, 901, 3601, 86402, 87302)
#: Acts that are worth doing right before or after a moment of the timeline, and at which.
_TIMED = ("publish_at", "activate_at", "deactivate_at", "sign_until", "unpublish_at")


@dataclass(frozen=True, slots=True)
class Plan:
    """How large the year is, and what goes wrong in it."""

    keys: int = 1000
    days: int = 365
    seed: int = 1
    busy: float = 1.0  # how often operators act; 0: never
    outages: int = 12  # of a backend, hours to days long
    week_down: bool = True
    random_looks: float = 1 / 8  # a day, and key

    @property
    def end(self) -> float:
        """The end of the year, in seconds since the epoch."""
        return START + self.days * DAY


@dataclass(order=True, slots=True)
class _Event:
    at: float
    order: int
    what: str = field(compare=False)
    key: str = field(compare=False, default="")


class Year:
    """Goes through the year. ``emit`` gets what :mod:`simulation.peer` reads."""

    def __init__(
        self, house: House, plan: Plan, keys: list[Key], rng: random.Random, emit: Callable[[dict[str, object]], None]
    ) -> None:
        self.house = house
        self.plan = plan
        self._rng = rng
        self._heap: list[_Event] = []
        self._looks: set[tuple[str, float]] = set()
        self._views: dict[str, KeyView] = {}
        self._snapshot: Snapshot | None = None
        self._order = count()
        self._down_until = 0.0
        self.witness = Witness(house, emit, self._look_at)
        self.operators = Operators(house, self._rng, self._announce, self._later)
        house.before_change = self._look
        self.happened: Counter[str] = Counter()
        self._keys = {key.name: key for key in keys}
        #: When the rotator looks at each backend again.
        self._rotate_at = dict.fromkeys(BACKENDS, inf)

    @property
    def made(self) -> int:
        """How many key versions there are."""
        return sum(len(view.versions) for view in self.house.ring.snapshot.keys.values())

    async def run(self, progress: Callable[[float], None] = lambda days: None) -> None:
        """Live through all of it. ``progress`` gets the days that are over."""
        await self.house.start()
        self._plan_all()
        self._rotate_at = dict.fromkeys(BACKENDS, START)
        last = -1
        while True:
            backend = min(self._rotate_at, key=self._rotate_at.__getitem__)
            at = min(self._heap[0].at if self._heap else inf, self._rotate_at[backend])
            if at > self.plan.end:
                break
            self.house.clock.time = max(self.house.clock.time, float(ceil(at)))
            if self._heap and self._heap[0].at <= at:
                await self._happen(heapq.heappop(self._heap))
            else:
                self._rotate_at[backend] = max(await self.house.rotator.step(backend), self._patience(backend))
                self._see_changes()
            if (day := int((at - START) // DAY)) != last:
                progress(last := day)

    def _patience(self, backend: str) -> float:
        """Return until when the rotator need not look again: while a backend is away, it looks every ten seconds and finds it so."""
        away = self.house.runners[backend].breaker.reason is not None
        return self.house.clock.now() + (3600 if away else 0)

    def _plan_all(self) -> None:
        """Write down what is known from the start: births, operators' acts, outages."""
        plan, rng = self.plan, self._rng
        for number, key in enumerate(self._keys.values()):
            # Half of them in one hour, as when somebody sets up a fleet; the others in the first month.
            born = START + (rng.uniform(0, HOUR) if number % 2 else rng.uniform(0, min(30, plan.days / 4) * DAY))
            self._put(born, "create", key.name)
            for at in self._chance(plan.random_looks * plan.days, born):
                self._put(at, "look", key.name)
            for act, rate in RATES.items():
                for at in self._chance(rate * plan.busy * plan.days / 365, born + DAY):
                    self._put(at, f"time {act}", key.name)
        for at in self._chance(plan.outages, START + DAY, exact=True):
            backend = rng.choice(BACKENDS)
            self._put(at, "cut", backend)
            self._put(at + rng.choice((2 * HOUR, 8 * HOUR, DAY, 2.5 * DAY, 4 * DAY)), "mend", backend)
        if plan.week_down:
            self._put(START + rng.uniform(0.4, 0.6) * plan.days * DAY, "stop")

    def _chance(self, times: float, start: float, *, exact: bool = False) -> Iterator[float]:
        whole = int(times) if exact else int(times + self._rng.random())
        for _ in range(whole):
            yield float(int(self._rng.uniform(start, self.plan.end)))

    def _put(self, at: float, what: str, key: str = "") -> None:
        heapq.heappush(self._heap, _Event(at, next(self._order), what, key))

    def _later(self, seconds: float, key: str, act: str) -> None:
        self._put(self.house.clock.now() + seconds, f"do {act}", key)

    async def _happen(self, event: _Event) -> None:
        what, _, act = event.what.partition(" ")
        if self.house.clock.now() < self._down_until and what not in ("start", "cut", "mend"):
            self._put(self._down_until + self._rng.randrange(60), event.what, event.key)
            return
        if what == "look":
            self._looks.discard((event.key, event.at))
            await self._look(event.key)
            return
        self.happened[what] += what != "time"
        await getattr(self, f"_{what}")(act, event.key)
        self._see_changes()
        now = self.house.clock.now()
        down = now < self._down_until
        self._rotate_at = {backend: inf if down else min(at, now) for backend, at in self._rotate_at.items()}

    async def _look(self, name: str) -> None:
        await self.witness.look(name, self.operators.lacking)

    async def _create(self, _: str, name: str) -> None:
        try:
            change = await self.house.ring.create(self._keys[name])
        except BackendUnavailableError:
            self._put(self.house.clock.now() + HOUR, "create", name)
            return
        self.witness.born(change.key.key, change.version.kid)

    async def _time(self, act: str, name: str) -> None:
        """Do an act now, or next to a moment of the key's timeline."""
        now = self.house.clock.now()
        view = self.house.ring.snapshot.keys.get(name)
        if view is None:
            return
        coming = [v.record.timeline.activate_at for v in view.versions if now < v.record.timeline.activate_at < inf]
        old = [v for v in view.versions if v.record.timeline.deactivate_at <= now and v.record.timeline.published(now)]
        if not {"roll_back": coming, "compromise_pending": coming, "compromise_old": old}.get(act, [True]):
            self._put(now + DAY / 2, f"time {act}", name)
            return
        if act == "roll_back":
            self._put(ceil(min(coming)) + self._rng.choice((1, 30, 150, 298, 299, 300)), "do roll_back", name)
            return
        if act in ("compromise_pending", "compromise_old"):
            await self._do(act, name)
            return
        moments = [t for v in view.versions for n in _TIMED if now + 2 < (t := getattr(v.record.timeline, n)) < inf]
        if moments and self._rng.random() < 0.6:
            self._put(float(ceil(self._rng.choice(moments)) + self._rng.choice((-2, -1, 0, 1, 2, 60))), f"do {act}", name)
        else:
            await self._do(act, name)

    async def _do(self, act: str, name: str) -> None:
        await self._look(name)
        await self.operators.act(act, name)

    async def _cut(self, _: str, backend: str) -> None:
        self.house.backends[backend].away = True

    async def _mend(self, _: str, backend: str) -> None:
        self.house.backends[backend].away = False
        if self.house.clock.now() >= self._down_until:
            await self.house.look()

    async def _stop(self, _: str, __: str) -> None:
        self.house.stop()
        self._down_until = self.house.clock.now() + min(7.0, self.plan.days / 12) * DAY
        self._put(self._down_until, "start")

    async def _start(self, _: str, __: str) -> None:
        self._down_until = 0.0
        await self.house.start()

    def _announce(self, kind: str, key: str, kid: str, warnings: Sequence[str]) -> None:
        said = announced(kind, warnings)
        if said is None:
            self.house.fault(f"an emergency of {key} announced nothing, {kind} kid {kid}: {warnings}")
            return
        self.witness.emergency(kind, key, kid, said)
        now = self.house.clock.now()
        for after in _AFTER_EMERGENCY:
            self._look_at(key, now + after)

    def _see_changes(self) -> None:
        """Find the keys that changed, and have somebody look next to each moment of their timelines."""
        snapshot = self.house.ring.snapshot
        if self.house.clock.now() < self._down_until or snapshot is self._snapshot:
            return
        self._snapshot = snapshot
        for name, view in snapshot.keys.items():
            before = self._views.get(name)
            if before is view:
                continue
            self._views[name] = view
            old = {} if before is None else {v.record.version: v.record.timeline for v in before.versions}
            for version in view.versions:
                line = version.record.timeline
                if old.get(version.record.version) != line:
                    self._look_around(name, line)
            self._note_late_successor(name, view)

    def _note_late_successor(self, name: str, view: KeyView) -> None:
        """See the version that was made at last after one was compromised without a successor: part of that emergency."""
        active = view.active(self.house.clock.now())
        if name in self.operators.lacking and active is not None:
            self.operators.lacking.discard(name)
            self._announce("new", name, active.record.kid, (not_yet_known(0.0, MAX_AGE),))

    def _look_around(self, name: str, line: Timeline) -> None:
        for moment, offsets in _AROUND.items():
            at = getattr(line, moment)
            if not isinf(at):
                for offset in offsets:
                    self._look_at(name, ceil(at) + offset)

    def _look_at(self, name: str, at: float) -> None:
        if self.house.clock.now() <= at <= self.plan.end and (name, at) not in self._looks:
            self._looks.add((name, at))
            self._put(at, "look", name)
