"""Goal 5: 100,000 keys and 1,000 connected agents against one of each: latency, start-up, memory, and a rotation that all are told of."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchmarks import load
from benchmarks.daemon import BenchDaemon, spot_check
from benchmarks.figures import Entry, Outcome, Table, median_ratio, number
from benchmarks.goals import Options
from benchmarks.load import Load
from benchmarks.machine import cpu_seconds, memory
from benchmarks.payload import sign_request
from benchmarks.population import populate
from benchmarks.victim import victim
from benchmarks.watchers import watching

#: What one account may have is raised: here one account is all the agents.
_ROOM = """
[connections]
max = {room}
max_per_caller = {room}
max_calls_per_caller = {room}
handshake_timeout = "5m"
"""


def measure(options: Options) -> Outcome:
    """Measure a daemon with one key and one agent, and one with many, in turn."""
    with ExitStack() as stack:
        small = stack.enter_context(_daemon(options.agents))
        large = stack.enter_context(_daemon(options.agents))
        large.stop()
        began = time.monotonic()
        populate(large.directory / "state", large.directory / "kek", "bench", options.keys)
        print(f"{options.keys:,} keys were made in {time.monotonic() - began:.0f} s", flush=True)
        starts = [_start_up(small, options), _start_up(large, options)]
        sizes = [memory(keyd.pid) for keyd in (small, large)]
        agents = stack.enter_context(watching(large.directory / "run" / "keyd.sock", options.agents, "bench"))
        connected = memory(large.pid)
        runs: list[list[Load]] = [[], []]
        for _ in range(options.rounds):
            for keyd, found in zip((small, large), runs, strict=True):
                found.append(load.run(keyd.target(), 1, options.seconds))
                spot_check(keyd.address, sign_request("bench"), keyd.public_key("bench"))
        calm, rotated = _rotations(large, options)
        assert agents.poll() is None, "the agents were disconnected"
    return _outcome(options, starts, [*sizes, connected], runs, calm, rotated)


@contextmanager
def _daemon(agents: int) -> Iterator[BenchDaemon]:
    room = agents + 1000
    keyd = BenchDaemon(_ROOM.format(room=room), server=f"max_concurrent_calls = {room}", backend="file")
    keyd.config.write_text(keyd.config.read_text().replace("[limits]\n", f"[limits]\nmax_calls = {room}\n", 1))
    try:
        keyd.start()
        with keyd.admin() as admin:
            admin.create_key("bench")
        yield keyd
    finally:
        keyd.close()


def _start_up(keyd: BenchDaemon, options: Options) -> tuple[float, float]:
    """Return the seconds from the start of the process to its first answer, and its CPU seconds; medians. Leaves it running."""
    took, cpu = [], []
    for _ in range(min(3, options.rounds)):
        if keyd.process is not None and keyd.process.poll() is None:
            keyd.stop()
        began = time.monotonic()
        keyd.start()
        took.append(time.monotonic() - began)
        cpu.append(cpu_seconds(keyd.pid))
    return statistics.median(took), statistics.median(cpu)


def _rotations(keyd: BenchDaemon, options: Options) -> tuple[list[float], list[float]]:
    """Return the p99s of a calm agent in milliseconds, without a rotation and with one, in turn."""
    calm, rotated = [], []
    for _ in range(options.rounds):
        for found, disturbance in ((calm, contextlib.nullcontext()), (rotated, _rotating(keyd, options.seconds))):
            _, p99, failed = victim(keyd.address, options.seconds, disturbance, key="bench")
            assert not failed, f"{failed} signatures failed"
            found.append(p99)
    return calm, rotated


@contextmanager
def _rotating(keyd: BenchDaemon, seconds: float) -> Iterator[None]:
    """Rotate the key that all watch, in the middle of what the victim does."""

    def rotate() -> None:
        with keyd.admin() as admin:
            admin.rotate_key("bench", now=True)

    timer = threading.Timer(seconds / 2, rotate)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def _outcome(
    options: Options,
    starts: list[tuple[float, float]],
    sizes: list[int],
    runs: list[list[Load]],
    calm: list[float],
    rotated: list[float],
) -> Outcome:
    small, large = runs
    many = f"{options.keys:,} keys and {options.agents:,} agents with WatchKeys open"
    each = (sizes[1] - sizes[0]) / options.keys * 10_000 / 2**20
    p50s = [f"{statistics.median(run.p50 for run in found):,.0f}" for found in runs]
    rows = [
        ["keys", "1", f"{options.keys:,}"],
        ["start-up, s", *(f"{start:.2f}" for start, _ in starts)],
        ["its CPU, s", *(f"{cpu:.2f}" for _, cpu in starts)],
        ["memory after it, MiB", *(f"{size / 2**20:,.0f}" for size in sizes[:2])],
        [f"the same with {options.agents:,} agents, MiB", "", f"{sizes[2] / 2**20:,.0f}"],
        ["memory per 10,000 keys, MiB", "", number(each)],
        ["p50, µs", *p50s],
        ["p99 of a calm agent, ms", "", f"{statistics.median(calm):.2f}"],
        ["the same over a rotation, ms", "", f"{statistics.median(rotated):.2f}"],
    ]
    entries = [
        Entry(
            "5 p50",
            median_ratio([run.p50 for run in large], [run.p50 for run in small]),
            1.1,
            "times",
            f"p50 with {many} against one of each, one connection",
            at_most=True,
        ),
        Entry(
            "5 start-up",
            starts[1][0],
            5.0,
            "s",
            f"from the start of the process to its first answer, with {options.keys:,} keys in files and SQLite",
            at_most=True,
        ),
        Entry(
            "5 rotation",
            median_ratio(rotated, calm),
            2.0,
            "times",
            f"p99 of an agent with 200 calls a second, over {options.seconds:g} s with a rotation that {options.agents:,} agents are told of, against without",
            at_most=True,
        ),
    ]
    return Outcome(entries, [Table("Many keys and agents", ("", "one", "many"), rows)])
