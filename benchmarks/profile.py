"""Where the daemon's time goes under load: py-spy's samples of all its threads, summed up by what keyd does there.

    make bench-profile, or python benchmarks profile [--seconds 10] [--write]

py-spy (in the dependency group ``bench``) stops the daemon for each sample and reads its stacks, native frames included. A sample counts for
the innermost frame that belongs to one of AREAS. Threads that wait, for work, a lock or the disk, do not count. On a machine that is busy
with other things it falls behind; the shares stay roughly right, since it falls behind at random.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks import load, report
from benchmarks.daemon import daemon
from benchmarks.figures import Table
from benchmarks.machine import commit, today

#: What a frame belongs to, by the file in it; the first that matches counts. Frames of none are their caller's.
AREAS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(pattern))
    for name, pattern in (
        ("Ed25519 (cryptography)", r"\(cryptography/"),
        ("audit trail", r"\((keyd/core/audit/|orjson)"),
        ("reading what is to be signed", r"\(keyd/core/(signature_base|unsigned_base|signature_key|binding|profile|jws)\b"),
        ("figures for Prometheus", r"\((prometheus_client/|keyd/service/metrics)"),
        ("gate", r"\(keyd/service/gate/"),
        (
            "grants, rates and turns",
            r"\(keyd/core/(grants|policy|decision|rates|turns|guard|limits|globs|principal)\b|keyd/service/admission",
        ),
        ("transport: gRPC", r"\((grpc/|keyd/service/grpcio)"),
        ("transport: HTTP/2", r"\((h2corn/|connectrpc/|keyd/service/http2)"),
        ("protobuf", r"\(google/"),
        ("the rest of keyd", r"\((keyd|backends)/(?!__main__|cli|app)"),
        ("event loop", r"\((asyncio/|selectors|_asynciomodule)"),
    )
)
_OTHER = "anything else"
#: Innermost frames of a thread that waits.
_WAITING = re.compile(
    r"(^|;)(epoll_wait|epoll_pwait|poll|select|PyThread_acquire_lock_timed|pthread_cond\w*|__?futex\w*|take_gil|fdatasync|fsync|nanosleep|clock_nanosleep)\b[^;]*(;0x[^;]*)*$"
)
_PYTHON = re.compile(r"\((<frozen [^>]+>|[^()]*\.py):\d+\)$")

Samples = list[tuple[tuple[str, ...], int]]


def parse(raw: str) -> Samples:
    """Return the stacks of py-spy's raw output, outermost frame first, with how often each was seen. Those that wait are left out."""
    found: Samples = []
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        if stack and count.isdigit() and not _WAITING.search(stack):
            found.append((tuple(stack.split(";")), int(count)))
    return found


def area(stack: Sequence[str]) -> str:
    """Return what a stack was at work on."""
    for frame in reversed(stack):
        for name, pattern in AREAS:
            if pattern.search(frame):
                return name
    return _OTHER


def is_python(stack: Sequence[str]) -> bool:
    """Say whether the interpreter was at work on Python's own code, and not on a library's native one."""
    return _PYTHON.search(stack[-1]) is not None


def summary(samples: Samples) -> Table:
    """Return the share of each area, and which part of it is Python."""
    whole, python = Counter[str](), Counter[str]()
    for stack, count in samples:
        name = area(stack)
        whole[name] += count
        python[name] += count if is_python(stack) else 0
    seen = sum(whole.values())
    total = max(1, seen)
    rows = [
        [name, f"{count / total:.0%}", f"{python[name] / total:.0%}", f"{(count - python[name]) / total:.0%}"]
        for name, count in whole.most_common()
    ]
    both = sum(python.values())
    rows.append(["all of it", f"{seen:,} samples", f"{both / total:.0%}", f"{(seen - both) / total:.0%}"])
    return Table("Where the time goes", ("at work on", "share", "in Python", "native"), rows)


def hottest(samples: Samples, most: int = 15) -> Table:
    """Return the Python functions that were innermost most often, with all that is native below them."""
    seen = Counter[str]()
    for stack, count in samples:
        name = next((frame for frame in reversed(stack) if _PYTHON.search(frame)), _OTHER)
        seen[re.sub(r":\d+\)$", ")", name)] += count
    total = max(1, sum(seen.values()))
    rows = [[f"`{name}`", f"{count / total:.1%}"] for name, count in seen.most_common(most)]
    return Table("The functions in which it goes", ("function, with what is native below it", "share"), rows)


def record(seconds: float, rate: int, connections: int, server: str = "") -> str:
    """Return py-spy's raw output of a daemon under load."""
    with daemon(server=server) as keyd, tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        load.run(keyd.target(), connections, 1)  # warm
        command = [
            str(Path(sys.executable).with_name("py-spy")),
            "record",
            "--pid",
            str(keyd.pid),
            "--native",
            "--threads",
            "--subprocesses",
            "--format",
            "raw",
        ]
        command += ["--duration", f"{seconds:.0f}", "--rate", str(rate), "--output", str(directory / "raw")]
        # Bases are good for 30 seconds, and a recording that falls behind takes longer than it was asked for.
        driven = load.command(keyd.target(), connections, 3600, directory)
        with subprocess.Popen(driven, stdout=subprocess.DEVNULL) as driver:
            try:
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=25)
            finally:
                driver.kill()
        return (directory / "raw").read_text()


def main() -> int:
    """Record, sum up and print. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=8, help="of load; at most 15")
    parser.add_argument("--rate", type=int, default=100, help="samples a second")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--server", default="", metavar="LINE", help="for [server], such as 'workers = 2'")
    parser.add_argument("--raw", metavar="FILE", help="keep py-spy's output, which flamegraph.pl reads")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    options = parser.parse_args()
    if shutil.which("py-spy", path=str(Path(sys.executable).parent)) is None:
        print("py-spy is missing: pip install --group bench", file=sys.stderr)
        return 2
    raw = record(min(options.seconds, 15), options.rate, options.connections, options.server)
    if options.raw:
        Path(options.raw).write_text(raw)
    samples = parse(raw)
    if not samples:
        print(
            "py-spy saw nothing at work; may this user look into its own processes? (kernel.yama.ptrace_scope)", file=sys.stderr
        )
        return 1
    tables = [summary(samples), hottest(samples)]
    print("\n\n".join(table.markdown() for table in tables))
    if options.write:
        _write(tables, options.connections)
    return 0


def _write(tables: Iterable[Table], connections: int) -> None:
    source = f"Commit {commit()}, {today()}, {connections} connections."
    text = report.DOCUMENT.read_text()
    report.DOCUMENT.write_text(report.between(text, "profile", "\n\n".join([source, *(table.markdown() for table in tables)])))
