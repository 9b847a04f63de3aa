"""What one caller notices of another that floods the daemon.

    make bench-flood, or python benchmarks/flood.py [--seconds 4] [--rounds 5]

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
the flood, in turn. Fails when the median of the p99s with a flood is more than twice that without, or when a signature of the victim fails.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parent))

from cost import METHOD, base, frame
from daemon_process import DaemonProcess

from keyd.v1 import signing_service_pb2 as pb

BAR = 2.0
CONTROL = "(calls nobody)"
PACE = 200  # signatures a second

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

VICTIM = r"""
import json, sys, time
import grpc
sys.path.insert(0, sys.argv[4])
from cost import base
from keyd.v1 import signing_service_pb2 as pb, signing_service_pb2_grpc
address, seconds, pace = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
stub = signing_service_pb2_grpc.SigningServiceStub(grpc.insecure_channel(address))
stub.Sign(pb.SignRequest(key="victim", signature_base=base()), wait_for_ready=True, timeout=5)
print("ready", flush=True)
sys.stdin.readline()
took, failed, end, due = [], 0, time.monotonic() + seconds, time.monotonic()
while due < end:
    time.sleep(max(0.0, due - time.monotonic()))
    due += 1 / pace
    began = time.perf_counter()
    try:
        stub.Sign(pb.SignRequest(key="victim", signature_base=base()), timeout=5)
    except grpc.RpcError:
        failed += 1
    took.append(time.perf_counter() - began)
took.sort()
print(json.dumps([took[len(took) // 2] * 1e3, took[int(len(took) * 0.99)] * 1e3, failed]))
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
    with running([*command, f"--base-uri={daemon.address}", METHOD]):
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


def victim(daemon: DaemonProcess, seconds: float, flood: AbstractContextManager[None]) -> tuple[float, float, int]:
    """Return the victim's p50 and p99 in milliseconds, and how many of its signatures failed. It is connected before the flood begins."""
    command = [sys.executable, "-c", VICTIM, daemon.address, str(seconds), str(PACE), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with flood:
            time.sleep(0.3)  # for the flood to get going: its first burst is over by then, and measured is what goes on
            process.stdin.write("go\n")
            process.stdin.flush()
            p50, p99, failed = json.loads(process.stdout.readline())
    return p50, p99, failed


def main() -> int:
    """Measure and print. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=4, help="of each phase, without and with the flood")
    parser.add_argument("--only", choices=FLOODS, help="one of the floods")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    h2load = shutil.which("h2load")
    if h2load is None:
        print("h2load is missing: install nghttp2-client", file=sys.stderr)
        return 2
    python = Path(sys.executable).resolve()
    grants = GRANTS.format(uid=os.geteuid(), other=OTHER, python=python, h2load=Path(h2load).resolve())
    daemon, bad = DaemonProcess(sections=grants), 0
    for directory in (daemon.directory, daemon.directory / "run"):
        directory.mkdir(exist_ok=True)
        directory.chmod(0o711)
    daemon.config.write_text(daemon.config.read_text().replace("[http]", 'socket_mode = "0666"\n[http]', 1))
    try:
        daemon.start()
        with daemon.admin() as admin:
            for key in ("victim", "flood"):
                admin.create_key(key, backend="memory")
        print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}")
        print(f"victim: {PACE} signatures/s; medians of {options.rounds} rounds of {options.seconds:g} s\n")
        print("| the other caller | p50 quiet, ms | p50 | p99 quiet, ms | p99 | times | failed |\n|---|---|---|---|---|---|---|")
        for name, flood in FLOODS.items():
            if options.only not in (None, name):
                continue
            quiet, flooded = [], []
            for _ in range(options.rounds):
                quiet.append(victim(daemon, options.seconds, contextlib.nullcontext()))
                flooded.append(victim(daemon, options.seconds, flood(daemon)))
            (p50, p99), (p50_flood, p99_flood) = (
                [statistics.median(column) for column in list(zip(*runs, strict=True))[:2]] for runs in (quiet, flooded)
            )
            failed = sum(run[2] for run in (*quiet, *flooded))
            bad += name != CONTROL and (failed > 0 or p99_flood > BAR * p99)
            print(
                f"| {name} | {p50:.2f} | {p50_flood:.2f} | {p99:.2f} | {p99_flood:.2f} | {p99_flood / p99:.1f} | {failed} |",
                flush=True,
            )
    finally:
        daemon.close()
    print(
        f"\n{len(FLOODS) - 1} floods, {bad} that another caller notices too much (p99 more than {BAR:g} times the quiet one, or a failure)"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
