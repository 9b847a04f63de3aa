"""Goal 1: what a signature costs over the Unix socket, against the bare Ed25519 operation; and goal "guards", the steps between."""

from __future__ import annotations

import statistics

from benchmarks import cost
from benchmarks.figures import Entry, Outcome, Table
from benchmarks.goals import Options, of_transport
from benchmarks.load import Load

_CONNECTIONS = 8


def measure(options: Options) -> Outcome:
    """Measure with every transport."""
    found = Outcome()
    for name, line in options.transports().items():
        results, bare = cost.measure(options.rounds, options.seconds, _CONNECTIONS, name)
        steps = cost.outcome(results, bare)
        found.entries += of_transport([*_entries(results, bare), *steps.entries], name, line)
        found.tables += [Table(f"{table.title}, transport {name}", table.columns, table.rows) for table in steps.tables]
    return found


def _entries(results: dict[str, list[Load]], bare: list[float]) -> list[Entry]:
    def times(subject: str) -> float:
        return statistics.median(run.cpu_each / alone for run, alone in zip(results[subject], bare, strict=True))

    whole = f"CPU of the daemon for each signature, {_CONNECTIONS} connections, against Ed25519 alone in one thread"
    unguarded = "benchmarks/unguarded.py, the server without policy and audit, against the same"
    return [
        Entry("1 whole path", times("audit"), 3.0, "times", whole, at_most=True),
        Entry("1 unguarded", times("unguarded"), 2.0, "times", unguarded, at_most=True),
    ]
