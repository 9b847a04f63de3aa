"""Runs ``calls.py`` and checks what it brings."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from backends.api import Algorithm
from backends.encoding import verify_raw
from benchmarks.daemon import BenchDaemon
from benchmarks.machine import cpu_seconds
from benchmarks.payload import base


@dataclass(frozen=True, slots=True)
class Calls:
    """What a client did: CPU for each signature and latencies in microseconds, of the server with what warmed it up."""

    count: int
    seconds: float
    client_cpu: float  # seconds
    server_each: float
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        """Signatures a second."""
        return self.count / self.seconds

    @property
    def client_each(self) -> float:
        """CPU microseconds of the client for each."""
        return self.client_cpu * 1e6 / self.count


def call(daemon: BenchDaemon, kind: str, seconds: float, *, python: str = sys.executable, key: str = "bench") -> Calls:
    """Have a client of its own process call for so long, and verify one of its signatures.

    Args:
        kind: one of ``calls.KINDS``.
        python: whose keyd the client is of.
    """
    message = base()
    line = [python, str(Path(__file__).with_name("calls.py")), daemon.address, key, kind, str(seconds)]
    before, signed = cpu_seconds(daemon.pid), daemon.allowed()
    done = subprocess.run(line, input=message, capture_output=True, check=False)
    server_each = (cpu_seconds(daemon.pid) - before) * 1e6 / max(1.0, daemon.allowed() - signed)
    assert done.returncode == 0, f"{kind}: {done.stderr.decode()[-2000:]}"
    found = json.loads(done.stdout)
    verify_raw(daemon.public_key(key), Algorithm.ED25519, bytes.fromhex(found["signature"]), message)
    return Calls(found["count"], found["seconds"], found["cpu"], server_each, found["p50"], found["p99"])
