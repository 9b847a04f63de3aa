"""How much more two worker processes sign than one, for two callers that sign as fast as they can.

    make bench-workers, or python benchmarks workers [--seconds 3] [--rounds 5] [--connections 32]

The daemon as it is delivered. A caller is one worker's (docs/operations.md, "Several workers"), so there are two: over the Unix socket two copies of
h2load, which the grants tell apart by their paths; over TCP two addresses, that of IPv4 and that of IPv6 of this machine's loopback. Each opens so
many connections. One worker and two take turns; medians of the rounds.

The load runs on the same cores. Its share is taken out like this: what counts is signatures for each second of the machine that it left, its CPU
seconds divided by the number of cores subtracted from the time on the clock. That favours nobody: where one worker leaves a core idle, the load
took nothing from it, and its figure is raised all the same. On a machine that does other things, two workers do not get two cores, and the figure is
too small; then see what a signature costs in CPU, in the table.

Fails when that is less than 1.6 times as much with two, when one of the two workers signs less than a quarter, or when a signature of a sample does not verify.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from ports import free_ports

from benchmarks import load
from benchmarks.daemon import BenchDaemon, daemon, spot_check, takes
from benchmarks.figures import Entry, Outcome, Table, median_ratio, missed
from benchmarks.load import Load, Target
from benchmarks.machine import describe, today
from benchmarks.payload import sign_request

BAR = 1.6
#: A worker that made more than this part of the signatures made them as if it were the only one.
UNEVEN = 0.75
WAYS = {"unix": "the Unix socket, two programs", "tcp": "TCP, from two addresses"}
PROGRAMS = ("alpha", "beta")
_GRANT = """
[grants.{name}]
principals = [{{ executable = "{{directory}}/{name}" }}]
keys = ["bench"]
purposes = ["http"]
authorities = ["api.example.com"]
"""
_TCP = """
[tcp.four]
listen = "127.0.0.1:{port}"
plaintext = true
[tcp.six]
listen = "[::1]:{port}"
plaintext = true
[grants.tcp]
principals = [{{ loopback = true }}]
keys = ["bench"]
purposes = ["http"]
authorities = ["api.example.com"]
"""


@dataclass(frozen=True, slots=True)
class Share:
    """A run of load, and which part of its signatures the busiest worker made."""

    load: Load
    busiest: float


#: By way and number of workers, the runs.
Runs = dict[tuple[str, int], list[Share]]


def ways() -> list[str]:
    """Return how callers can come from two places here: TCP needs IPv6."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return ["unix", "tcp"]
    except OSError:
        return ["unix"]


def measure(rounds: int, seconds: float, connections: int) -> Runs:
    """Measure one worker and two in turn."""
    runs: Runs = {}
    with ExitStack() as stack:
        subjects: dict[tuple[str, int], tuple[BenchDaemon, list[Target]]] = {}
        for workers in (1, 2):
            keyd, targets = stack.enter_context(for_two_callers(f"workers = {workers}"))
            subjects |= {(way, workers): (keyd, found) for way, found in targets.items()}
        for number in range(rounds + 1):
            for name, (keyd, both) in subjects.items():
                found = run_both(keyd, both, connections, seconds if number else 1)
                spot_check(keyd.address, sign_request("bench"), keyd.public_key("bench"))
                if number:  # the first is to warm up
                    runs.setdefault(name, []).append(found)
    return runs


def run_both(keyd: BenchDaemon, targets: Sequence[Target], connections: int, seconds: float) -> Share:
    """Ask a daemon in several ways at the same time, and look which worker made how much. Raises what :func:`benchmarks.load.run_all` does."""
    before = keyd.allowed_by_worker()
    found = load.run_all(targets, connections, seconds)
    made = [count - before.get(worker, 0.0) for worker, count in keyd.allowed_by_worker().items()]
    return Share(found, max(made) / sum(made))


