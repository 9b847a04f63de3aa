"""Goal 1: what a signature costs over the Unix socket, against the bare Ed25519 operation; and goal "guards", the steps between."""

from __future__ import annotations

import statistics

from benchmarks import cost
from benchmarks.figures import Entry, Outcome, Table
from benchmarks.goals import Options
from benchmarks.load import Load

_CONNECTIONS = 8


def measure(options: Options) -> Outcome:
    """Measure with every transport; the default one is held to the bars."""
    found = Outcome()
    for name, line in options.transports().items():
        results, bare = cost.measure(options.rounds, options.seconds, _CONNECTIONS, line)
        steps = cost.outcome(results, bare)
        if not line:
            found.entries += [*_entries(results, bare, name), *steps.entries]
        found.tables += [Table(f"{table.title}, transport {name}", table.columns, table.rows) for table in steps.tables]
    return found


def _entries(results: dict[str, list[Load]], bare: list[float], transport: str) -> list[Entry]:
    def times(subject: str) -> float:
        return statistics.median(run.cpu_each / alone for run, alone in zip(results[subject], bare, strict=True))

    whole = f"CPU of the daemon for each signature, transport {transport}, {_CONNECTIONS} connections, against Ed25519 alone in one thread"
    unguarded = "benchmarks/unguarded.py, the server without policy and audit, against the same"
    if "http2" in transport:
        unguarded = (
            "the daemon without audit, any bytes signed on a socket of its own (benchmarks/unguarded.py knows grpcio alone)"
        )
    return [
        Entry("1 whole path", times("audit"), 3.0, "times", whole, at_most=True),
        Entry("1 unguarded", times("policy" if "http2" in transport else "unguarded"), 2.0, "times", unguarded, at_most=True),
    ]
