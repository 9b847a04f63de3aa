"""What an agent in Python can expect of keyd's client, next to a bare grpcio stub that makes the same call.

    make bench-client, or python benchmarks client [--seconds 0.4] [--rounds 15] [--only sync aio]

One daemon as it is delivered: gate, grant, parsed base, chained record before the answer. Every way to ask has a process of its own, and they
take turns: in each round each makes Ed25519 signatures for so long, and one of them is verified. CPU is the kernel's count, of all threads.

- stub: grpcio's stub, with a deadline, one call after another; `Client.sign_base` and `AsyncClient.sign_base` the same way;
- 8 or 64 at once: tasks that share one client and make one call after another each;
- stream: `SignStream` with 64 in flight, over a stub and with `AsyncClient.sign_stream`; batch: `SignBatch` of 32.

Fails when a client costs more than 1.15 times its stub, in CPU or at the median. Beside it stands what a stream costs the daemon, against unary calls: at
most two thirds. Ratios are of one round each, medians of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from benchmarks.callers import Caller, Calls
from benchmarks.daemon import daemon
from benchmarks.figures import Entry, Outcome, Table, median_ratio, missed
from benchmarks.machine import describe, ed25519_microseconds, today

BAR, STREAM_BAR = 1.15, 1 / 1.5
WAYS = {
    "sync-bare": "grpcio stub",
    "sync": "`Client`",
    "aio-bare": "grpc.aio stub",
    "aio": "`AsyncClient`",
    "aio-bare-8": "grpc.aio stub, 8 at once",
    "aio-8": "`AsyncClient`, 8 at once",
    "unary-64": "`AsyncClient`, 64 at once",
    "gather": "`AsyncClient(gather=True)`",
    "gather-8": "`AsyncClient(gather=True)`, 8 at once",
    "gather-64": "`AsyncClient(gather=True)`, 64 at once",
    "stream-bare-64": "grpc.aio stub, stream of 64",
    "stream-64": "`AsyncClient.sign_stream`, 64 in flight",
    "batch-bare-32": "grpcio stub, batches of 32",
    "batch-32": "`Client.sign_batch` of 32",
}
#: What the goal is about: each client and its stub.
PAIRS = ("sync-bare", "sync", "aio-bare", "aio")


def measure(rounds: int, seconds: float, names: Sequence[str] = PAIRS) -> dict[str, list[Calls]]:
    """Return what each way to ask did in each round."""
    runs: dict[str, list[Calls]] = {name: [] for name in names}
    with daemon() as keyd, ExitStack() as stack:
        callers = {name: stack.enter_context(Caller(keyd, name)) for name in names}
        for _ in range(rounds):
            for name, caller in callers.items():
                runs[name].append(caller.run(seconds))
    return runs


def outcome(runs: dict[str, list[Calls]]) -> Outcome:
    """Return a verdict for each client whose stub was measured too, and the table."""

    def ratio(name: str, other: str, of: Callable[[Calls], float]) -> float:
        return median_ratio([of(run) for run in runs[name]], [of(run) for run in runs[other]])

    found = Outcome()
    for name, stub in (("sync", "sync-bare"), ("aio", "aio-bare")):
        if {name, stub} <= set(runs):
            against = f"{WAYS[name]}.sign_base against a {WAYS[stub]}, one call after another, a process each"
            p50, cpu = ratio(name, stub, lambda run: run.p50), ratio(name, stub, lambda run: run.client_each)
            found.entries.append(Entry(f"6 {name} p50", p50, BAR, "times", f"p50 of {against}", at_most=True))
            found.entries.append(Entry(f"6 {name} cpu", cpu, BAR, "times", f"CPU of the process of {against}", at_most=True))
    if {"stream-bare-64", "aio-bare-8"} <= set(runs):
        what = "CPU of the daemon for each signature of a stream against that of a unary call, 8 at once"
        daemons = ratio("stream-bare-64", "aio-bare-8", lambda run: run.server_each)
        found.entries.append(Entry("6 stream", daemons, STREAM_BAR, "times", what, at_most=True, counts=False))
    found.tables.append(_table(runs))
    return found


def _table(runs: dict[str, list[Calls]]) -> Table:
    def middle(found: Sequence[Calls], of: Callable[[Calls], float]) -> str:
        return f"{statistics.median(of(run) for run in found):,.0f}"

    rows = [
        [
            WAYS[name],
            middle(found, lambda run: run.rate),
            middle(found, lambda run: run.p50),
            middle(found, lambda run: run.p99),
            middle(found, lambda run: run.client_each),
            middle(found, lambda run: run.server_each),
        ]
        for name, found in runs.items()
    ]
    columns = ("what calls", "signatures/s", "p50, µs", "p99, µs", "its CPU, µs each", "daemon's CPU, µs each")
    return Table("The Python client", columns, rows)


def main() -> int:
    """Measure and print. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.4, help="of each way, per round")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", nargs="*", default=[], help="ways whose names begin so: " + ", ".join(WAYS))
    options = parser.parse_args()
    names = [name for name in WAYS if not options.only or name.startswith(tuple(options.only))]
    found = outcome(measure(options.rounds, options.seconds, names))
    print(f"{describe()}, {today()}; the Ed25519 operation alone, in one thread: {ed25519_microseconds():.1f} us")
    print(f"{options.rounds} rounds of {options.seconds:g} s, medians\n")
    print(found.tables[0].markdown() + "\n")
    for entry in found.entries:
        print(entry.line())
    return 1 if missed(found.entries) else 0
