"""How much more two worker processes sign than one, for two programs that sign as fast as they can.

    make bench-workers, or python benchmarks/workers.py [--seconds 3] [--rounds 5] [--connections 8]

The daemon as it is delivered: Ed25519 from encrypted files, each base parsed and held to a grant, callers proved by the kernel, each signature on record.
Two copies of h2load (nghttp2) are two programs that the grants tell apart, so two workers serve them. One worker and two take turns; medians of the rounds.

The load runs on the same cores. What it takes is told apart from what the daemon takes (schedstat of each process), and the last line takes it out: what a
daemon signs that has as many cores as it has workers, at the CPU time that a signature took in the run. Of one worker no more than one core is assumed.

Fails when that is less than 1.6 times as much with two, or when a signature of the sample does not verify.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import re
import resource
import shutil
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from daemon_process import DaemonProcess

from keyd.v1 import signing_service_pb2 as pb

BAR = 1.6
PROGRAMS = ("alpha", "beta")
METHOD = "http://localhost/keyd.v1.SigningService/Sign"
SECTIONS = """
[metrics]
listen = "127.0.0.1:0"
[limits]
rate = 1000000
burst = 1000000
[grants.operators]
principals = [{{ executable = "{python}" }}]
operations = ["*"]
keys = ["*"]
purposes = ["http"]
"""
GRANT = """
[grants.{name}]
principals = [{{ executable = "{directory}/{name}" }}]
keys = ["bench"]
purposes = ["http"]
authorities = ["api.example.com"]
methods = ["GET", "POST"]
paths = ["/v1/"]
"""


@dataclass(frozen=True, slots=True)
class Run:
    """What was measured once. CPU times in seconds."""

    signatures: int
    seconds: float
    daemon: float
    load: float

    @property
    def cost(self) -> float:
        """CPU microseconds of the daemon per signature."""
        return self.daemon * 1e6 / self.signatures


def base() -> bytes:
    """Return a signature base that is fresh now."""
    covered = '("@method" "@authority" "@path" "content-digest")'
    return (
        f'"@method": POST\n"@authority": api.example.com\n"@path": /v1/orders\n'
        f'"content-digest": sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:\n'
        f'"@signature-params": {covered};created={int(time.time())};expires={int(time.time()) + 60};nonce="bHVtb2F1dGg="'
    ).encode()


class Daemon(DaemonProcess):
    """A daemon with so many workers, and copies of h2load that may sign."""

    def __init__(self, workers: int) -> None:
        super().__init__()
        text = self.config.read_text().replace("[http]", f"workers = {workers}\n[http]", 1)
        text += SECTIONS.format(python=os.path.realpath(sys.executable))
        for name in PROGRAMS:
            text += GRANT.format(name=name, directory=self.directory)
            shutil.copy(shutil.which("h2load") or "", self.directory / name)
        self.config.write_text(text)

    def wait_until_up(self) -> None:
        """Wait until all workers serve."""
        deadline = time.monotonic() + 60
        while not any(event.get("event") == "serving" for event in self.events()):
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)
        super().wait_until_up()

    def cpu(self) -> float:
        """CPU seconds of the supervisor and its workers, all their threads (proc_pid_schedstat)."""
        assert self.process is not None
        own = self.process.pid
        children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
        total = 0
        for pid in [str(own), *children]:
            for task in Path(f"/proc/{pid}/task").iterdir():
                total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    def signed(self) -> dict[str, float]:
        """Signatures allowed so far, by worker; under no name where there is one process."""
        url = next(str(event["metrics"]) for event in self.events() if event.get("event") == "serving")
        pattern = r'keyd_decisions_total\{operation="sign",reason=""(?:,worker="(\d+)")?\} ([0-9.e+]+)'
        return {worker: float(count) for worker, count in re.findall(pattern, httpx.get(url).text)}


@contextmanager
def daemon(workers: int) -> Iterator[Daemon]:
    """A daemon with a key."""
    process = Daemon(workers)
    try:
        process.start()
        with process.admin() as admin:
            admin.create_key("bench")
        yield process
    finally:
        process.close()


def run(process: Daemon, seconds: int, connections: int) -> Run:
    """Have both programs sign for so long."""
    data = pb.SignRequest(key="bench", signature_base=base()).SerializeToString()
    (body := process.directory / "body").write_bytes(b"\0" + struct.pack(">I", len(data)) + data)
    options = [f"-D{seconds}", f"-c{connections}", "-m1", "-Hcontent-type: application/grpc", "-Hte: trailers", f"-d{body}"]
    where = f"--base-uri=unix:{process.directory}/run/keyd.sock"
    counted, before, load = sum(process.signed().values()), process.cpu(), _of_children()
    programs = [
        subprocess.Popen([str(process.directory / name), *options, where, METHOD], stdout=subprocess.DEVNULL) for name in PROGRAMS
    ]
    for program in programs:
        assert program.wait() == 0
    spent, loaded = process.cpu() - before, _of_children() - load
    return Run(int(sum(process.signed().values()) - counted), seconds, spent, loaded)


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def spot_check(process: Daemon) -> None:
    """Sign once and verify it."""
    with process.client() as client:
        info, data = client.key_info("bench"), base()
        signature = client.sign_base("bench", data)
    assert info.active is not None
    x = json.loads(info.active.public_jwk)["x"]
    Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(x + "=" * (-len(x) % 4))).verify(signature.signature, data)


def main() -> int:
    """Measure and print. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=3, help="of load, per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=8, help="of each program")
    options = parser.parse_args()
    if shutil.which("h2load") is None:
        print("h2load is missing: install nghttp2-client", file=sys.stderr)
        return 2
    runs: dict[int, list[Run]] = {1: [], 2: []}
    with daemon(1) as one, daemon(2) as two:
        for process in (one, two):
            run(process, 1, options.connections)  # warm
        for _ in range(options.rounds):
            for workers, process in ((1, one), (2, two)):
                runs[workers].append(run(process, options.seconds, options.connections))
                spot_check(process)
        shares = two.signed()
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}")
    print(f"2 programs, {options.connections} connections each, {options.rounds} rounds of {options.seconds} s\n")
    print("| workers | signatures/s | CPU us per signature, daemon | cores, daemon | cores, load |\n|---|---|---|---|---|")
    for workers, found in runs.items():
        print(
            f"| {workers} | {_median(each.signatures / each.seconds for each in found):,.0f} | {_median(each.cost for each in found):.1f} "
            f"| {_median(each.daemon / each.seconds for each in found):.2f} | {_median(each.load / each.seconds for each in found):.2f} |"
        )
    print(f"\nsigned by worker: {', '.join(f'{worker}: {count:,.0f}' for worker, count in sorted(shares.items()))}")
    pairs = list(zip(runs[1], runs[2], strict=True))
    plain = _median(many.signatures / few.signatures for few, many in pairs)
    apart = _median(2 * few.cost / many.cost for few, many in pairs)
    print(f"as measured, on cores that the load shares: {plain:.2f} times as many with two")
    print(f"with the load taken out: {apart:.2f} times as many (at least {BAR:g}): {'ok' if apart >= BAR else 'TOO FEW'}")
    return 0 if apart >= BAR else 1


def _median(values: Iterator[float]) -> float:
    return statistics.median(values)


if __name__ == "__main__":
    sys.exit(main())
