"""Carries out what the planner says: at its pace, one act at a time in each backend, and again when it failed.

Each act is on record before it is done, like an operator's.

What fails is tried again later and later, in nobody else's way. A version that should have been made and is not is warned of at
once, and again when half and when a tenth of the time to its deadline is left.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import inf

import structlog

from keyd.core.errors import ConflictError, KeydError, KeyStateError, NotFoundError, OverloadedError, StoreUnavailableError
from keyd.core.keyring import Keyring
from keyd.core.outlook import Outlook, others_turn
from keyd.core.planner import Rules, Step, StepKind, due, lead_of
from keyd.core.planner_record import PlannerRecord
from keyd.core.snapshot import KeyView

_IDLE = 60.0  # seconds after which it looks again at the latest
_STANDBY = 5.0  # seconds after which a replica that does not lead looks whether it does
_RETRY, _LONGEST_RETRY = 60.0, 3600.0  # seconds after the first failure, doubled after each further one
_OUTAGE = 10.0  # seconds that a backend is left alone when it throttles or the database is away
_TOLD_EACH = 10  # versions that wait and are named in the log one by one
_log = structlog.get_logger("keyd.rotator")


@dataclass(frozen=True, slots=True)
class Figures:
    """How rotation is getting on.

    Attributes:
        waiting: keys whose next version should have been made and is not yet.
        overdue: those of them whose next version becomes active later than planned.
        next_deadline: seconds until the first deadline of those that wait, negative when it is past; ``inf``: none waits.
    """

    waiting: int
    overdue: int
    next_deadline: float


@dataclass(slots=True)
class _Failure:
    """What failed last time, how often in a row, and when it may be tried again."""

    times: int
    retry_at: float
    error: str


class Rotator:
    """Makes versions ahead of time and destroys old private keys.

    Attributes:
        rules: may be replaced at any time; :meth:`Keyring.wake` makes that count at once.
        done: how many steps of each kind were carried out.
        failed: how many failed in each backend.
    """

    def __init__(
        self,
        keyring: Keyring,
        rules: Rules,
        leads: Callable[[], bool] = lambda: True,
        record: PlannerRecord | None = None,
    ) -> None:
        """``leads`` says whether it is for this replica to do anything; what is done goes into ``record``."""
        self.rules = rules
        self.done: Counter[StepKind] = Counter()
        self.failed: Counter[str] = Counter()
        self._keyring = keyring
        self._leads = leads
        self._record = record
        self._outlooks = {name: Outlook(partial(self._look, name)) for name in keyring.backends}
        self._seen_by: tuple[Rules, float] | None = None
        self._failures: dict[tuple[str, StepKind], _Failure] = {}
        self._warned: dict[str, int] = {}
        #: When the next act may begin, by backend.
        self._free: dict[str, float] = {}
        self._was_away: set[str] = set()

    @property
    def backends(self) -> list[str]:
        """The names of the backends."""
        return sorted(self._keyring.backends)

    async def run(self) -> None:
        """Carry out what is due for ever, in each backend for itself."""
        await asyncio.gather(*(self._run(backend) for backend in self._keyring.backends))

    async def step(self, backend: str | None = None) -> float:
        """Carry out what is due, at most one act in that backend, or in each. Returns when to look again, in seconds since the epoch."""
        backends = self._keyring.backends if backend is None else [backend]
        return min(await asyncio.gather(*(self._step(name) for name in backends)), default=inf)

    def figures(self) -> Figures:
        """Return how rotation is getting on."""
        now = self._keyring.clock.now()
        waiting = [step for name in self._outlooks for step in self._due(name, now) if step.kind is StepKind.CREATE]
        left = [step.deadline - now for step in waiting]
        return Figures(len(waiting), sum(seconds < 0 for seconds in left), min(left, default=inf))

    def trouble(self, key: str) -> str | None:
        """Return why the next version of a key could not be made last time; None if it could, or was not tried."""
        failure = self._failures.get((key, StepKind.CREATE))
        return None if failure is None else failure.error

    async def _run(self, backend: str) -> None:
        while True:
            try:
                at = await self._step(backend)
            except Exception as exc:  # noqa: BLE001 - a defect must not end rotation
                _log.error("rotation failed unexpectedly", backend=backend, exc_info=exc)
                at = inf
            within = at - self._keyring.clock.now()
            await self._keyring.changed(min(max(within, 0.01), _IDLE))

    async def _step(self, backend: str) -> float:
        now = self._keyring.clock.now()
        await self._survey(backend, now)
        if not (self.rules.enabled and self._leads()):
            return now + _STANDBY
        waiting = sorted(self._due(backend, now), key=lambda step: (step.deadline, step.at, step.key, step.version))
        later = self._outlooks[backend].next
        self._forget(backend, {(step.key, step.kind) for step in waiting})
        away = self._away(backend)
        self._warn(backend, waiting, now, away)
        if away is not None:
            return now + _OUTAGE
        retries = {step: self._retry_at(step, now) for step in waiting}
        ready = [step for step in waiting if retries[step] <= now]
        if not ready:
            return min([later, *retries.values()])
        pause = 60 / self.rules.per_minute
        free = self._free.get(backend, now)
        if now < free <= now + max(pause, _OUTAGE):  # later than that, the clock was set back
            return free
        self._free[backend] = now + pause
        await self._carry_out(backend, ready[0])
        return self._free[backend]

    def _forget(self, backend: str, waiting: set[tuple[str, StepKind]]) -> None:
        """Forget the failures of what is not due any more: somebody else did it, or it is not to be."""
        for what in [what for what in self._failures if self._of(what[0], backend) and what not in waiting]:
            del self._failures[what]
        for key in [key for key in self._warned if self._of(key, backend)]:
            if (key, StepKind.CREATE) not in waiting:
                del self._warned[key]

    def _of(self, name: str, backend: str) -> bool:
        """Say whether a key is one of a backend. One that the database lost is anybody's."""
        view = self._keyring.snapshot.keys.get(name)
        return view is None or view.key.backend == backend

    def _due(self, backend: str, now: float) -> list[Step]:
        """Return what is due in a backend."""
        for _ in self._outlook(backend).catch_up(self._keyring.snapshot, now):
            pass
        return [step for steps in self._outlooks[backend].found.values() for step in steps]

    async def _survey(self, backend: str, now: float) -> None:
        """Look at every key of a backend that changed, and let others go on meanwhile: the first time that takes long."""
        for count, _ in enumerate(self._outlook(backend).catch_up(self._keyring.snapshot, now), 1):
            await others_turn(count)

    def _outlook(self, backend: str) -> Outlook[list[Step]]:
        """Return what is known of a backend, nothing of it by other rules than the present ones."""
        by = self.rules, self._keyring.served_max_age
        if self._seen_by is None or self._seen_by[0] is not by[0] or self._seen_by[1] != by[1]:
            self._seen_by = by
            for outlook in self._outlooks.values():
                outlook.forget()
        return self._outlooks[backend]

    def _look(self, backend: str, view: KeyView, now: float) -> tuple[list[Step] | None, float]:
        if view.key.backend != backend:
            return None, inf
        lead = lead_of(view.key, self._keyring.served_max_age)
        # A replica whose clock is ahead writes down a compromise that here is yet to come: then the key has no active version.
        steps, later = due(view, now, lead=lead, rules=self.rules)
        return steps or None, min(later, view.next_change(now))

    def _away(self, backend: str) -> str | None:
        """Return why a backend is to be left alone. What failed because of that need not wait once it is back."""
        reason = self._keyring.backends[backend].breaker.reason
        if reason is not None:
            self._was_away.add(backend)
        elif backend in self._was_away:
            self._was_away.discard(backend)
            self._failures = {what: f for what, f in self._failures.items() if not self._of(what[0], backend)}
        return reason

    def _retry_at(self, step: Step, now: float) -> float:
        failure = self._failures.get((step.key, step.kind))
        if failure is None or failure.retry_at > now + _LONGEST_RETRY:  # the clock was set back
            return now
        return failure.retry_at

    async def _carry_out(self, backend: str, step: Step) -> None:
        what = (step.key, step.kind)
        try:
            await self._do(step)
        except (KeyStateError, NotFoundError, ConflictError) as exc:  # somebody else was faster
            self._failures[what] = _Failure(0, self._keyring.clock.now() + _RETRY, str(exc))
            _log.info(
                "not done, the key changed meanwhile", key=step.key, version=step.version, step=step.kind.name, error=str(exc)
            )
        except Exception as exc:  # noqa: BLE001 - a defect in one backend must not hold up the others
            self._note_failure(backend, step, exc)
        else:
            self.done[step.kind] += 1
            self._failures.pop(what, None)

    async def _do(self, step: Step) -> None:
        """Carry out one step, on record. Raises KeydError."""
        if self._record is not None:
            await self._record.begin(step)
        try:
            if step.kind is StepKind.CREATE:
                change = await self._keyring.prepare(step.key, step.activate_at, newest=step.version - 1)
                line = change.version.timeline
                _log.info("next version made", key=step.key, version=change.version.version, activates=line.activate_at)
            else:
                change = await self._keyring.destroy(step.key, step.version)
                _log.info("old version destroyed", key=step.key, version=step.version, notes=change.warnings)
        except Exception as exc:
            if self._record is not None:
                await self._record.failed(step, exc)
            raise
        if self._record is not None:
            await self._record.done(replace(step, version=change.version.version))

    def _note_failure(self, backend: str, step: Step, exc: Exception) -> None:
        now, what = self._keyring.clock.now(), (step.key, step.kind)
        if not isinstance(exc, KeydError):
            _log.error("rotation failed unexpectedly", key=step.key, backend=backend, exc_info=exc)
        if isinstance(exc, StoreUnavailableError | OverloadedError):
            self._free[backend] = now + _OUTAGE
        self.failed[backend] += 1
        before = self._failures.get(what)
        times = 1 if before is None else before.times + 1
        error = str(exc) if isinstance(exc, KeydError) else f"unexpected {type(exc).__name__}"
        self._failures[what] = _Failure(times, now + _pause(times, step.deadline - now), error)
        self._warn(backend, [step], now, None)

    def _warn(self, backend: str, waiting: list[Step], now: float, away: str | None) -> None:
        """Log versions that should have been made and cannot be."""
        news = []
        for step in waiting:
            failure = self._failures.get((step.key, step.kind))
            error = away if failure is None or not failure.times else failure.error
            if step.kind is StepKind.CREATE and error is not None and _stage(step, now) > self._warned.get(step.key, -1):
                self._warned[step.key] = _stage(step, now)
                news.append((step, error))
        for step, error in news[:_TOLD_EACH]:
            late = step.deadline <= now
            tell = _log.error if late else _log.warning
            tell(
                "the next version is late" if late else "the next version could not be made yet",
                key=step.key,
                version=step.version,
                backend=backend,
                deadline=step.deadline,
                seconds_left=round(step.deadline - now),
                error=error,
            )
        if len(news) > _TOLD_EACH:
            _log.warning("further next versions could not be made yet", backend=backend, keys=len(news) - _TOLD_EACH)


def _pause(times: int, left: float) -> float:
    """Return how long to wait after so many failures in a row, so that a deadline that is ``left`` seconds away can be met."""
    pause = min(_RETRY * 2.0 ** min(times - 1, 10), _LONGEST_RETRY)
    return max(_RETRY, min(pause, left / 2)) if left > 0 else pause


def _stage(step: Step, now: float) -> int:
    """Return how urgent a version is: 0 there is time, 1 half of it is gone, 2 a tenth is left, 3 none is."""
    left, whole = step.deadline - now, step.deadline - step.at
    if left <= 0:
        return 3
    return 2 if left <= whole / 10 else 1 if left <= whole / 2 else 0
