"""Goal 6: keyd's Python client against a bare grpcio stub, blocking and asyncio: p50 and CPU of a call."""

from __future__ import annotations

import statistics

from benchmarks.callers import Calls, call
from benchmarks.daemon import daemon
from benchmarks.figures import Entry, Outcome, Table, median_ratio
from benchmarks.goals import Options

_BAR = 1.15
_KINDS = {"sync-bare": "grpcio stub", "sync": "Client", "aio-bare": "grpc.aio stub", "aio": "AsyncClient"}


def measure(options: Options) -> Outcome:
    """Have each call for a while, in turn, each in a process of its own."""
    runs: dict[str, list[Calls]] = {kind: [] for kind in _KINDS}
    with daemon() as keyd:
        for _ in range(options.rounds * 2):  # short runs and many: the ratio is close to one
            for kind, found in runs.items():
                found.append(call(keyd, kind, options.seconds / 2))
    entries = []
    for kind in ("sync", "aio"):
        client, bare = runs[kind], runs[f"{kind}-bare"]
        against = f"{_KINDS[kind]}.sign_base against a {_KINDS[f'{kind}-bare']}, one call after another, a process each"
        p50 = median_ratio([run.p50 for run in client], [run.p50 for run in bare])
        cpu = median_ratio([run.client_each for run in client], [run.client_each for run in bare])
        entries.append(Entry(f"6 {kind} p50", p50, _BAR, "times", f"p50 of {against}", at_most=True))
        entries.append(Entry(f"6 {kind} cpu", cpu, _BAR, "times", f"CPU of the process of {against}", at_most=True))
    rows = [
        [
            name,
            f"{statistics.median(run.rate for run in runs[kind]):,.0f}",
            f"{statistics.median(run.p50 for run in runs[kind]):,.0f}",
            f"{statistics.median(run.p99 for run in runs[kind]):,.0f}",
            f"{statistics.median(run.client_each for run in runs[kind]):,.0f}",
        ]
        for kind, name in _KINDS.items()
    ]
    return Outcome(entries, [Table("The Python client", ("what calls", "calls/s", "p50, µs", "p99, µs", "its CPU, µs"), rows)])
