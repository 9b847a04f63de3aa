"""The goals, a module each. ``measure(options)`` of each returns an Outcome: the verdicts, and tables for people."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.daemon import transports


@dataclass(frozen=True, slots=True)
class Options:
    """How long to measure.

    Attributes:
        seconds: of each run.
        rounds: how often each is run; what is reported are medians.
        keys: how many keys a daemon with many has.
        agents: how many clients are connected to it.
        all_transports: measure those too that are not the default, for the tables.
    """

    seconds: float = 3.0
    rounds: int = 5
    keys: int = 100_000
    agents: int = 1000
    all_transports: bool = True

    def transports(self) -> dict[str, str]:
        """Return the line of ``[server]`` for each transport to measure; the first is the default, and has none."""
        names = transports()
        return names if self.all_transports else dict([next(iter(names.items()))])
