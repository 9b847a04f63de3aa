"""What many keys and many connected agents cost: start-up, memory, latency, and what rotations do to others.

    make bench-scale KEYS=100000 AGENTS=1000, or python benchmarks scale [--keys N] [--agents N] [--rounds 5] [--seconds 1.5]

One daemon has that many keys in encrypted files, another has one. Both are as delivered but for the limits of connections. The keys are put into the database and the directory
directly, without waiting for the disk after each. Measured are

- how long the daemon takes from exec to its first answer, and its memory then;
- p50 of Sign over one connection, with many keys and the agents connected against one of each, in short turns. Each agent has a connection of its
  own, with WatchKeys for a key of its own and for one that all watch;
- p99 of a calm caller, 200 signatures a second, against at rest, while keys of agents rotate at once, 60 a minute, the most that keyd's own planner does unless
  configured, and 300 a minute, beside the goal; and over a rotation of the key that all watch;
- how long it takes to create a key, list all keys, and render the JWK Set of one key and of all (not for `make bench`).

Fails when start-up takes 5 s or more, the p50 is more than 10 % off, or a p99 more than twice that at rest.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field

import grpc
import httpx

from benchmarks import load
from benchmarks.daemon import BenchDaemon, spot_check
from benchmarks.figures import Entry, Outcome, Table, median_ratio, missed, number
from benchmarks.load import Load
from benchmarks.machine import cpu_seconds, describe, memory, today
from benchmarks.payload import sign_request
from benchmarks.population import name_of, populate
from benchmarks.victim import PACE, victim
from benchmarks.watchers import Watching, watching
from keyd.v1 import key_service_pb2 as keys_pb
from keyd.v1 import key_service_pb2_grpc

START, P50, P99 = 5.0, 1.1, 2.0
PACES = (60, 300)  # rotations a minute; the first is the planner's limit unless configured, and counts
_TURNS = 4  # of p50 in each round
#: What one account may have is raised: here one account is all the agents.
_ROOM = """
[connections]
max = {room}
max_per_caller = {room}
max_calls_per_caller = {room}
handshake_timeout = "5m"
"""


@dataclass(frozen=True, slots=True)
class Size:
    """How many are many."""

    keys: int
    agents: int


@dataclass(slots=True)
class Found:
    """What was measured; of the daemon with one key first, where there are two. Seconds, octets, and p99s in milliseconds."""

    size: Size
    seconds: float
    starts: list[tuple[float, float]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    settling: float = 0.0
    runs: tuple[list[Load], list[Load]] = field(default_factory=lambda: ([], []))
    #: By what rotates: p99s at rest, and over it.
    rotations: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    operations: dict[str, float] = field(default_factory=dict)


def measure(size: Size, rounds: int, seconds: float, *, operations: bool = False) -> Found:
    """Measure a daemon with one key and one agent, and one with many, in turn. ``operations`` adds what operators do."""
    found = Found(size, 2 * seconds)
    with ExitStack() as stack:
        small, large = (stack.enter_context(_daemon(size.agents)) for _ in range(2))
        large.stop()
        began = time.monotonic()
        populate(large.directory / "state", large.directory / "kek", "bench", size.keys)
        print(f"{size.keys:,} keys were made in {time.monotonic() - began:.0f} s", flush=True)
        found.starts = [_start_up(keyd, min(3, rounds)) for keyd in (small, large)]
        found.sizes = [memory(keyd.pid) for keyd in (small, large)]
        found.settling = _settle(large)
        stack.enter_context(watching(small.directory / "run" / "keyd.sock", 1, "bench"))
        agents = stack.enter_context(watching(large.directory / "run" / "keyd.sock", size.agents, "bench", own=name_of))
        _settle(large)
        found.sizes.append(memory(large.pid))
        for _ in range(rounds):
            for _ in range(_TURNS):
                for keyd, runs in zip((small, large), found.runs, strict=True):
                    runs.append(load.run(keyd.target(), 1, seconds / _TURNS))
            for keyd in (small, large):
                spot_check(keyd.address, sign_request("bench"), keyd.public_key("bench"))
        _rotations(large, found, min(3, rounds), agents)
        found.operations = _operations(large) if operations else {}
    return found


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


def _start_up(keyd: BenchDaemon, times: int) -> tuple[float, float]:
    """Return the seconds from the start of the process to its first answer, and its CPU seconds; medians. Leaves it running."""
    took, cpu = [], []
    for _ in range(times):
        if keyd.process is not None and keyd.process.poll() is None:
            keyd.stop()
        began = time.monotonic()
        keyd.start()
        took.append(time.monotonic() - began)
        cpu.append(cpu_seconds(keyd.pid))
    return statistics.median(took), statistics.median(cpu)


def _settle(keyd: BenchDaemon) -> float:
    """Wait until a daemon has done what it does after its start: no more than a tenth of a core for a second. Returns its CPU seconds until then."""
    began = spent = cpu_seconds(keyd.pid)
    for _ in range(60):
        time.sleep(1)
        before, spent = spent, cpu_seconds(keyd.pid)
        if spent - before < 0.1:
            break
    return spent - began


def _rotations(keyd: BenchDaemon, found: Found, rounds: int, agents: Watching) -> None:
    """Fill in the p99s of a calm agent, without rotations and with them, in turn. The agents must have been told of them."""
    own = itertools.cycle([name_of(number) for number in range(found.size.agents)])
    kinds: dict[str, Callable[[], AbstractContextManager[None]]] = {
        f"{pace} a minute": lambda pace=pace: rotating(keyd, own, 60 / pace)  # type: ignore[misc]
        for pace in PACES
    }
    kinds["watched by all"] = lambda: rotating(keyd, itertools.repeat("bench"), found.seconds / 2, most=1)
    for kind, disturbance in kinds.items():
        calm, rotated = found.rotations.setdefault(kind, ([], []))
        before = agents.messages()
        for _ in range(rounds):
            for seen, what in ((calm, contextlib.nullcontext()), (rotated, disturbance())):
                _, p99, failed = victim(keyd.address, found.seconds, what, key="bench")
                assert not failed, f"{failed} signatures failed"
                seen.append(p99)
        told, least = agents.messages() - before, rounds * (found.size.agents if kind == "watched by all" else 1)
        assert told >= least, f"agents were told {told} times of rotations ({kind}), which is less than {least}"


@contextmanager
def rotating(keyd: BenchDaemon, names: Iterator[str], pause: float, most: int = 1 << 30) -> Iterator[None]:
    """Rotate keys at once, one after another with a pause before each; every one of them must work."""
    stop, refused = threading.Event(), list[Exception]()

    def rotate() -> None:
        try:
            with keyd.admin() as admin:
                due = time.monotonic()
                for name in itertools.islice(names, most):
                    due += pause
                    if stop.wait(max(0.0, due - time.monotonic())):
                        return
                    admin.rotate_key(name, now=True)
        except Exception as exc:  # noqa: BLE001 - told below, in the thread that measures
            refused.append(exc)

    worker = threading.Thread(target=rotate)
    worker.start()
    try:
        yield
    finally:
        stop.set()
        worker.join()
    if refused:
        raise refused[0]


def _operations(keyd: BenchDaemon) -> dict[str, float]:
    """Return how many milliseconds the acts of operators and publication take."""
    took: dict[str, float] = {}
    url = keyd.jwks_url

    def fetch(address: str) -> None:
        answer = httpx.get(address, timeout=60)
        assert answer.status_code == 200, f"{address}: {answer.status_code}"

    with grpc.insecure_channel(keyd.address) as channel, keyd.admin() as admin:
        stub = key_service_pb2_grpc.KeyServiceStub(channel)

        def list_all() -> None:
            token = None
            while token != "":
                token = stub.ListKeys(keys_pb.ListKeysRequest(page_token=token or "")).next_page_token

        acts: dict[str, Callable[[], object]] = {
            "create a key": lambda: admin.create_key(f"new-{time.time_ns()}"),
            "list all keys": list_all,
            "plan, first 1,000 steps": lambda: stub.PlanRotations(keys_pb.PlanRotationsRequest()),
            "set of one key": lambda: fetch(url.replace("/.well-known/", f"/keys/{name_of(0)}/")),
            "set of all keys": lambda: fetch(url),
            "set of all keys, again": lambda: fetch(url),
        }
        for name, act in acts.items():
            began = time.perf_counter()
            try:
                act()
            except (AssertionError, grpc.RpcError, httpx.HTTPError) as exc:
                shown = f"{name} (refused: {str(exc)[:60]})"
            else:
                shown = name
            took[shown] = (time.perf_counter() - began) * 1e3
    return took


def outcome(found: Found) -> Outcome:
    """Return the verdicts and the table."""
    small, large = found.runs
    size = found.size
    many = f"{size.keys:,} keys and {size.agents:,} agents with WatchKeys open"
    p50 = median_ratio([run.p50 for run in large], [run.p50 for run in small])
    start = f"from the start of the process to its first answer, with {size.keys:,} keys in files and SQLite"
    entries = [
        Entry("5 p50", p50, P50, "times", f"p50 with {many} against one of each, one connection", at_most=True),
        Entry("5 start-up", found.starts[1][0], START, "s", start, at_most=True),
    ]
    for kind, (calm, rotated) in found.rotations.items():
        what = f"p99 of an agent with {PACE} calls a second over {found.seconds:g} s, against without, {size.agents:,} agents connected"
        goal = "5 rotation" if kind == f"{PACES[0]} a minute" else f"5 rotation, {kind}"
        if kind == "watched by all":
            what += "; one rotation in the middle, of a key that all of them watch"
        else:
            what += f"; {kind} rotate, each a key that one of them watches"
            what += "; the planner's limit unless configured" if kind == f"{PACES[0]} a minute" else ""
        counts = kind != f"{PACES[1]} a minute"
        entries.append(Entry(goal, median_ratio(rotated, calm), P99, "times", what, at_most=True, counts=counts))
    return Outcome(entries, [_table(found)])


def _table(found: Found) -> Table:
    size, sizes = found.size, found.sizes
    each = (sizes[1] - sizes[0]) / size.keys * 10_000 / 2**20
    rows = [
        ["keys", "1", f"{size.keys:,}"],
        ["start-up, s", *(f"{start:.2f}" for start, _ in found.starts)],
        ["its CPU, s", *(f"{cpu:.2f}" for _, cpu in found.starts)],
        ["CPU after it, s", "", f"{found.settling:.2f}"],
        ["memory after it, MiB", *(f"{octets / 2**20:,.0f}" for octets in sizes[:2])],
        [f"the same with {size.agents:,} agents, MiB", "", f"{sizes[2] / 2**20:,.0f}"],
        ["memory per 10,000 keys, MiB", "", number(each)],
        ["p50, µs", *(f"{statistics.median(run.p50 for run in runs):,.0f}" for runs in found.runs)],
    ]
    for kind, (calm, rotated) in found.rotations.items():
        pair = f"{statistics.median(calm):.2f}, {statistics.median(rotated):.2f}"
        rows.append([f"p99 of a calm agent at rest and over rotations, {kind}, ms", "", pair])
    rows += [[f"{name}, ms", "", f"{took:,.1f}"] for name, took in found.operations.items()]
    return Table("Many keys and agents", ("", "one", "many"), rows)


def main() -> int:
    """Measure and print. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keys", type=int, default=100_000, help="at least as many as agents")
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each p50; half as long as each p99")
    options = parser.parse_args()
    if not load.installed():
        print("h2load is missing: install nghttp2-client", file=sys.stderr)
        return 2
    size = Size(options.keys, options.agents)
    found = outcome(measure(size, options.rounds, options.seconds, operations=True))
    print(f"{describe()}, {today()}; {options.rounds} rounds\n")
    print(found.tables[0].markdown() + "\n")
    for entry in found.entries:
        print(entry.line())
    return 1 if missed(found.entries) else 0
