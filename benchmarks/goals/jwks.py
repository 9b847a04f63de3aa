"""Goal 7: the JWKS endpoint against the signing path, conditional GET included, and a flood on it beside an agent that signs."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks import load
from benchmarks.daemon import BenchDaemon, daemon
from benchmarks.figures import Entry, Outcome, Table, median_ratio
from benchmarks.goals import Options
from benchmarks.load import Load, Target
from benchmarks.victim import PACE, victim

_CONNECTIONS = 8
_RATE, _P99 = 10.0, 1.5


def measure(options: Options) -> Outcome:
    """Measure with the endpoint in a process of its own, as it is where others reach it, and in the daemon, as on a loopback address, which stands beside."""
    found = _measure(
        options, "own_process = true", "in a process of its own, as delivered where others than this machine reach it"
    )
    loopback = _measure(options, "own_process = false", "in the daemon, as delivered on a loopback address")
    found.entries += [entry.beside("in the daemon") for entry in loopback.entries]
    found.tables += loopback.tables
    return found


def _measure(options: Options, http: str, where: str) -> Outcome:
    """Measure the two paths in turn, and then the flood."""
    with daemon(http=http) as keyd:
        targets = {"sign": keyd.target(), "get": _get(keyd), "conditional": _get(keyd, conditional=True)}
        runs: dict[str, list[Load]] = {name: [] for name in targets}
        for target in targets.values():
            load.run(target, _CONNECTIONS, 0.5)  # warm
        for _ in range(options.rounds):
            for name, target in targets.items():
                runs[name].append(load.run(target, _CONNECTIONS, options.seconds))
        quiet: list[float] = []
        flooded: list[float] = []
        for _ in range(min(3, options.rounds)):
            for found, disturbance in ((quiet, contextlib.nullcontext()), (flooded, _flood(targets["get"]))):
                _, p99, failed = victim(keyd.address, 2 * options.seconds, disturbance, key="bench")
                assert not failed, f"{failed} signatures failed"
                found.append(p99)
    return _outcome(runs, quiet, flooded, where)


def _get(keyd: BenchDaemon, *, conditional: bool = False) -> Target:
    """Return what h2load has to know to fetch the JWK Set, or to ask whether it is still the same."""
    answer = httpx.get(keyd.jwks_url).raise_for_status()
    assert answer.json()["keys"], "the JWK Set is empty"
    headers = (f"If-None-Match: {answer.headers['etag']}",) if conditional else ()
    if conditional:
        assert httpx.get(keyd.jwks_url, headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    return Target("JWKS", keyd.pid, keyd.jwks_url, None, headers, http1=True, status=304 if conditional else 200)


@contextmanager
def _flood(target: Target) -> Iterator[None]:
    """Have h2load fetch the JWK Set as fast as it can."""
    with tempfile.TemporaryDirectory() as directory:
        line = load.command(target, 16, 3600, Path(directory))
        with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                yield
                assert process.poll() is None, "the flood ended by itself"
            finally:
                process.kill()


def _outcome(runs: dict[str, list[Load]], quiet: list[float], flooded: list[float], where: str) -> Outcome:
    signing = [run.rate for run in runs["sign"]]
    against = f"against signatures/s, {_CONNECTIONS} connections each; the endpoint {where}"
    entries = [
        Entry(
            "7 rate",
            median_ratio([run.rate for run in runs["get"]], signing),
            _RATE,
            "times",
            f"GET of the JWK Set a second {against}",
        ),
        Entry(
            "7 rate conditional",
            median_ratio([run.rate for run in runs["conditional"]], signing),
            _RATE,
            "times",
            f"the same with If-None-Match, answered 304, {against}",
        ),
        Entry(
            "7 p99 under flood",
            median_ratio(flooded, quiet),
            _P99,
            "times",
            f"p99 of an agent with {PACE} calls a second, beside h2load with 16 connections on the JWKS endpoint, against without; "
            f"the endpoint {where}",
            at_most=True,
        ),
    ]
    rows = [
        [
            name,
            *(
                f"{statistics.median(values):,.0f}"
                for values in (
                    [r.rate for r in found],
                    [r.p50 for r in found],
                    [r.p99 for r in found],
                    [r.cpu_each for r in found],
                )
            ),
        ]
        for name, found in runs.items()
    ]
    rows.append(
        [
            f"p99 of an agent beside: quiet {statistics.median(quiet):.2f} ms, flooded {statistics.median(flooded):.2f} ms",
            "",
            "",
            "",
            "",
        ]
    )
    return Outcome(
        entries, [Table(f"The JWKS endpoint, {where}", ("what", "a second", "p50, µs", "p99, µs", "CPU, µs each"), rows)]
    )
