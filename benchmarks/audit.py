"""What the audit trail costs: CPU for each record, and what waiting for the disk does to callers.

    python benchmarks audit [--records 20000] [--calls 1500] [--rounds 3] [--directory DIR]

Medians of the rounds:

- CPU of one record in this process, the synchronising thread included: as a line, chained, written;
- latency of one signature through a real daemon, one caller at a time and eight at once: without a trail, with one, and with
  one that callers wait for (audit.wait_for_sync), interleaved.

Fails when a record costs more than 15 microseconds of CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path

from audit_support import decision
from daemon_process import DaemonProcess
from support import signature_base

from keyd.core.audit.record import GENESIS, Encoder, digest
from keyd.core.audit.trail import AuditTrail, Rules
from keyd.core.audit.trail_file import TrailFile
from keyd.core.clock import SystemClock

BUDGET = 15.0  # microseconds
KINDS = {
    "no trail": "[audit]\nenabled = false\n",
    "trail": "",
    "trail, wait_for_sync": "[audit]\nwait_for_sync = true\n",
}


def encoding(records: int) -> float:
    """Return the CPU microseconds of a line and its digest."""
    encoder, sample = Encoder(), decision(1)
    start = time.process_time()
    for number in range(records):
        digest(encoder.decision(number, GENESIS, sample))
    return (time.process_time() - start) / records * 1e6


async def writing(records: int, directory: Path) -> float:
    """Return the CPU microseconds of a record, with everything that the trail does meanwhile."""
    trail = AuditTrail(TrailFile(directory), [], Rules(), SystemClock())
    await trail.start("benchmark", None)
    sample = decision(1)
    start = time.process_time()
    for number in range(records):
        trail.write(sample)
        if number % 50 == 49:
            await asyncio.sleep(0)
    await trail.sync()
    spent = time.process_time() - start
    await trail.stop()
    return spent / records * 1e6


def latencies(daemon: DaemonProcess, calls: int, callers: int) -> list[float]:
    """Return what each of so many calls took, in microseconds."""
    seen: list[float] = []

    def work() -> None:
        with daemon.client() as client:
            for _ in range(calls // callers):
                base = signature_base(time.time())
                start = time.perf_counter()
                client.sign_base("agent", base)
                seen.append((time.perf_counter() - start) * 1e6)

    threads = [threading.Thread(target=work) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def through_a_daemon(calls: int, rounds: int) -> None:
    daemons = {name: DaemonProcess(sections=sections) for name, sections in KINDS.items()}
    try:
        for daemon in daemons.values():
            daemon.exec = True
            daemon.start()
        for daemon in daemons.values():
            with daemon.admin() as admin:
                admin.create_key(name="agent")
            latencies(daemon, 200, 1)
        for callers in (1, 8):
            seen: dict[str, list[tuple[float, float]]] = {name: [] for name in KINDS}
            for _ in range(rounds):
                for name, daemon in daemons.items():
                    found = sorted(latencies(daemon, calls, callers))
                    seen[name].append((found[len(found) // 2], found[int(len(found) * 0.99)]))
            for name, figures in seen.items():
                p50, p99 = (statistics.median(column) for column in zip(*figures, strict=True))
                print(f"{callers} at a time, {name:21} p50 {p50:7.0f} us   p99 {p99:7.0f} us")
    finally:
        for daemon in daemons.values():
            daemon.close()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--calls", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="where the trail of the first part is written")
    options = parser.parse_args()
    through_a_daemon(options.calls, options.rounds)
    line = statistics.median(encoding(options.records) for _ in range(options.rounds))
    written = []
    for _ in range(options.rounds):
        directory = Path(tempfile.mkdtemp(dir=options.directory))
        written.append(asyncio.run(writing(options.records, directory)))
        shutil.rmtree(directory)
    whole = statistics.median(written)
    print(f"line and digest {line:.1f} us, whole record {whole:.1f} us of CPU (budget {BUDGET:g})")
    return 0 if whole <= BUDGET else 1
