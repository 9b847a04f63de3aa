"""What keyd does by itself with a key, and when: pure functions from the key, the time and the rules to steps.

A version is replaced a rotation period after it became active, or a little sooner, so that keys that were made on one day do not
rotate on one day. Its successor is published a lead before that, and made some days before it is published, so that a backend
that is away on that day is noticed long before it matters.
:mod:`keyd.core.rotator` has the steps carried out that are not the clock's.
"""

from __future__ import annotations

import enum
import hashlib
import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import takewhile
from math import inf, isinf

from keyd.core.model import Key
from keyd.core.snapshot import KeyView, VersionView
from keyd.core.timeline import KeyState, Timeline, successor


class StepKind(enum.Enum):
    """What happens to a version. CREATE and DESTROY are keyd's to carry out, all else the clock does."""

    CREATE = 1
    PUBLISH = 2
    ACTIVATE = 3
    STOP_SIGNING = 4
    UNPUBLISH = 5
    DESTROY = 6


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens to one version. Times in seconds since the epoch.

    Attributes:
        key: name of the key.
        version: number; that of a version that is not made yet is what it will be if nobody makes one before.
        kind: what happens.
        at: when.
        deadline: only of CREATE: made later than this, the version becomes active later than planned.
        activate_at: only of CREATE: when the version becomes active if it is made in time.
        delay: why it is late, for people; empty when it is not.
    """

    key: str
    version: int
    kind: StepKind
    at: float
    deadline: float = inf
    activate_at: float = inf
    delay: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """How keyd rotates by itself.

    Attributes:
        enabled: False: this daemon makes and destroys no version by itself.
        jitter: the part of a rotation period by which a version may be replaced sooner; 0 to 0.5.
        create_ahead: how long before its publication, in seconds, a version is made.
        per_minute: at most so many versions a minute are made, or destroyed, in one backend.
    """

    enabled: bool = True
    jitter: float = 0.1
    create_ahead: float = 3 * 86400.0
    per_minute: int = 60


def lead_of(key: Key, served_max_age: float) -> float:
    """Return how long, in seconds, a new version of a key is published before it signs, whatever is served now."""
    return max(key.lifecycle.publish_lead, 2 * served_max_age)


def plan(view: KeyView, now: float, until: float, *, lead: float, rules: Rules) -> list[Step]:
    """Return what keyd and the clock will do with a key from ``now`` to ``until``, in order."""
    return list(takewhile(lambda step: step.at <= until, walk(view, now, lead=lead, rules=rules)))


def plan_all(views: Iterable[KeyView], now: float, until: float, *, served_max_age: float, rules: Rules) -> Iterator[Step]:
    """Go through what keyd and the clock will do with several keys from ``now`` to ``until``, in order.

    ``served_max_age`` is how long, in seconds, a JWK Set may be cached.
    """
    walks = (walk(view, now, lead=lead_of(view.key, served_max_age), rules=rules) for view in views)
    merged = heapq.merge(*walks, key=lambda step: (step.at, step.key, step.kind.value, step.version))
    return takewhile(lambda step: step.at <= until, merged)


def due(view: KeyView, now: float, *, lead: float, rules: Rules) -> tuple[list[Step], float]:
    """Return what has to be carried out now, and when something else has to be; ``inf`` if never.

    ``at`` of a step is when it first could be carried out.
    """
    creation, destructions = _creation(view, now, lead, rules), list(_destructions(view, rules))
    steps = [step for step in destructions if step.at <= now]
    if creation is None or creation.at > now:  # all that follows from it is later
        later = min((step.at for step in destructions if step.at > now), default=inf)
        return steps, later if creation is None else min(later, creation.at)
    ours = (StepKind.CREATE, StepKind.DESTROY)
    following = (step.at for step in walk(view, now, lead=lead, rules=rules) if step.kind in ours and step.at > now)
    return [creation, *steps], next(following, inf)


def walk(view: KeyView, now: float, *, lead: float, rules: Rules) -> Iterator[Step]:
    """Go through all that will happen to a key, in order: without end where it rotates by itself."""
    key, agenda = view.key, _Agenda(view.key, rules, now)
    for version in view.versions:
        agenda.add_recorded(version.record.version, version.record.timeline)
    creation = _creation(view, now, lead, rules)
    head = view.pending(now) or view.active(now)
    replaced = None if head is None else (head.record.version, head.record.timeline)
    while creation is not None:
        at = max(now, creation.at)
        yield from agenda.before(at)
        agenda.add(replace(creation, at=at, delay=_delay(creation, now, lead, lacking=replaced is None)))
        if replaced is None:
            line = successor(at, key.lifecycle, at_once=True)
        else:
            activate_at = max(creation.activate_at, at + lead)
            line = Timeline(created_at=at, publish_at=activate_at - lead, activate_at=activate_at)
            agenda.add_replaced(replaced[0], replaced[1].replaced(activate_at, key.lifecycle, key.promised_until))
        agenda.add_planned(creation.version, line)
        replaced = (creation.version, line)
        creation = _replacement(key, creation.version, creation.version + 1, line, lead, rules)
    yield from agenda.before(inf)


def replaced_at(key: Key, version: int, activate_at: float, *, lead: float, rules: Rules) -> float:
    """Return when a version that became active ``activate_at`` is replaced; ``inf``: never by itself.

    It has at least two leads, so that its successor need not be made before it has had half of its time. The same on all replicas.
    """
    period = key.lifecycle.rotation_period
    if isinf(period):
        return inf
    return activate_at + max(period * (1 - rules.jitter * _fraction(key.name, version)), 2 * lead)


def _fraction(name: str, version: int) -> float:
    """Return a number in [0, 1) that looks random and is always the same for a version."""
    digest = hashlib.sha256(f"{name}/{version}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _hands_off(key: Key, rules: Rules) -> bool:
    """Say whether keyd does nothing with a key by itself. Who holds or disables it may be looking into what happened."""
    return not rules.enabled or key.disabled_at is not None or key.paused_at is not None


def _creation(view: KeyView, now: float, lead: float, rules: Rules) -> Step | None:
    """Return the making of the next version, in the past if it is late; None where keyd makes none by itself."""
    if not view.versions or _hands_off(view.key, rules):
        return None
    number = view.versions[-1].record.version + 1
    head = view.pending(now) or view.active(now)
    if head is None:  # its active version was compromised while the backend was away
        lost = max(_last_active(version) for version in view.versions)
        return Step(view.key.name, number, StepKind.CREATE, lost, lost, lost)
    return _replacement(view.key, head.record.version, number, head.record.timeline, lead, rules)


def _last_active(version: VersionView) -> float:
    line = version.record.timeline
    return min(line.deactivate_at, line.compromised_at, line.destroyed_at)


def _replacement(key: Key, replaced: int, number: int, line: Timeline, lead: float, rules: Rules) -> Step | None:
    """Return the making of version ``number``, which takes over from version ``replaced``, whose timeline is ``line``."""
    at = replaced_at(key, replaced, line.activate_at, lead=lead, rules=rules)
    if isinf(at):
        return None
    publish_at = at - lead
    half = line.activate_at + (at - line.activate_at) / 2
    made = min(max(publish_at - rules.create_ahead, half), publish_at)
    return Step(key.name, number, StepKind.CREATE, made, publish_at, at)


def _delay(creation: Step, now: float, lead: float, *, lacking: bool) -> str:
    if lacking:
        return "no version is active; the next one is as soon as it is made"
    late = now + lead - creation.activate_at
    return f"late: it becomes active {late:.0f} s after the time that was planned, or later" if late > 0 else ""


def _destructions(view: KeyView, rules: Rules) -> Iterator[Step]:
    """Go through the destructions of private keys that are on record, in the past if they are late."""
    for version in view.versions:
        step = _destruction(view.key, version.record.version, version.record.timeline, rules)
        if step is not None:
            yield step


def _destruction(key: Key, number: int, line: Timeline, rules: Rules) -> Step | None:
    """Return the destruction of the private key of a version; None where keyd destroys none by itself.

    That of a compromised version counts from when that was reported. It signs no more, and as evidence it can be had until then.
    """
    ended = line.unpublish_at if isinf(line.compromised_at) else line.compromised_at
    at = ended + key.lifecycle.destroy_after
    if isinf(at) or not isinf(line.destroyed_at) or _hands_off(key, rules):
        return None
    return Step(key.name, number, StepKind.DESTROY, at)


class _Agenda:
    """What will happen to a key after ``now``, in order."""

    def __init__(self, key: Key, rules: Rules, now: float) -> None:
        self._key = key
        self._rules = rules
        self._now = now
        self._heap: list[tuple[float, int, int, Step]] = []

    def add(self, step: Step) -> None:
        heapq.heappush(self._heap, (step.at, step.kind.value, step.version, step))

    def before(self, end: float) -> Iterator[Step]:
        """Take out what happens before ``end``."""
        while self._heap and self._heap[0][0] < end:
            yield heapq.heappop(self._heap)[-1]

    def add_recorded(self, number: int, line: Timeline) -> None:
        """Note what is to come for a version that is on record."""
        if line.state(self._now) not in (KeyState.COMPROMISED, KeyState.DESTROYED):
            self._add(number, ((kind, at) for kind, at in (*_begin(line), *_end(line)) if at > self._now))
        self._add_destruction(number, line)

    def add_planned(self, number: int, line: Timeline) -> None:
        """Note how a version begins that is to be made."""
        self._add(number, _begin(line))

    def add_replaced(self, number: int, line: Timeline) -> None:
        """Note how a version ends that is to be replaced."""
        self._add(number, _end(line))
        self._add_destruction(number, line)

    def _add_destruction(self, number: int, line: Timeline) -> None:
        step = _destruction(self._key, number, line, self._rules)
        if step is not None:
            self.add(replace(step, at=max(step.at, self._now)))

    def _add(self, number: int, events: Iterable[tuple[StepKind, float]]) -> None:
        for kind, at in events:
            if at < inf and (self._key.publish or kind not in (StepKind.PUBLISH, StepKind.UNPUBLISH)):
                self.add(Step(self._key.name, number, kind, at))


def _begin(line: Timeline) -> tuple[tuple[StepKind, float], ...]:
    return (StepKind.PUBLISH, line.publish_at), (StepKind.ACTIVATE, line.activate_at)


def _end(line: Timeline) -> tuple[tuple[StepKind, float], ...]:
    return (StepKind.STOP_SIGNING, line.sign_until), (StepKind.UNPUBLISH, line.unpublish_at)
