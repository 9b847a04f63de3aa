"""Goal 3: SignStream with 64 in flight from one client against 64 unary calls of it; SignBatch of 32 against the bare operation."""

from __future__ import annotations

import statistics
from contextlib import ExitStack

from benchmarks import load
from benchmarks.callers import Caller, Calls
from benchmarks.daemon import daemon
from benchmarks.figures import Entry, Outcome, Table, median_ratio, number
from benchmarks.goals import Options, of_transport
from benchmarks.load import Load
from benchmarks.machine import ed25519_microseconds, ed25519_rate

_CLIENTS = ("sync", "unary-64", "stream-64", "batch-32")
_BATCH = 32


def measure(options: Options) -> Outcome:
    """Measure with every transport."""
    found = Outcome()
    for name, line in options.transports().items():
        one = _measure(options, name, line)
        found.tables += one.tables
        found.entries += of_transport(one.entries, name, line)
    return found


def _measure(options: Options, transport: str, line: str) -> Outcome:
    clients: dict[str, list[Calls]] = {kind: [] for kind in _CLIENTS}
    posted: list[Load] = []
    bare_rate: list[float] = []
    bare_cpu: list[float] = []
    with daemon(server=line) as keyd, ExitStack() as stack:
        callers = {kind: stack.enter_context(Caller(keyd, kind)) for kind in _CLIENTS}
        load.run(keyd.target(batch=_BATCH), 2, 1)  # warm
        for _ in range(options.rounds):
            bare_rate.append(ed25519_rate(options.seconds / 4))
            bare_cpu.append(ed25519_microseconds())
            for kind, caller in callers.items():
                clients[kind].append(caller.run(options.seconds))
            posted.append(load.run(keyd.target(batch=_BATCH), 2, options.seconds))
    stream = median_ratio([run.rate for run in clients["stream-64"]], [run.rate for run in clients["unary-64"]])
    batch = median_ratio([run.rate for run in posted], bare_rate)
    batch_cpu = median_ratio(bare_cpu, [run.cpu_each for run in posted])
    rows = [
        [
            kind,
            f"{statistics.median(run.rate for run in runs):,.0f}",
            f"{statistics.median(run.client_each for run in runs):,.0f}",
            f"{statistics.median(run.server_each for run in runs):,.0f}",
        ]
        for kind, runs in clients.items()
    ]
    rows.append(
        [
            "batches of 32, h2load, 2 connections",
            f"{statistics.median(run.rate for run in posted):,.0f}",
            f"{statistics.median(run.load_each for run in posted):,.1f}",
            f"{statistics.median(run.cpu_each for run in posted):,.0f}",
        ]
    )
    columns = ("one client", "signatures/s", "client's CPU, µs each", "daemon's CPU, µs each")
    table = Table(f"Streams and batches, transport {transport}", columns, rows)
    return Outcome(
        [
            Entry(
                "3 stream",
                stream,
                1.5,
                "times",
                "signatures/s of sign_stream with 64 in flight against 64 calls of sign_base at a time, one AsyncClient",
            ),
            Entry(
                "3 batch",
                batch,
                0.8,
                "times",
                f"signatures/s in batches of 32 from two connections against one thread of Ed25519 alone; in CPU alone {number(batch_cpu)} times",
            ),
        ],
        [table],
    )
