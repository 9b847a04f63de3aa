"""What one caller notices of another that floods the daemon.

    make bench-flood, or python benchmarks flood [--seconds 4] [--rounds 5]

The victim is an agent that signs at a calm pace, 200 times a second, over one connection. Beside it, in turn, a program that keeps one core busy and calls nobody, to tell what the machine
does from what keyd does; and another caller, that

- signs as fast as it can, over the rate of its grant (h2load, 16 connections with 10 calls each in flight);
- does the same with a key for which it has no grant;
- sends bases that are refused, as fast as it can;
- connects and goes away, as fast as it can, from four threads;
- opens a thousand connections and says nothing;
- sends bytes that are no HTTP/2, as fast as it can.

As root, the other caller is another user (nobody); else it is another program of the same user, which is harder on the victim, since the two
share what keyd allows an account. Everything but the policy is as delivered. For each, the victim's latency is measured without and with
the flood, in turn. Fails when the p99 with a flood is more than twice that without, by the median of the rounds, or when a signature of the victim fails.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from daemon_process import DaemonProcess

from benchmarks import load
from benchmarks.daemon import as_delivered
from benchmarks.figures import Entry, Outcome, Table, median_ratio, missed
from benchmarks.machine import describe, today
from benchmarks.payload import SIGN, base, frame
from benchmarks.victim import PACE, victim
from keyd.v1 import signing_service_pb2 as pb

BAR = 2.0
CONTROL = "(calls nobody)"
COLUMNS = ("the other caller", "p50 quiet, ms", "p50", "p99 quiet, ms", "p99", "times", "failed")

#: Who floods: nobody, or another program of ours.
OTHER = 65534 if os.geteuid() == 0 else os.geteuid()
GRANTS = """
[backends.memory]
type = "memory"
[defaults]
backend = "memory"
[grants.owner]
principals = [{{ uid = {uid} }}]
operations = ["*"]
keys = ["*"]
[grants.victim]
principals = [{{ uid = {uid}, executable = "{python}" }}]
keys = ["victim"]
purposes = ["http"]
[grants.flood]
principals = [{{ uid = {other}, executable = "{h2load}" }}]
keys = ["flood"]
purposes = ["http"]
rate = 100
burst = 100
"""

#: Connects again and again, and does argv[2] with each connection: nothing, "garbage", or "hold", which keeps a thousand.
CROWD = r"""
import os, socket, sys, threading, time
def connected():
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(1)
    client.connect(sys.argv[1])
    return client
def work():
    while True:
        try:
            with connected() as client:
                while sys.argv[2] == "garbage":
                    client.sendall(os.urandom(4096))
        except OSError:
            pass
if sys.argv[2] == "hold":
    held = []
    for _ in range(1000):
        try:
            held.append(connected())
        except OSError:
            pass
    time.sleep(3600)
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
time.sleep(3600)
"""


@contextmanager
def running(command: list[str]) -> Iterator[None]:
    """Run a command as the other caller, for as long as it takes."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=OTHER, cwd="/")
    try:
        yield
        assert process.poll() is None, f"the flood ended by itself: {command[0]}"
    finally:
        process.kill()
        process.wait()


@contextmanager
def signatures(daemon: DaemonProcess, key: str, *, good: bool = True) -> Iterator[None]:
    """Sign, or try to, as fast as h2load can."""
    body = daemon.directory / "body"
    body.write_bytes(frame(pb.SignRequest(key=key, signature_base=base() if good else b'"@method": GET')))
    body.chmod(0o644)
    command = ["h2load", "-D3600", "-c16", "-m10", "-Hcontent-type: application/grpc", "-Hte: trailers", f"-d{body}"]
    with running([*command, f"--base-uri={daemon.address}", SIGN]):
        yield


