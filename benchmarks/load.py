"""h2load (nghttp2) as the load: gRPC and HTTP/1.1, over Unix sockets and TCP, with the latency of every request.

It is one thread of C, and what it takes is counted apart from the server: what a goal is held to is never the load generator's.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import percentile
from benchmarks.machine import cpu_seconds

#: Seconds for which one body is sent: a base is good for 30.
_FRESH = 15.0
GRPC = ("content-type: application/grpc", "te: trailers")


@dataclass(frozen=True, slots=True)
class Target:
    """A server under load.

    Attributes:
        pid: of its process; its descendants count with it.
        url: what is asked for.
        base_uri: ``unix:/path``, or None for TCP to the host of the URL.
        headers: each ``name: value``.
        body: makes what is posted, as fresh as it has to be; None sends GET.
        http1: HTTP/1.1 in place of HTTP/2.
        done: returns how many signatures, or what else is asked for, the server says that it made so far; None where it does not say.
        each: how many of them are in one request.
        status: of the answers that count; others are failures.
        program: the h2load that asks: keyd tells programs apart by their path.
    """

    name: str
    pid: int
    url: str
    base_uri: str | None = None
    headers: tuple[str, ...] = ()
    body: Callable[[], bytes] | None = None
    http1: bool = False
    done: Callable[[], float] | None = None
    each: int = 1
    status: int = 200
    program: str = "h2load"


@dataclass(frozen=True, slots=True)
class Load:
    """What a run of load found. Times in seconds, latencies in microseconds."""

    count: int
    seconds: float
    server_cpu: float
    load_cpu: float
    p50: float
    p90: float
    p99: float

    @property
    def rate(self) -> float:
        """Signatures, or what else was asked for, a second."""
        return self.count / self.seconds

    @property
    def cpu_each(self) -> float:
        """CPU microseconds of the server for each."""
        return self.server_cpu * 1e6 / self.count

    @property
    def load_each(self) -> float:
        """CPU microseconds of the load generator for each."""
        return self.load_cpu * 1e6 / self.count

    @property
    def load_busy(self) -> float:
        """Which part of one core the load generator had: near 1 it is what limits the rate."""
        return self.load_cpu / self.seconds


def installed() -> bool:
    """Say whether there is an h2load."""
    return shutil.which("h2load") is not None


def run(target: Target, connections: int, seconds: float) -> Load:
    """Ask as fast as answers come, one request at a time on each connection. Raises what :func:`run_all` does."""
    return run_all([target], connections, seconds)


def run_all(targets: Sequence[Target], connections: int, seconds: float) -> Load:
    """Ask one server in several ways at the same time, with an h2load and so many connections for each.

    Raises:
        AssertionError: answers are errors, or the server made fewer signatures than it gave answers. h2load takes a gRPC error for an
            answer like any other.
    """
    target = targets[0]
    with tempfile.TemporaryDirectory() as name:
        directories = [Path(name) / str(number) for number in range(len(targets))]
        for directory in directories:
            directory.mkdir()
        counted = target.done() if target.done else 0.0
        succeeded, wall, load_cpu, latencies = 0, 0.0, 0.0, list[float]()
        before = cpu_seconds(target.pid)
        left = seconds
        while left > 0:
            part = min(left, _FRESH)
            left -= part
            wall += part
            running = [_begin(each, connections, part, where) for each, where in zip(targets, directories, strict=True)]
            for process, each, where in zip(running, targets, directories, strict=True):
                count, spent = _end(process, each, where)
                succeeded, load_cpu = succeeded + count, load_cpu + spent
                latencies += latencies_in((where / "log").read_text(), each.status)
        server_cpu = cpu_seconds(target.pid) - before
    assert succeeded, f"{target.name}: nothing was answered"
    assert len(latencies) >= 0.99 * succeeded, (
        f"{target.name}: {succeeded} answers, {len(latencies)} of them with status {target.status}"
    )
    if target.done:
        made = target.done() - counted
        assert made >= 0.99 * succeeded * target.each, f"{target.name}: {succeeded} answers, and {made:.0f} of what was asked for"
    shares = [percentile(latencies, share) for share in (0.5, 0.9, 0.99)]
    return Load(succeeded * target.each, wall, server_cpu, load_cpu, *shares)


def command(target: Target, connections: int, seconds: float, directory: Path) -> list[str]:
    """Return the command line of h2load; the body is written to ``directory``."""
    line = [
        target.program,
        f"-D{round(seconds * 1000)}ms",
        f"-c{connections}",
        "-m1",
        *(f"-H{header}" for header in target.headers),
    ]
    if target.body:
        (directory / "body").write_bytes(target.body())
        line.append(f"-d{directory / 'body'}")
    if target.http1:
        line.append("--h1")
    if target.base_uri:
        line.append(f"--base-uri={target.base_uri}")
    return [*line, target.url]


def _begin(target: Target, connections: int, seconds: float, directory: Path) -> subprocess.Popen[bytes]:
    (log := directory / "log").unlink(missing_ok=True)
    line = command(target, connections, seconds, directory)
    line.insert(-1, f"--log-file={log}")
    with (directory / "shown").open("w") as shown:
        return subprocess.Popen(line, stdout=shown, stderr=subprocess.STDOUT)


def _end(process: subprocess.Popen[bytes], target: Target, directory: Path) -> tuple[int, float]:
    """Wait for h2load. Returns how many requests succeeded, and its CPU seconds."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    text = (directory / "shown").read_text()
    found = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", text)
    assert found, f"{target.name}: h2load said\n{text}"
    assert process.returncode == 0, f"{target.name}: h2load failed\n{text}"
    # A request that the end of the time cut off counts as neither; one that was refused does not pass unseen.
    assert int(found[2]) - int(found[3]) <= 0, f"{target.name}: {found[2]} requests failed\n{text}"
    return int(found[1]), usage.ru_utime + usage.ru_stime


def latencies_in(log: str, status: int) -> list[float]:
    """Return the microseconds of every request in a log of h2load that was answered with this status."""
    rows = (line.split("\t") for line in log.splitlines())
    return [float(row[2]) for row in rows if row[1] == str(status)]
