"""Runs a year, and says whether it was good."""

from __future__ import annotations

import logging
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from support import FakeClock

from keyd.core.planner import Rules
from simulation.house import House
from simulation.population import population, shared
from simulation.verifiers import verifiers
from simulation.year import Plan, Year

_MEMORY = Path("/dev/shm")
#: The store syncs each change: on a disk the year takes longer than it has to.
_SCRATCH = _MEMORY if _MEMORY.is_dir() else None


@dataclass
class Report:
    """What became of a year.

    Attributes:
        verifiers: counts by verifier (:class:`simulation.peer.replay.Count`).
        faults: what keyd did that must not be, whoever looked.
    """

    plan: Plan
    verifiers: dict[str, dict[str, Any]]
    faults: list[str]
    figures: dict[str, float]

    def failures(self) -> int:
        """Return how many verifications failed, or wrongly did not, outside of the windows that were announced."""
        return sum(counts["outside"] + counts["trusted_outside"] for counts in self.verifiers.values())

    def problems(self) -> list[str]:
        """Return why the year was not good; nothing if it was."""
        told = [line for counts in self.verifiers.values() for line in counts["failures"]]
        idle = [f"{name} verified nothing" for name, counts in self.verifiers.items() if not counts["verifications"]]
        return [*self.faults, *told, *idle]

    def good(self) -> bool:
        """Say whether nobody noticed anything outside of what was announced."""
        return not self.problems() and not self.failures()


async def run(
    plan: Plan, *, sabotage: Callable[[House], None] | None = None, progress: Callable[[float], None] = lambda days: None
) -> Report:
    """Live through a year, with all verifiers."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    began = time.monotonic()
    with verifiers() as others, tempfile.TemporaryDirectory(dir=_SCRATCH) as directory:
        rng = random.Random(plan.seed)
        keys = population(plan.keys, rng)
        house = House(Path(directory) / "keyd.db", FakeClock(), Rules(), shared(keys))
        house.sabotage = sabotage or house.sabotage
        try:
            year = Year(house, plan, keys, rng, others.emit)
            await year.run(progress)
            figures: dict[str, float] = {"key versions": year.made, "JWK Sets fetched over HTTP and compared": house.sampled}
            figures["most keys in a set"] = house.most_keys
            figures |= {**year.witness.counts}
            figures |= {f"operators, {what}": number for what, number in sorted(year.operators.done.items())}
            figures |= {f"operators, {what}, refused": number for what, number in sorted(year.operators.refused.items())}
            figures |= {f"happened, {what}": number for what, number in sorted(year.happened.items())}
        finally:
            house.close()
            structlog.reset_defaults()
        counts = others.result()
    figures["seconds"] = round(time.monotonic() - began, 1)
    return Report(plan, counts, house.faults, figures)
