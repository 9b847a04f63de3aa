"""What each guard of the signing path costs, in CPU of the daemon per signature.

    make bench-cost, or python benchmarks cost [--seconds 2] [--rounds 5] [--transport http2]

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
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from backends.api import PublicKey
from benchmarks import load
from benchmarks.daemon import SILENT, daemon, public_key, spot_check, transports
from benchmarks.figures import Entry, Outcome, Table
from benchmarks.load import GRPC, Load, Target
from benchmarks.machine import describe, ed25519_microseconds, today
from benchmarks.payload import SIGN, base, frame, sign_request
from keyd.v1 import signing_service_pb2 as pb

BAR = 45.0  # microseconds
WAITING = "[audit]\nwait_for_sync = true\n"


@dataclass(frozen=True, slots=True)
class Subject:
    """A server to be measured, and the key that signs there."""

    target: Target
    key: str
    public_key: PublicKey

    @property
    def address(self) -> str:
        return str(self.target.base_uri)

    def check(self) -> None:
        """Have one signature made and verify it."""
        request = pb.SignRequest(key=self.key, message=base()) if self.key == "raw" else sign_request(self.key)
        spot_check(self.address, request, self.public_key)


@contextmanager
def unguarded(transport: str) -> Iterator[Subject]:
    """benchmarks/unguarded.py as a process."""
    with tempfile.TemporaryDirectory() as directory:
        socket = Path(directory) / "unguarded.sock"
        command = [sys.executable, str(Path(__file__).parent), "unguarded", str(socket), "--transport", transport]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            key = public_key(process.stdout.readline())
            target = Target("unguarded", process.pid, SIGN, f"unix:{socket}", GRPC, lambda: frame(sign_request("bench")))
            try:
                yield Subject(target, "bench", key)
            finally:
                process.kill()


@contextmanager
def subjects(transport: str) -> Iterator[list[Subject]]:
    """Every step from no guard to the daemon that waits for its disk, all of them running."""
    server = transports()[transport]
    with ExitStack() as stack:
        bare = stack.enter_context(unguarded(transport))
        silent, delivered, waiting = (stack.enter_context(daemon(more, server=server)) for more in (SILENT, "", WAITING))
        private = f"unix:{silent.directory}/run/bench.sock"
        yield [
            bare,
            Subject(silent.target("policy", key="raw", base_uri=private), "raw", silent.public_key("raw")),
            Subject(silent.target("base", base_uri=private), "bench", silent.public_key("bench")),
            Subject(silent.target("gate"), "bench", silent.public_key("bench")),
            Subject(delivered.target("audit"), "bench", delivered.public_key("bench")),
            Subject(waiting.target("wait"), "bench", waiting.public_key("bench")),
        ]


def measure(rounds: int, seconds: float, connections: int, transport: str) -> tuple[dict[str, list[Load]], list[float]]:
    """Return what each subject did in each round, and what the Ed25519 operation alone cost then."""
    bare: list[float] = []
    with subjects(transport) as running:
        results: dict[str, list[Load]] = {each.target.name: [] for each in running}
        for each in running:
            each.check()
            load.run(each.target, connections, 1)  # warm
        for _ in range(rounds):
            bare.append(ed25519_microseconds())
            for each in running:
                results[each.target.name].append(load.run(each.target, connections, seconds))
                each.check()
    return results, bare


def outcome(results: dict[str, list[Load]], bare: Sequence[float]) -> Outcome:
    """Return the table of the steps, and the verdict."""
    costs = {name: statistics.median(run.cpu_each for run in runs) for name, runs in results.items()}
    rows, before = [["the Ed25519 operation alone", f"{statistics.median(bare):.1f}", "", ""]], costs["unguarded"]
    for name, cost in costs.items():
        rate = statistics.median(run.rate for run in results[name])
        rows.append([name, f"{cost:.1f}", f"{cost - before:+.1f}", f"{rate:,.0f}"])
        before = cost
    # Each round has both, minutes apart at most: their difference is steadier than that of two medians.
    pairs = zip(results["audit"], results["unguarded"], strict=True)
    whole = statistics.median(full.cpu_each - none.cpu_each for full, none in pairs)
    what = "CPU of the daemon as delivered less that of benchmarks/unguarded.py, for each signature"
    table = Table("What the guards cost", ("up to", "CPU, µs per signature", "this step", "signatures/s"), rows)
    return Outcome([Entry("guards cpu", whole, BAR, "µs", what, at_most=True)], [table])


def main() -> int:
    """Measure and print. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2, help="of load, per subject and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument(
        "--transport", choices=transports(), default=next(iter(transports())), help="the daemon's default unless given"
    )
    options = parser.parse_args()
    if not load.installed():
        print("h2load is missing: install nghttp2-client", file=sys.stderr)
        return 2
    found = outcome(*measure(options.rounds, options.seconds, options.connections, options.transport))
    print(f"{describe()}, {today()}")
    print(f"transport {options.transport}, {options.connections} connections, {options.rounds} rounds of {options.seconds:g} s\n")
    print(found.tables[0].markdown())
    (entry,) = found.entries
    print(f"\nall guards: {entry.figure:.1f} us per signature (at most {BAR:g}): {'ok' if entry.met else 'TOO MUCH'}")
    return 0 if entry.met else 1
