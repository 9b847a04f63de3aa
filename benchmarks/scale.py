"""What many keys and many connected agents cost: start-up, memory, latency, and what a rotation does to the others.

    make bench-scale KEYS=100000 AGENTS=1000, or python benchmarks/scale.py [--keys N] [--agents N] [--state DIRECTORY]

One daemon has that many keys in encrypted files, another has one. Both are as delivered but for the limits of connections. The keys are
put into the database and the directory directly, without waiting for the disk after each; ``--state`` keeps them, and all else, for the next time.
Measured are

- how long the daemon takes from exec to "serving", and its memory then;
- p50 of Sign with many keys against one, call by call in turn over one connection each;
- p50 with the agents connected, each over a connection of its own with a WatchKeys open, against none connected;
- p99 of a calm caller, 200 signatures a second, while keys rotate at once, ``--pace`` a minute, against at rest: each agent watches its own key,
  and then all watch the same one;
- how long it takes to create a key, list all keys, and render the JWK Set of one key and of all.

Fails when start-up takes 5 s or more, a p50 is more than 10 % off, or a p99 more than twice that at rest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import grpc
import httpx
from sqlalchemy import insert, update

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parent))

from cost import base
from daemon_process import DaemonProcess
from flood import VICTIM
from support import new_key

from backends.api import BackendContext
from backends.file import FileBackend, FileConfig
from backends.secrets import SecretRef
from keyd.client import KeydClientError
from keyd.core import jwk
from keyd.core.model import KeyVersion
from keyd.core.store import SqlStore, rows, tables
from keyd.core.timeline import LifecyclePolicy, first
from keyd.v1 import key_service_pb2 as keys_pb
from keyd.v1 import key_service_pb2_grpc, signing_service_pb2_grpc
from keyd.v1 import signing_service_pb2 as pb

START, P50, P99 = 5.0, 1.1, 2.0
DAY = 86400.0
SECTIONS = """
[connections]
max = 5000
max_per_caller = 5000
max_calls_per_caller = 5000
[limits]
rate = 1000000
burst = 1000000
max_calls = 5000
"""

#: Opens argv[3] connections with a WatchKeys on each: of the agent's own key, or of argv[4]. Prints how many were told something, on demand.
AGENTS = r"""
import asyncio, sys
import grpc.aio
from keyd.v1 import signing_service_pb2 as pb, signing_service_pb2_grpc
address, number, same = sys.argv[1], int(sys.argv[2]), sys.argv[3]
told = [0] * number
async def agent(n):
    async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = signing_service_pb2_grpc.SigningServiceStub(channel)
        call = stub.WatchKeys(pb.WatchKeysRequest(keys=[same or f"key-{n:06}"]), wait_for_ready=True)
        async for _ in call:
            told[n] += 1