@contextmanager
def for_two_callers(server: str) -> Iterator[tuple[BenchDaemon, dict[str, list[Target]]]]:
    """A daemon with these lines in ``[server]``, and for each way to it the two targets that it takes for two callers."""
    (port,) = free_ports(1)
    sections = "".join(_GRANT.format(name=name) for name in PROGRAMS)
    sections += _TCP.format(port=port) if "tcp" in ways() else ""
    with daemon(sections, server=server, backend="file") as keyd:
        targets = {"unix": [replace(keyd.target(), program=_copy(keyd, name)) for name in PROGRAMS]}
        if "tcp" in ways():
            targets["tcp"] = [_over_tcp(keyd, f"{host}:{port}") for host in ("127.0.0.1", "[::1]")]
        yield keyd, targets


def _copy(keyd: BenchDaemon, name: str) -> str:
    """Return the path of an h2load of its own."""
    return shutil.copy(shutil.which("h2load") or "h2load", str(keyd.directory / name))


def _over_tcp(keyd: BenchDaemon, authority: str) -> Target:
    target = keyd.target()
    return replace(target, url=target.url.replace("//localhost/", f"//{authority}/"), base_uri=None)


def without_load(run: Load, cores: int) -> float:
    """Return signatures for each second of the machine that the load generators left to others."""
    return run.count / (run.seconds - run.load_cpu / cores)


def outcome(runs: Runs, connections: int) -> Outcome:
    """Return the verdicts and the table."""
    there = {way for way, _ in runs}
    entries = [
        _entry(way, runs[way, 1], runs[way, 2], connections) if way in there else not_measured(way, "this machine has no IPv6")
        for way in WAYS
    ]
    return Outcome(entries, [_table(runs)])


def not_measured(way: str, why: str) -> Entry:
    """Return the verdict where there is nothing to measure."""
    return Entry(f"4 {way}", None, BAR, "times", f"two workers against one over {WAYS[way]}: {why}")


def _entry(way: str, one: Sequence[Share], two: Sequence[Share], connections: int) -> Entry:
    busiest = statistics.median(run.busiest for run in two)
    if busiest > UNEVEN:
        return not_measured(way, f"one of them made {busiest:.0%} of the signatures, so this is not about two")
    cores = os.cpu_count() or 1
    ratio = median_ratio([without_load(run.load, cores) for run in two], [without_load(run.load, cores) for run in one])
    what = f"two workers against one over {WAYS[way]}, {connections} connections each, {cores} cores; signatures for each second of the machine that h2load left"
    return Entry(f"4 {way}", ratio, BAR, "times", what)


def _table(runs: Runs) -> Table:
    cores = os.cpu_count() or 1
    rows = [
        [
            WAYS[way],
            str(workers),
            f"{statistics.median(run.load.rate for run in found):,.0f}",
            f"{statistics.median(without_load(run.load, cores) for run in found):,.0f}",
            f"{statistics.median(run.load.cpu_each for run in found):,.0f}",
            f"{statistics.median(run.load.server_cpu / run.load.seconds for run in found):.2f}",
            f"{statistics.median(run.load.load_busy for run in found):.2f}",
            f"{statistics.median(run.busiest for run in found):.0%}",
        ]
        for (way, workers), found in sorted(runs.items(), key=lambda item: list(WAYS).index(item[0][0]))
    ]
    columns = (
        "over",
        "workers",
        "signatures/s",
        "without the load's share",
        "CPU, µs each",
        "daemon's cores",
        "load's cores",
        "the busiest worker's part",
    )
    return Table("Worker processes", columns, rows)


def main() -> int:
    """Measure and print. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3, help="of load, per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=32, help="of each caller")
    options = parser.parse_args()
    if not load.installed():
        print("h2load is missing: install nghttp2-client", file=sys.stderr)
        return 2
    assert takes("workers = 2"), "the daemon takes no [server] workers = 2"
    found = outcome(measure(options.rounds, options.seconds, options.connections), options.connections)
    print(f"{describe()}, {today()}; {options.rounds} rounds of {options.seconds:g} s\n")
    print(found.tables[0].markdown() + "\n")
    for entry in found.entries:
        print(entry.line())
    return 1 if missed(found.entries) else 0
