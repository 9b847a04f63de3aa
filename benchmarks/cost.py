"""What each guard of the signing path costs, in CPU of the daemon per signature.

    make bench-cost, or python benchmarks/cost.py [--seconds 2] [--rounds 5]

One Ed25519 key, one signature base of an ordinary request, gRPC over a Unix socket, h2load (nghttp2) as the load. The daemon's CPU time is
read from the kernel, all its threads together, so what the load takes on the same cores does not count. Interleaved, medians of the rounds:

- unguarded: benchmarks/unguarded.py, the same server and keyring without any guard;
- policy: + the caller's rate and grant, figures for Prometheus, the answer still for any bytes (purpose raw, own socket, no trail);
- base: + the base parsed and held to profile and grant, in place of raw bytes;
- gate: + the caller proved by the kernel, through the gate;
- audit: + the chained record on disk before the answer: the daemon as it is delivered;
- wait: + waiting for the disk (wait_for_sync).

Fails when the whole of it, audit against unguarded, costs more than 45 microseconds, or when a signature of a sample does not verify.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from daemon_process import DaemonProcess

from backends.api import Algorithm, PublicKey
from backends.encoding import verify_raw
from keyd.v1 import signing_service_pb2 as pb
from keyd.v1 import signing_service_pb2_grpc

BAR = 45.0  # microseconds
GUARDED = """
[metrics]
listen = "127.0.0.1:0"
[backends.memory]
type = "memory"
[defaults]
backend = "memory"
[limits]
rate = 1000000
burst = 1000000
[sockets.bench]
path = "{directory}/run/bench.sock"
[grants.owner]
principals = [{ uid = UID }]
operations = ["*"]
keys = ["*"]
[grants.bench]
principals = [{ uid = UID }, { socket = "bench" }]
keys = ["bench"]
purposes = ["http"]
authorities = ["api.example.com"]
methods = ["GET", "POST"]
paths = ["/v1/"]
[grants.raw]
principals = [{ uid = UID }, { socket = "bench" }]
keys = ["raw"]
purposes = ["raw"]
""".replace("UID", str(os.geteuid()))
METHOD = "http://localhost/keyd.v1.SigningService/Sign"


@dataclass
class Subject:
    """A server to be measured: its process, where it listens, and what is sent there."""

    name: str
    pid: int
    socket: Path
    public_key: PublicKey
    request: Callable[[], pb.SignRequest]
    metrics: str | None


def base() -> bytes:
    """Return a signature base that is fresh now."""
    covered = '("@method" "@authority" "@path" "content-digest")'
    return (
        f'"@method": POST\n"@authority": api.example.com\n"@path": /v1/orders\n'
        f'"content-digest": sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:\n'
        f'"@signature-params": {covered};created={int(time.time())};expires={int(time.time()) + 60};nonce="bHVtb2F1dGg="'
    ).encode()


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, all its threads, to the nanosecond (proc_pid_schedstat)."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def frame(request: pb.SignRequest) -> bytes:
    """Return a gRPC message: not compressed, length, bytes."""
    data = request.SerializeToString()
    return b"\0" + struct.pack(">I", len(data)) + data


def load(subject: Subject, connections: int, seconds: float, directory: Path) -> tuple[float, float]:
    """Return CPU microseconds of the daemon per signature, and signatures a second."""
    (body := directory / "body").write_bytes(frame(subject.request()))
    command = ["h2load", f"-D{seconds:g}", f"-c{connections}", "-m1", "-Hcontent-type: application/grpc", "-Hte: trailers"]
    counted = allowed(subject.metrics) if subject.metrics else 0.0
    before = cpu_seconds(subject.pid)
    shown = subprocess.run(
        [*command, f"-d{body}", f"--base-uri=unix:{subject.socket}", METHOD], capture_output=True, text=True, check=True
    ).stdout
    spent = cpu_seconds(subject.pid) - before
    match = re.search(r"requests: (\d+) total, .*?(\d+) succeeded", shown)
    assert match, shown
    assert int(match[1]) > 100, f"{subject.name}: almost nothing was answered\n{shown}"
    if subject.metrics:
        signed = allowed(subject.metrics) - counted
        assert signed >= 0.99 * int(match[2]), f"{subject.name}: {match[2]} answers, and {signed:.0f} signatures"
    return spent * 1e6 / int(match[2]), int(match[2]) / seconds


def spot_check(subject: Subject) -> None:
    """Sign once and verify it: h2load takes an error for an answer like any other."""
    with grpc.insecure_channel(f"unix:{subject.socket}") as channel:
        request = subject.request()
        response = signing_service_pb2_grpc.SigningServiceStub(channel).Sign(request)
    data = getattr(request, str(request.WhichOneof("input")))
    verify_raw(subject.public_key, Algorithm.ED25519, response.signature, data)


@contextmanager
def unguarded(directory: Path) -> Iterator[Subject]:
    """benchmarks/unguarded.py as a process."""
    socket = directory / "unguarded.sock"
    command = [sys.executable, str(Path(__file__).with_name("unguarded.py")), str(socket)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        key = public_key(process.stdout.readline())
        try:
            yield Subject("unguarded", process.pid, socket, key, lambda: pb.SignRequest(key="bench", signature_base=base()), None)
        finally:
            process.kill()


def public_key(jwk: str) -> PublicKey:
    """Return the key of a public JWK."""
    x = json.loads(jwk)["x"]
    return Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(x + "=" * (-len(x) % 4)))


@contextmanager
def daemon(sections: str) -> Iterator[DaemonProcess]:
    """A daemon with a key for bases and one for raw bytes."""
    process = DaemonProcess(sections=GUARDED + sections)
    process.config.write_text(process.config.read_text().replace("{directory}", str(process.directory)))
    try:
        process.start()
        with process.admin() as admin:
            admin.create_key("bench", backend="memory")
            admin.create_key("raw", backend="memory", purposes=["raw"])
        yield process
    finally:
        process.close()


def subject(name: str, process: DaemonProcess, socket: str, key: str) -> Subject:
    """Return one way to ask that daemon."""
    assert process.process is not None
    with process.client() as client:
        info = client.key_info(key)
    assert info.active is not None

    def request() -> pb.SignRequest:
        return pb.SignRequest(key=key, message=base()) if key == "raw" else pb.SignRequest(key=key, signature_base=base())

    path = process.directory / "run" / socket
    return Subject(name, process.process.pid, path, public_key(info.active.public_jwk), request, metrics_url(process))


def metrics_url(process: DaemonProcess) -> str:
    """Return where the daemon says that its figures are."""
    return next(str(event["metrics"]) for event in process.events() if event.get("event") == "serving")


def allowed(url: str) -> float:
    """Return how many signatures the daemon says that it allowed."""
    found = re.search(r'keyd_decisions_total\{operation="sign",reason=""\} ([0-9.e+]+)', httpx.get(url).text)
    return float(found[1]) if found else 0.0


def operation() -> float:
    """Return the CPU microseconds of one Ed25519 signature and nothing else."""
    key, message = Ed25519PrivateKey.generate(), base()
    began = time.process_time()
    for _ in range(5000):
        key.sign(message)
    return (time.process_time() - began) * 1e6 / 5000


def measure(subjects: list[Subject], rounds: int, seconds: float, connections: int) -> dict[str, list[tuple[float, float]]]:
    """Return cost and rate of each subject in each round."""
    results: dict[str, list[tuple[float, float]]] = {each.name: [] for each in subjects}
    with tempfile.TemporaryDirectory() as directory:
        for each in subjects:
            spot_check(each)
            load(each, connections, 1, Path(directory))  # warm
        for _ in range(rounds):
            for each in subjects:
                results[each.name].append(load(each, connections, seconds, Path(directory)))
                spot_check(each)
    return results


def main() -> int:
    """Measure and print. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=2, help="of load, per subject and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=8)
    options = parser.parse_args()
    if shutil.which("h2load") is None:
        print("h2load is missing: install nghttp2-client", file=sys.stderr)
        return 2
    off, on, wait = "[audit]\nenabled = false\n", "", "[audit]\nwait_for_sync = true\n"
    with (
        tempfile.TemporaryDirectory() as directory,
        unguarded(Path(directory)) as bare,
        daemon(off) as silent,
        daemon(on) as delivered,
        daemon(wait) as waiting,
    ):
        subjects = [
            bare,
            subject("policy", silent, "bench.sock", "raw"),
            subject("base", silent, "bench.sock", "bench"),
            subject("gate", silent, "keyd.sock", "bench"),
            subject("audit", delivered, "keyd.sock", "bench"),
            subject("wait", waiting, "keyd.sock", "bench"),
        ]
        results = measure(subjects, options.rounds, options.seconds, options.connections)
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}")
    print(f"the Ed25519 operation alone, in one thread: {operation():.1f} us")
    print(f"{options.connections} connections, {options.rounds} rounds of {options.seconds:g} s\n")
    print("| up to | CPU us per signature | this step | signatures/s |\n|---|---|---|---|")
    costs = {name: statistics.median(cost for cost, _ in found) for name, found in results.items()}
    before = costs["unguarded"]
    for name, cost in costs.items():
        rate = statistics.median(rate for _, rate in results[name])
        print(f"| {name} | {cost:.1f} | {cost - before:+.1f} | {rate:,.0f} |")
        before = cost
    # Each round has both, minutes apart at most: their difference is steadier than that of two medians.
    whole = statistics.median(full[0] - bare[0] for full, bare in zip(results["audit"], results["unguarded"], strict=True))
    print(f"\nall guards: {whole:.1f} us per signature (at most {BAR:g}): {'ok' if whole <= BAR else 'TOO MUCH'}")
    return 0 if whole <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
