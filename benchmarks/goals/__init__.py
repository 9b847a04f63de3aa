"""The goals, a module each. ``measure(options)`` of each returns an Outcome: the verdicts, and tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.daemon import transports
from benchmarks.figures import Entry

#: By number, the module of each goal.
GOALS = {
    "1": "signing_cost",
    "2": "against_openbao",
    "3": "streams",
    "4": "workers",
    "5": "many_keys",
    "6": "client",
    "7": "jwks",
    "floods": "floods",
}


@dataclass(frozen=True, slots=True)
class Options:
    """How long to measure.

    Attributes:
        seconds: of each run.
        rounds: how often each is run; what is reported are medians.
        keys: how many keys a daemon with many has.
        agents: how many clients are connected to it.
        all_transports: measure those too that are not the default. They stand beside the goals and do not count.
    """

    seconds: float = 1.5
    rounds: int = 5
    keys: int = 100_000
    agents: int = 1000
    all_transports: bool = True

    def transports(self) -> dict[str, str]:
        """Return the line of ``[server]`` for each transport to measure; the first is the default, and has none."""
        names = transports()
        return names if self.all_transports else dict([next(iter(names.items()))])


def of_transport(entries: Sequence[Entry], name: str, line: str) -> list[Entry]:
    """Return verdicts about a transport: those of the default count, and each says which it is about."""
    if not line:
        return [replace(entry, what=f"{entry.what}; transport {name}, the default") for entry in entries]
    return [replace(entry, what=f"{entry.what}; transport {name}, which is not the default").beside(name) for entry in entries]
