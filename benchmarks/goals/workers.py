"""Goal 4: two worker processes against one, over the Unix socket and over TCP.

The load generator runs on the same cores. Its share is taken out like this: what counts is signatures for each second of the machine that
it left, its CPU seconds divided by the number of cores subtracted from the time on the clock. That favours nobody: where one worker leaves
a core idle, the load generator took nothing from it, and its figure is raised all the same.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from components.openbao import free_ports

from benchmarks import load
from benchmarks.daemon import BenchDaemon, daemon, takes
from benchmarks.figures import Entry, Outcome, Table, median_ratio
from benchmarks.goals import Options
from benchmarks.load import Load, Target

_BAR = 1.6
_CONNECTIONS = 64
_TCP = """
[tcp.bench]
listen = "127.0.0.1:{port}"
plaintext = true
[grants.tcp]
principals = [{{ loopback = true }}]
keys = ["bench"]
purposes = ["http"]
authorities = ["api.example.com"]
"""


def measure(options: Options) -> Outcome:
    """Measure one worker and two in turn."""
    if not takes("workers = 2"):
        refused = "the daemon takes no [server] workers = 2: there is nothing to measure"
        return Outcome([Entry(f"4 {way}", None, _BAR, "times", refused) for way in ("unix", "tcp")])
    runs: dict[tuple[str, int], list[Load]] = {}
    with ExitStack() as stack:
        targets: dict[tuple[str, int], Target] = {}
        for workers, port in zip((1, 2), free_ports(2), strict=True):
            keyd = stack.enter_context(daemon(_TCP.format(port=port), server=f"workers = {workers}"))
            targets["unix", workers] = keyd.target()
            targets["tcp", workers] = _over_tcp(keyd, port)
        for target in targets.values():
            load.run(target, _CONNECTIONS, 1)  # warm
        for _ in range(options.rounds):
            for name, target in targets.items():
                runs.setdefault(name, []).append(load.run(target, _CONNECTIONS, options.seconds))
    return Outcome([_entry(way, runs[way, 1], runs[way, 2]) for way in ("unix", "tcp")], [_table(runs)])


def without_load(run: Load, cores: int) -> float:
    """Return signatures for each second of the machine that the load generator left to others."""
    return run.count / (run.seconds - run.load_cpu / cores)


def _over_tcp(keyd: BenchDaemon, port: int) -> Target:
    target = keyd.target()
    url = target.url.replace("http://localhost/", f"http://127.0.0.1:{port}/")
    return replace(target, name="keyd over TCP", url=url, base_uri=None)


def _entry(way: str, one: Sequence[Load], two: Sequence[Load]) -> Entry:
    cores = os.cpu_count() or 1
    ratio = median_ratio([without_load(run, cores) for run in two], [without_load(run, cores) for run in one])
    what = f"two workers against one, {_CONNECTIONS} connections, {cores} cores; signatures for each second of the machine that h2load left"
    return Entry(f"4 {way}", ratio, _BAR, "times", what)


def _table(runs: dict[tuple[str, int], list[Load]]) -> Table:
    cores = os.cpu_count() or 1
    rows = [
        [
            way,
            str(workers),
            f"{statistics.median(run.rate for run in found):,.0f}",
            f"{statistics.median(without_load(run, cores) for run in found):,.0f}",
            f"{statistics.median(run.cpu_each for run in found):,.0f}",
            f"{statistics.median(run.server_cpu / run.seconds for run in found):.2f}",
            f"{statistics.median(run.load_busy for run in found):.2f}",
        ]
        for (way, workers), found in runs.items()
    ]
    columns = ("over", "workers", "signatures/s", "without the load's share", "CPU, µs each", "daemon's cores", "load's cores")
    return Table("Worker processes", columns, rows)
