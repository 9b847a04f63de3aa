"""What one caller notices of another that floods the daemon.

    make bench-flood, or python benchmarks/flood.py [--seconds 4] [--rounds 5]

The victim is an agent that signs at a calm pace, 200 times a second, over one connection. Beside it, another caller, in turn:

- signs as fast as it can, over its rate (h2load, 16 connections with 10 calls each in flight);
- does the same without a grant;
- sends bases that are refused, as fast as it can;
- connects and goes away, as fast as it can;
- opens a thousand connections and says nothing;
- sends bytes that are no HTTP/2, as fast as it can.

For each the victim's latency is measured without and with the flood, in turn. Fails when the median of the p99s with a flood is more
than twice that without, or when any of the victim's signatures fails.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
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
PACE = 200  # signatures a second

#: The victim and the flood run under one uid, so what tells them apart is the program.
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
principals = [{{ uid = {uid}, executable = "{h2load}" }}]
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


def signatures(daemon: DaemonProcess, key: str, *, good: bool = True) -> AbstractContextManager[None]:
    """Sign, or try to, as fast as h2load can."""

    @contextmanager
    def flood() -> Iterator[None]:
        with tempfile.TemporaryDirectory() as directory:
            body = Path(directory) / "body"
            body.write_bytes(frame(pb.SignRequest(key=key, signature_base=base() if good else b'"@method": GET')))
            command = ["h2load", "-D3600", "-c16", "-m10", "-Hcontent-type: application/grpc", "-Hte: trailers", f"-d{body}"]
            process = subprocess.Popen(
                [*command, f"--base-uri={daemon.address}", METHOD], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                yield
            finally:
                process.kill()
                process.wait()

    return flood()


@contextmanager
def connections(daemon: DaemonProcess, action: Callable[[socket.socket], None]) -> Iterator[None]:
    """Connect again and again, and do that with each connection."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
                client.settimeout(1)
                client.connect(daemon.address.removeprefix("unix:"))
                action(client)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@contextmanager
def idle(daemon: DaemonProcess) -> Iterator[None]:
    """Hold a thousand connections and say nothing."""
    with contextlib.ExitStack() as stack:
        for _ in range(1000):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.settimeout(1)
            with contextlib.suppress(OSError):
                client.connect(daemon.address.removeprefix("unix:"))
        yield


def garbage(client: socket.socket) -> None:
    """Send what is no HTTP/2 until the other end has enough of it."""
    while True:
        client.sendall(os.urandom(4096))


FLOODS: dict[str, Callable[[DaemonProcess], AbstractContextManager[None]]] = {
    "signs over its rate": lambda daemon: signatures(daemon, "flood"),
    "signs without a grant": lambda daemon: signatures(daemon, "victim"),
    "is refused": lambda daemon: signatures(daemon, "flood", good=False),
    "connects and goes away": lambda daemon: connections(daemon, lambda _: None),
    "connects a thousand times": idle,
    "sends no HTTP/2": lambda daemon: connections(daemon, garbage),
}


def victim(daemon: DaemonProcess, seconds: float) -> tuple[float, float, int]:
    """Return the victim's p50 and p99 in milliseconds, and how many of its signatures failed."""
    command = [sys.executable, "-c", VICTIM, daemon.address, str(seconds), str(PACE), str(Path(__file__).parent)]
    p50, p99, failed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return p50, p99, failed


def main() -> int:
    """Measure and print. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4, help="of each phase, without and with the flood")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    h2load = shutil.which("h2load")
    if h2load is None:
        print("h2load is missing: install nghttp2-client", file=sys.stderr)
        return 2
    python = Path(sys.executable).resolve()
    grants = GRANTS.format(uid=os.geteuid(), python=python, h2load=Path(h2load).resolve())
    daemon, bad = DaemonProcess(sections=grants), 0
    try:
        daemon.start()
        with daemon.admin() as admin:
            for key in ("victim", "flood"):
                admin.create_key(key, backend="memory")
        print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}")
        print(f"victim: {PACE} signatures/s; medians of {options.rounds} rounds of {options.seconds:g} s\n")
        print("| the other caller | p50 quiet, ms | p50 | p99 quiet, ms | p99 | times | failed |\n|---|---|---|---|---|---|---|")
        for name, flood in FLOODS.items():
            quiet, flooded = [], []
            for _ in range(options.rounds):
                quiet.append(victim(daemon, options.seconds))
                with flood(daemon):
                    flooded.append(victim(daemon, options.seconds))
            (p50, p99), (p50_flood, p99_flood) = (
                [statistics.median(column) for column in list(zip(*runs, strict=True))[:2]] for runs in (quiet, flooded)
            )
            failed = sum(run[2] for run in (*quiet, *flooded))
            bad += failed > 0 or p99_flood > BAR * p99
            print(
                f"| {name} | {p50:.2f} | {p50_flood:.2f} | {p99:.2f} | {p99_flood:.2f} | {p99_flood / p99:.1f} | {failed} |",
                flush=True,
            )
    finally:
        daemon.close()
    print(
        f"\n{len(FLOODS)} floods, {bad} that another caller notices too much (p99 more than {BAR:g} times the quiet one, or a failure)"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