async def main():
    tasks = [asyncio.create_task(agent(n)) for n in range(number)]
    while not all(told):
        await asyncio.sleep(0.1)
        for task in tasks:
            if task.done():
                task.result()
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(sum(told) - number, flush=True)
asyncio.run(main())
"""


def populate(daemon: DaemonProcess, number: int) -> None:
    """Put keys into the state of a daemon that ran once and does not run: their files, and their rows."""
    sync, os.fsync = os.fsync, lambda _: None
    context = BackendContext("file", daemon.directory / "state" / "backends" / "file")
    backend = FileBackend.open(FileConfig(kek=SecretRef(file=daemon.directory / "kek")), context)
    store = SqlStore(daemon.directory / "state" / "keyd.db")
    records = store.load()
    change, now = records.change, time.time()
    try:
        lifecycle = LifecyclePolicy(rotation_period=30 * DAY, destroy_after=30 * DAY)
        keys, versions, archive = [], [], []
        for n in range(number):
            created = now - 20 * DAY * n / number
            key = new_key(f"key-{n:06}", backend="file", created_at=created, lifecycle=lifecycle)
            handle = backend.create(key.name, 1, key.algorithm)
            public, thumbprint = jwk.from_public_key(backend.public_key(handle))
            version = KeyVersion(key.name, 1, thumbprint, thumbprint, public, handle, first(created))
            change += 1
            keys.append({**rows.from_key(key), "change": change})
            versions.append(rows.from_version(version))
            archive.append(rows.archived(version))
        with store._database.writing() as connection:
            connection.execute(insert(tables.keys), keys)
            connection.execute(insert(tables.versions), versions)
            connection.execute(insert(tables.archive), archive)
            connection.execute(insert(tables.numbers), [{"key": row["name"], "last": 1} for row in keys])
            connection.execute(update(tables.changes).values(last=change))
    finally:
        os.fsync = sync
        store.close()
        backend.close()


@contextmanager
def prepared(number: int, state: Path | None) -> Iterator[DaemonProcess]:
    """A daemon with so many keys, which does not run yet."""
    daemon = DaemonProcess(sections=SECTIONS)
    throwaway = daemon.directory
    daemon.config.write_text(daemon.config.read_text().replace("[server]\n", "[server]\nmax_concurrent_calls = 5000\n"))
    try:
        if state is not None:
            daemon.directory = state / str(number)
            daemon.config, daemon.log = daemon.directory / "keyd.toml", daemon.directory / "log"
        if state is None or not daemon.directory.exists():
            if state is not None:
                shutil.copytree(throwaway, daemon.directory)
                daemon.config.write_text(daemon.config.read_text().replace(str(throwaway), str(daemon.directory)))
            daemon.start()
            daemon.stop()
            populate(daemon, number)
        yield daemon
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.stop(9)
        shutil.rmtree(throwaway)


def started(daemon: DaemonProcess) -> tuple[float, float, float]:
    """Start a daemon. Returns the seconds until it serves, its CPU seconds, and its memory then in MiB."""
    daemon.log.write_text("")
    began = time.perf_counter()
    daemon.start(wait=False)
    assert daemon.process is not None
    while '"serving"' not in daemon.log.read_text():
        assert daemon.process.poll() is None, daemon.log.read_text()
        time.sleep(0.01)
    took = time.perf_counter() - began
    return took, cpu(daemon), resident(daemon)


def resident(daemon: DaemonProcess) -> float:
    """Return the resident memory of a daemon in MiB."""
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def settled(daemon: DaemonProcess) -> None:
    """Wait until a daemon has done what it does after its start: no more than a tenth of a core for a second."""
    assert daemon.process is not None
    spent = cpu(daemon)
    for _ in range(60):
        time.sleep(1)
        before, spent = spent, cpu(daemon)
        if spent - before < 0.1:
            return


def cpu(daemon: DaemonProcess) -> float:
    """Return the CPU seconds of a daemon."""
    assert daemon.process is not None
    tasks = Path(f"/proc/{daemon.process.pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def in_turn(one: DaemonProcess, other: DaemonProcess, calls: int) -> tuple[list[float], list[float]]:
    """Sign with the one key of a daemon and with a hundred keys of another, in turn. Returns both times in microseconds, sorted."""
    names = [f"key-{n:06}" for n in range(0, 1000, 10)]
    took: tuple[list[float], list[float]] = ([], [])
    data = base()
    with grpc.insecure_channel(one.address) as a, grpc.insecure_channel(other.address) as b:
        signs = [signing_service_pb2_grpc.SigningServiceStub(channel).Sign for channel in (a, b)]
        for sign, warmed in zip(signs, (names[:1], names), strict=True):
            for name in warmed:
                sign(pb.SignRequest(key=name, signature_base=data), wait_for_ready=True, timeout=10)
        for n in range(calls):
            if n % 1000 == 0:
                data = base()
            for sign, times, name in zip(signs, took, (names[0], names[n % len(names)]), strict=True):
                request = pb.SignRequest(key=name, signature_base=data)
                began = time.perf_counter()
                sign(request, timeout=10)
                times.append((time.perf_counter() - began) * 1e6)
    return sorted(took[0]), sorted(took[1])


@contextmanager
def agents(daemon: DaemonProcess, number: int, same: str = "") -> Iterator[subprocess.Popen[str]]:
    """So many connected agents."""
    command = [sys.executable, "-c", AGENTS, daemon.address, str(number), same]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def calm(daemon: DaemonProcess, seconds: float, key: str) -> tuple[float, float]:
    """Return p50 and p99 of a calm caller in milliseconds."""
    script = VICTIM.replace('"victim"', f'"{key}"')
    command = [sys.executable, "-c", script, daemon.address, str(seconds), "200", str(Path(__file__).parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("go\n")
        process.stdin.flush()
        p50, p99, failed = json.loads(process.stdout.readline())
    assert not failed
    return p50, p99


def rotating(daemon: DaemonProcess, names: list[str], stop: threading.Event, pause: float) -> int:
    """Rotate keys at once, one after another, until told to stop. Returns how many."""
    done = 0
    with daemon.admin() as admin:
        while not stop.wait(pause):
            admin.rotate_key(names[done % len(names)], now=True)
            done += 1
    return done


def rotation(daemon: DaemonProcess, names: list[str], rounds: int, seconds: float, pause: float) -> tuple[float, float, int]:
    """Return the p99 of a calm caller at rest and while keys rotate, in milliseconds, and how many did; medians of the rounds."""
    rest, busy, done = [], [], 0
    for _ in range(rounds):
        rest.append(calm(daemon, seconds, "key-000999")[1])
        stop, counted = threading.Event(), []
        worker = threading.Thread(target=lambda: counted.append(rotating(daemon, names, stop, pause)))  # noqa: B023
        worker.start()
        busy.append(calm(daemon, seconds, "key-000999")[1])
        stop.set()
        worker.join()
        done += sum(counted)
    return statistics.median(rest), statistics.median(busy), done


def operations(daemon: DaemonProcess) -> dict[str, float]:
    """Return how many milliseconds the acts of operators and publication take; after each, what the next is not to pay for is over."""
    took = {}

    def timed(name: str, act: object) -> None:
        assert callable(act)
        began = time.perf_counter()
        try:
            act()
        except (KeydClientError, httpx.HTTPError) as exc:
            name += f" (refused: {str(exc)[:60]})"
        took[name] = (time.perf_counter() - began) * 1e3

    url = daemon.jwks_url
    with grpc.insecure_channel(daemon.address) as channel, daemon.admin() as admin:
        stub = key_service_pb2_grpc.KeyServiceStub(channel)  # type: ignore[no-untyped-call]

        def list_all() -> None:
            token = ""
            while True:
                page = stub.ListKeys(keys_pb.ListKeysRequest(page_token=token))
                token = page.next_page_token
                if not token:
                    return

        for n in range(5):
            timed(f"create key {n}", lambda: admin.create_key(f"new-{time.time_ns()}"))
        timed("list keys", list_all)
        timed("plan, first 1,000 steps", lambda: stub.PlanRotations(keys_pb.PlanRotationsRequest()))
        timed(
            "destroy version",
            lambda: (admin.rotate_key("key-000500", now=True), admin.destroy_version("key-000500", 1, force=True)),
        )
        timed(
            "set of one key", lambda: httpx.get(url.replace("/.well-known/", "/keys/key-000001/"), timeout=60).raise_for_status()
        )
        timed("set of all keys", lambda: httpx.get(url, timeout=60).raise_for_status())
        timed("set of all keys, again", lambda: httpx.get(url, timeout=60).raise_for_status())
    return took


class Verdict:
    """The lines of the report, and whether every bar was met."""

    def __init__(self) -> None:
        self.missed: list[str] = []

    def line(self, what: str, figure: float, bar: float | None = None, unit: str = "") -> None:
        verdict = "" if bar is None else f" (at most {bar:g}): {'ok' if figure <= bar else 'TOO MUCH'}"
        print(f"{what}: {figure:.2f}{unit}{verdict}", flush=True)
        if bar is not None and figure > bar:
            self.missed.append(what)


def main() -> int:
    """Measure and print. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keys", type=int, default=100_000, help="at least 1,000")
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--calls", type=int, default=3000, help="of each p50")
    parser.add_argument("--seconds", type=float, default=10, help="of each phase of a p99")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pace", type=float, default=60, help="rotations a minute; 60 is the planner's bound unless configured")
    parser.add_argument("--state", type=Path, help="where the keys are kept for the next time")
    parser.add_argument("--only", choices=("start", "p50", "agents", "rotation", "operations"), action="append")
    options = parser.parse_args()
    only = options.only or ["start", "p50", "agents", "rotation", "operations"]
    verdict = Verdict()
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}")
    with prepared(options.keys, options.state) as many, prepared(1, options.state) as few:
        start_few, _, memory_few = started(few)
        start, spent, memory = started(many)
        verdict.line(f"start-up with {options.keys:,} keys", start, START, " s")
        verdict.line("CPU of that", spent, None, " s")
        verdict.line("start-up with one key", start_few, None, " s")
        verdict.line("memory after the start", memory, None, " MiB")
        verdict.line("memory per 10,000 keys", (memory - memory_few) / (options.keys - 1) * 1e4, None, " MiB")
        settled(many)
        verdict.line("memory when it has settled", resident(many), None, " MiB")
        verdict.line("CPU between", cpu(many) - spent, None, " s")
        if "p50" in only:
            one, other = in_turn(few, many, options.calls)
            verdict.line("p50 with one key", one[len(one) // 2], None, " us")
            verdict.line("p50 with all keys, of that", other[len(other) // 2] / one[len(one) // 2], P50)
        if "agents" in only or "rotation" in only:
            with agents(many, options.agents) as crowd:
                settled(many)
                if "agents" in only:
                    one, other = in_turn(few, many, options.calls)
                    verdict.line(
                        f"p50 with all keys and {options.agents:,} agents", other[len(other) // 2] / one[len(one) // 2], P50
                    )
                if "rotation" in only:
                    own = [f"key-{n:06}" for n in range(options.agents - 1)]
                    rest, busy, done = rotation(many, own, options.rounds, options.seconds, 60 / options.pace)
                    assert crowd.stdin is not None
                    assert crowd.stdout is not None
                    print("told", file=crowd.stdin, flush=True)
                    verdict.line("agents told of rotations", float(crowd.stdout.readline()))
                    verdict.line(f"p99 while {done} keys rotate, {busy:.2f} against {rest:.2f} ms at rest", busy / rest, P99)
        if "rotation" in only:
            with agents(many, options.agents, "key-000001"):
                settled(many)
                rest, busy, done = rotation(many, ["key-000001"], options.rounds, options.seconds, 2.0)
                verdict.line(
                    f"p99 while one key that all watch rotates {done} times, {busy:.2f} against {rest:.2f} ms", busy / rest, P99
                )
        if "operations" in only:
            for name, took in operations(many).items():
                verdict.line(name, took, None, " ms")
    for missed in verdict.missed:
        print(f"missed: {missed}")
    return 1 if verdict.missed else 0


if __name__ == "__main__":
    sys.exit(main())