def crowd(daemon: DaemonProcess, what: str) -> AbstractContextManager[None]:
    """Have CROWD at work. The system's Python, as nobody may not be able to run ours."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable
    return running([python, "-c", CROWD, daemon.address.removeprefix("unix:"), what])


def busy(daemon: DaemonProcess) -> AbstractContextManager[None]:
    """Keep one core busy."""
    return running(["/bin/sh", "-c", "while :; do :; done"])


FLOODS: dict[str, Callable[[DaemonProcess], AbstractContextManager[None]]] = {
    CONTROL: busy,
    "signs over its rate": lambda daemon: signatures(daemon, "flood"),
    "signs without a grant": lambda daemon: signatures(daemon, "victim"),
    "is refused": lambda daemon: signatures(daemon, "flood", good=False),
    "connects and goes away": lambda daemon: crowd(daemon, "leave"),
    "connects a thousand times": lambda daemon: crowd(daemon, "hold"),
    "sends no HTTP/2": lambda daemon: crowd(daemon, "garbage"),
}


@contextmanager
def _victims_daemon() -> Iterator[DaemonProcess]:
    """A daemon that everybody may connect to, and its keys."""
    python, h2load = Path(sys.executable).resolve(), Path(shutil.which("h2load") or "/usr/bin/h2load").resolve()
    daemon = DaemonProcess(sections=GRANTS.format(uid=os.geteuid(), other=OTHER, python=python, h2load=h2load))
    daemon.exec = True
    for directory in (daemon.directory, daemon.directory / "run"):
        directory.mkdir(exist_ok=True)
        directory.chmod(0o711)
    daemon.config.write_text(as_delivered(daemon.config.read_text()).replace("[http]", 'socket_mode = "0666"\n[http]', 1))
    try:
        daemon.start()
        with daemon.admin() as admin:
            for key in ("victim", "flood"):
                admin.create_key(key, backend="memory")
        yield daemon
    finally:
        daemon.close()


def measure(rounds: int, seconds: float, names: Iterable[str] = FLOODS) -> Outcome:
    """Return a verdict for each flood, and the table."""
    found, rows = Outcome(), []
    with _victims_daemon() as daemon:
        for name in names:
            quiet, flooded = [], []
            for _ in range(rounds):
                quiet.append(victim(daemon.address, seconds, contextlib.nullcontext()))
                flooded.append(victim(daemon.address, seconds, FLOODS[name](daemon)))
            (p50, p99), (p50_flood, p99_flood) = (
                [statistics.median(column) for column in list(zip(*runs, strict=True))[:2]] for runs in (quiet, flooded)
            )
            failed = sum(run[2] for run in (*quiet, *flooded))
            times = median_ratio([run[1] for run in flooded], [run[1] for run in quiet])
            rows.append([name, *(f"{each:.2f}" for each in (p50, p50_flood, p99, p99_flood)), f"{times:.1f}", str(failed)])
            if name != CONTROL:
                what = f"p99 of an agent with {PACE} calls a second beside a caller that {name}, against without"
                what += f"; {failed} of its signatures failed, which is a miss whatever the figure" if failed else ""
                found.entries.append(Entry(f"flood: {name}", None if failed else times, BAR, "times", what, at_most=True))
    found.tables.append(Table("What one caller notices of another", COLUMNS, rows))
    return found


def main() -> int:
    """Measure and print. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=4, help="of each phase, without and with the flood")
    parser.add_argument("--only", choices=FLOODS, help="one of the floods")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if not load.installed():
        print("h2load is missing: install nghttp2-client", file=sys.stderr)
        return 2
    print(f"{describe()}, {today()}")
    print(f"victim: {PACE} signatures/s; medians of {options.rounds} rounds of {options.seconds:g} s\n")
    found = measure(options.rounds, options.seconds, [options.only] if options.only else FLOODS)
    print(found.tables[0].markdown())
    bad = missed(found.entries)
    print(
        f"\n{len(found.entries)} floods, {len(bad)} that another caller notices too much (p99 more than {BAR:g} times the quiet one, or a failure)"
    )
    return 1 if bad else 0
