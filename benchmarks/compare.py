"""The installed keyd against another commit's, each in an environment of its own, in turn.

    make bench-compare BASE=main, or python benchmarks compare BASE [--seconds 2] [--rounds 5]

The other commit is installed into ``.venv-bench-COMMIT``, which stays for the next time. The benchmarks themselves are this tree's, so that both
are asked the same. Prints the median of the rounds' ratios: below 1 is better for CPU and latency, above 1 for rates.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks import load
from benchmarks.callers import call
from benchmarks.daemon import BenchDaemon, daemon, spot_check
from benchmarks.figures import Table, median_ratio, number
from benchmarks.machine import describe, today
from benchmarks.payload import sign_request

_ROOT = Path(__file__).resolve().parents[1]
_CLIENTS = ("sync", "aio", "stream-64")

Figures = Mapping[str, float]


def install(revision: str) -> tuple[str, str]:
    """Install a commit, unless it is. Returns its name and the path of its Python. Raises CalledProcessError where there is no such commit."""
    line = ["git", "rev-parse", "--short=12", "--verify", f"{revision}^{{commit}}"]
    name = subprocess.run(line, cwd=_ROOT, capture_output=True, text=True, check=True).stdout.strip()
    venv = _ROOT / f".venv-bench-{name}"
    if not (venv / "stamp").exists():
        print(f"installing {name} into {venv.name}", flush=True)
        with tempfile.TemporaryDirectory() as directory:
            archive = subprocess.run(["git", "archive", name], cwd=_ROOT, capture_output=True, check=True).stdout
            subprocess.run(["tar", "-x", "-C", directory], input=archive, check=True)
            subprocess.run(["sh", ".ci/make-venv", str(venv)], cwd=_ROOT, check=True, env=_environment())
            subprocess.run([venv / "bin" / "pip", "install", "--quiet", directory], check=True)
        (venv / "stamp").touch()
    return name, str(venv / "bin" / "python")


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHON": str(Path(sys.base_prefix) / "bin" / "python3")}


def figures(keyd: BenchDaemon, seconds: float) -> dict[str, float]:
    """Return everything about one of them, once."""
    found: dict[str, float] = {}
    for connections in (1, 8, 64):
        run = load.run(keyd.target(), connections, seconds)
        found[f"CPU for each signature, µs, {connections} connections"] = run.cpu_each
        found[f"signatures/s, {connections} connections"] = run.rate
        found[f"p50, µs, {connections} connections"] = run.p50
        found[f"p99, µs, {connections} connections"] = run.p99
    run = load.run(keyd.target(batch=32), 2, seconds)
    found["CPU for each signature of a batch of 32, µs"] = run.cpu_each
    for kind in _CLIENTS:
        calls = call(keyd, kind, seconds, python=keyd.python)
        found[f"the client's CPU for each, µs, {kind}"] = calls.client_each
        found[f"signatures/s of one client, {kind}"] = calls.rate
    spot_check(keyd.address, sign_request("bench"), keyd.public_key("bench"))
    return found


def table(base: Sequence[Figures], here: Sequence[Figures], name: str) -> Table:
    """Return both, and the ratio of this tree to the other commit, for each figure that every round of both has."""
    common = [figure for figure in base[0] if all(figure in found for found in (*base, *here))]

    def middle(runs: Sequence[Figures], figure: str) -> float:
        return statistics.median(run[figure] for run in runs)

    rows = [
        [
            figure,
            number(middle(base, figure)),
            number(middle(here, figure)),
            f"{median_ratio([run[figure] for run in here], [run[figure] for run in base]):.2f}",
        ]
        for figure in common
    ]
    return Table("Two commits", ("figure", name, "this tree", "ratio"), rows)


def main() -> int:
    """Measure and print. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("base", help="commit, branch or tag")
    parser.add_argument("--seconds", type=float, default=2, help="of each run of load")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    try:
        name, python = install(options.base)
    except subprocess.CalledProcessError as exc:
        print(f"{options.base} cannot be installed: {exc}", file=sys.stderr)
        return 2
    base: list[Figures] = []
    here: list[Figures] = []
    with ExitStack() as stack:
        one, other = (stack.enter_context(daemon(python=each)) for each in (python, sys.executable))
        for keyd in (one, other):
            load.run(keyd.target(), 8, 1)  # warm
        for round_ in range(options.rounds):
            # Who begins changes from round to round.
            for keyd in (one, other) if round_ % 2 == 0 else (other, one):
                (base if keyd is one else here).append(figures(keyd, options.seconds))
    print(f"{describe()}, {today()}; {options.rounds} rounds of {options.seconds:g} s\n")
    print(table(base, here, name).markdown())
    return 0
