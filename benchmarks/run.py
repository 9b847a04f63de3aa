"""Measures the goals of keyd's speed and says which are met.

    make bench              everything, less than 20 minutes; writes docs/performance.md and benchmarks/results/latest.json
    make bench-quick        goals 1 to 3 in two minutes, the default transport alone; writes nothing
    python benchmarks run --only 2 7

Every figure is a ratio of two things that were measured in one run on one machine, in turn. With --only the other goals' figures stay as they were; each
has its own date, commit and load average. Prints the verdicts last, and fails when a goal is missed. What stands in brackets is beside a goal, and
does not count: the transport that is not the default, say.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
import traceback
from collections.abc import Iterable
from pathlib import Path

from benchmarks import load, report
from benchmarks.figures import Entry, Outcome, missed
from benchmarks.goals import GOALS, Options
from benchmarks.machine import describe, today
from benchmarks.report import Part, origin

QUICK = ("1", "2", "3")


def measure(names: Iterable[str], options: Options) -> list[Part]:
    """Measure goals one after another. One that breaks is missed, and the others are measured all the same."""
    parts = []
    for name in names:
        began = time.monotonic()
        try:
            one: Outcome = importlib.import_module(f"benchmarks.goals.{GOALS[name]}").measure(options)
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is in the report
            traceback.print_exc()
            one = Outcome(
                [Entry(name, None, 0, "", f"could not be measured ({type(exc).__name__}); what the command printed says why")]
            )
        for table in one.tables:
            print(f"\n{table.title}\n\n{table.markdown()}", flush=True)
        print(f"\ngoal {name}: {time.monotonic() - began:.0f} s", flush=True)
        parts.append(Part(name, one, origin(options.rounds, options.seconds)))
    return parts


def is_whole(options: Options) -> bool:
    """Say whether each goal is measured with all that it asks for: what was less is not written down."""
    asked = Options()
    return options.keys >= asked.keys and options.agents >= asked.agents and options.all_transports


def main() -> int:
    """Measure and print. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="goals 1 to 3, short, the default transport alone")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=GOALS,
        metavar="GOAL",
        help=f"of {', '.join(GOALS)}; the other goals' figures stay as they are",
    )
    parser.add_argument("--seconds", type=float, help="of each run of load")
    parser.add_argument("--rounds", type=int, help="how often each is run")
    parser.add_argument("--keys", type=int, default=100_000, help="how many keys are many; with fewer, nothing is written")
    parser.add_argument("--agents", type=int, default=1000, help="the same of connected agents")
    parser.add_argument("--json", metavar="FILE", help="write the figures here too")
    given = parser.parse_args()
    if not load.installed():
        print("h2load is missing: install nghttp2-client", file=sys.stderr)
        return 2
    usual = Options()
    options = Options(
        seconds=given.seconds or (1.0 if given.quick else usual.seconds),
        rounds=given.rounds or (3 if given.quick else usual.rounds),
        keys=given.keys,
        agents=given.agents,
        all_transports=not given.quick,
    )
    names = [name for name in GOALS if name in (given.only or (QUICK if given.quick else GOALS))]
    before = report.latest() if set(names) < set(GOALS) else None
    if before is not None and before["machine"] != describe() and is_whole(options):
        print(
            "the other goals' figures are of another machine: measure all of them (without --only), or none to keep (--quick)",
            file=sys.stderr,
        )
        return 2
    print(f"{describe()}, {today()}; {options.rounds} rounds of {options.seconds:g} s", flush=True)
    parts = measure(names, options)
    if is_whole(options):
        report.write(report.document(parts, before))
    if given.json:
        Path(given.json).write_text(json.dumps(report.document(parts), indent=2, ensure_ascii=False))
    entries = [entry for part in parts for entry in part.outcome.entries]
    print("\n" + "\n".join(entry.line() for entry in entries))
    goals, short = [entry for entry in entries if entry.counts], missed(entries)
    print(f"\n{len(goals) - len(short)} of {len(goals)} met" + (f"; missed: {', '.join(short)}" if short else ""))
    return 1 if short else 0
