"""The machine: CPU time and memory of processes as the kernel counts them, and what the machine is."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.payload import base

_ROOT = Path(__file__).resolve().parents[1]


def family(pid: int) -> set[int]:
    """Return a process and all its descendants."""
    found = {pid}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found |= family(int(child))
    return found


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and its descendants, all their threads, to the nanosecond (proc_pid_schedstat)."""
    total = 0
    for member in family(pid):
        for task in Path(f"/proc/{member}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def memory(pid: int) -> int:
    """Return the octets of a process and its descendants that are in memory and nobody else's (proc_pid_smaps_rollup)."""
    total = 0
    for member in family(pid):
        lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    return total * 1024


def ed25519_microseconds(count: int = 5000) -> float:
    """Return the CPU microseconds of one Ed25519 signature and nothing else, in this thread."""
    key, message = Ed25519PrivateKey.generate(), base()
    began = time.thread_time()
    for _ in range(count):
        key.sign(message)
    return (time.thread_time() - began) * 1e6 / count


def ed25519_rate(seconds: float = 0.5) -> float:
    """Return how many Ed25519 signatures one thread makes in a second of the clock on the wall."""
    key, message, count = Ed25519PrivateKey.generate(), base(), 0
    began = time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        for _ in range(100):
            key.sign(message)
        count += 100
    return count / took


def describe() -> dict[str, str | int]:
    """Return what machine this is, for a report."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ""
    )
    return {
        "system": platform.platform(),
        "processor": model or platform.machine(),
        "cores": os.cpu_count() or 0,
        "python": platform.python_version(),
    }


def today() -> str:
    """Return the date, UTC."""
    return f"{datetime.now(UTC):%Y-%m-%d}"


def commit() -> str:
    """Return the commit that is checked out; with a plus where files that count differ from it."""
    try:
        name = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=_ROOT, capture_output=True, text=True, check=True
        ).stdout
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "keyd", "backends", "benchmarks/*.py"],
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name.strip() + ("+" if changed.strip() else "")
