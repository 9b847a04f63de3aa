"""Runs ``calls.py`` and checks what it brings."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from backends.api import Algorithm
from backends.encoding import verify_raw
from benchmarks.daemon import BenchDaemon
from benchmarks.machine import cpu_seconds
from benchmarks.payload import base

_WARM = 0.3  # seconds of calls before anything is measured


@dataclass(frozen=True, slots=True)
class Calls:
    """What a client did: CPU for each signature and latencies in microseconds."""

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


class Caller:
    """A client in a process of its own. It is connected, and has made its first calls, before anything is measured."""

    def __init__(self, daemon: BenchDaemon, kind: str, *, python: str = sys.executable, key: str = "bench") -> None:
        """``kind`` is one of ``calls.KINDS``; ``python`` is whose keyd the client is of."""
        line = [python, str(Path(__file__).with_name("calls.py")), daemon.address, key, kind]
        self._daemon, self._kind = daemon, kind
        self._public = daemon.public_key(key)
        self._process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        try:
            self.run(_WARM)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def run(self, seconds: float) -> Calls:
        """Have it call for so long, and verify one of its signatures."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        message = base()
        before, signed = cpu_seconds(self._daemon.pid), self._daemon.allowed()
        print(json.dumps({"base": message.hex(), "seconds": seconds}), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        assert line, f"{self._kind}: the client ended"
        found, made = json.loads(line), self._daemon.allowed() - signed
        server_each = (cpu_seconds(self._daemon.pid) - before) * 1e6 / max(1.0, made)
        assert made >= found["count"], f"{self._kind}: {found['count']} answers, and {made:.0f} signatures"
        verify_raw(self._public, Algorithm.ED25519, bytes.fromhex(found["signature"]), message)
        return Calls(found["count"], found["seconds"], found["cpu"], server_each, found["p50"], found["p99"])


def call(daemon: BenchDaemon, kind: str, seconds: float, *, python: str = sys.executable) -> Calls:
    """Have a client of its own process call for so long, once."""
    with Caller(daemon, kind, python=python) as caller:
        return caller.run(seconds)
