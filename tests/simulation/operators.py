"""What operators do to a key in the year, and what they are told: an emergency announces for how long who may fail."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from keyd.core.errors import BackendUnavailableError, ConflictError, KeyStateError
from keyd.core.snapshot import VersionView
from keyd.core.timeline import KeyState
from simulation.house import House
from simulation.population import DAY, HOUR

#: Verifiers by their names, and for how long keyd says that they fail.
_ANNOUNCED = re.compile(r"([^;:]+) up to (\d+) (s|min|h)(?=;|$)")
_BEGINNINGS = {"new": "verifiers that cached the JWK Set ", "revoked": "verifiers trust kid "}
_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}
#: Kind, key, kid, and what keyd said.
Announce = Callable[[str, str, str, Sequence[str]], None]
#: Run a further act later: seconds from now, key, name of the act.
Later = Callable[[float, str, str], None]

#: Act, and how often a year it happens to a key.
RATES = {
    "rotate": 0.5,
    "rotate_now": 0.4,
    "compromise_active": 0.15,
    "compromise_old": 0.1,
    "compromise_pending": 0.1,
    "roll_back": 0.3,
    "pause": 0.3,
    "disable": 0.2,
    "set_periods": 0.2,
}


class Operators:
    """Carries out acts. What keyd refuses is counted and left."""

    def __init__(self, house: House, rng: random.Random, announce: Announce, later: Later) -> None:
        self._house = house
        self._rng = rng
        self._announce = announce
        self._later = later
        self.done: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        #: Keys of which no version is active, because it was compromised and no other could be made.
        self.lacking: set[str] = set()

    async def act(self, what: str, name: str) -> None:
        """Do it. Raises KeydError where keyd fails otherwise than it may."""
        work: Callable[[str], Coroutine[Any, Any, bool]] = getattr(self, f"_{what}")
        try:
            done = await work(name)
        except (KeyStateError, BackendUnavailableError, ConflictError):
            done = False
        (self.done if done else self.refused)[what] += 1

    async def _rotate(self, name: str) -> bool:
        change = await self._house.ring.rotate(name)
        if change.warnings:
            self._announce("new", name, change.version.kid, change.warnings)
        return True

    async def _rotate_now(self, name: str) -> bool:
        change = await self._house.ring.rotate(name, at_once=True)
        line, key = change.version.timeline, change.key.key
        # One that was published for its lead already is known to all: then nothing is said, and nobody may fail.
        if change.warnings or line.activate_at - line.publish_at < key.lifecycle.publish_lead:
            self._announce("new", name, change.version.kid, change.warnings)
        self.lacking.discard(name)
        return True

    async def _compromise_active(self, name: str) -> bool:
        return await self._compromise(name, self._view(name).active(self._now))

    async def _compromise_old(self, name: str) -> bool:
        old = [
            v for v in self._view(name).versions if self._is(v, KeyState.DEACTIVATED) and v.record.timeline.published(self._now)
        ]
        return await self._compromise(name, old[-1] if old else None)

    async def _compromise_pending(self, name: str) -> bool:
        return await self._compromise(name, self._view(name).pending(self._now))

    async def _compromise(self, name: str, version: VersionView | None) -> bool:
        if version is None:
            return False
        was_active = self._is(version, KeyState.ACTIVE)
        change = await self._house.ring.compromise(name, version.record.version, "the simulation says so")
        self._announce("revoked", name, version.record.kid, change.warnings)
        active = change.key.active(self._now)
        if was_active and active is not None:
            line = active.record.timeline
            if line.activate_at - line.publish_at < change.key.key.lifecycle.publish_lead:
                self._announce("new", name, active.record.kid, change.warnings)
        elif was_active:
            self.lacking.add(name)
        return True

    async def _roll_back(self, name: str) -> bool:
        await self._house.ring.roll_back(name)
        return True

    async def _pause(self, name: str) -> bool:
        await self._house.ring.set_paused(name, True)
        self._later(self._rng.uniform(HOUR, 6 * DAY), name, "resume")
        return True

    async def _resume(self, name: str) -> bool:
        await self._house.ring.set_paused(name, False)
        return True

    async def _disable(self, name: str) -> bool:
        await self._house.ring.set_enabled(name, False)
        self._later(self._rng.uniform(HOUR, 3 * DAY), name, "enable")
        return True

    async def _enable(self, name: str) -> bool:
        await self._house.ring.set_enabled(name, True)
        return True

    async def _set_periods(self, name: str) -> bool:
        lifecycle = self._view(name).key.lifecycle
        retention = self._rng.choice((24 * HOUR, 48 * HOUR, 72 * HOUR))
        await self._house.ring.set_lifecycle(name, replace(lifecycle, retention=retention))
        return True

    @property
    def _now(self) -> float:
        return self._house.clock.now()

    def _view(self, name: str) -> Any:
        return self._house.ring.snapshot.get(name)

    def _is(self, version: VersionView, state: KeyState) -> bool:
        return version.record.timeline.state(self._now) is state


def announced(kind: str, warnings: Sequence[str]) -> dict[str, float] | None:
    """Read for how many seconds each verifier fails, by keyd's own words, of a kid that is ``new`` or ``revoked``.

    Returns None where keyd does not speak of that.
    """
    for words in warnings:
        if words.startswith(_BEGINNINGS[kind]):
            found: dict[str, float] = {}
            for names, number, unit in _ANNOUNCED.findall(words.partition("again: ")[2].partition("; others")[0]):
                found |= {name.strip(): float(number) * _UNITS[unit] for name in names.split(", ")}
            return found
    return None
