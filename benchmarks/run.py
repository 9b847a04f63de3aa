"""Measures the goals of keyd's speed and says which are met.

    make bench              everything, about half an hour; writes docs/performance.md and benchmarks/results/latest.json
    make bench-quick        goals 1 to 3 in two minutes; writes nothing
    python benchmarks run --goal 2 --goal 7

Every figure is a ratio of two things that were measured in one run on one machine, in turn. Prints the verdicts last, and fails when a
goal is missed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
import traceback

from benchmarks import load, report
from benchmarks.figures import Entry, Outcome, missed
from benchmarks.goals import Options
from benchmarks.machine import describe, today

#: By number, the module of each goal.
GOALS = {
    "1": "signing_cost",
    "2": "against_openbao",
    "3": "streams",
    "4": "workers",
    "5": "many_keys",
    "6": "client",
    "7": "jwks",
    "floods": "floods",
}
QUICK = ("1", "2", "3")


def measure(names: list[str], options: Options) -> Outcome:
    """Measure goals one after another. One that breaks is missed, and the others are measured all the same."""
    found = Outcome()
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
        found.add(one)
    return found


def is_whole(names: list[str], options: Options) -> bool:
    """Say whether this was all that the goals ask for: what was less is not written down."""
    asked = Options()
    return names == list(GOALS) and options.keys >= asked.keys and options.agents >= asked.agents and options.all_transports


def main() -> int:
    """Measure and print. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="goals 1 to 3, short, the default transport alone")
    parser.add_argument("--goal", action="append", choices=GOALS, help="only this one; repeatable; writes nothing")
    parser.add_argument("--seconds", type=float, help="of each run of load")
    parser.add_argument("--rounds", type=int, help="how often each is run")
    parser.add_argument("--keys", type=int, default=100_000, help="how many keys are many; with fewer, nothing is written")
    parser.add_argument("--agents", type=int, default=1000, help="the same of connected agents")
    parser.add_argument("--json", metavar="FILE", help="write the figures here too")
    given = parser.parse_args()
    if not load.installed():
        print("h2load is missing: install nghttp2-client", file=sys.stderr)
        return 2
    options = Options(
        seconds=given.seconds or (1.0 if given.quick else 3.0),
        rounds=given.rounds or (3 if given.quick else 5),
        keys=given.keys,
        agents=given.agents,
        all_transports=not given.quick,
    )
    names = given.goal or list(QUICK if given.quick else GOALS)
    print(f"{describe()}, {today()}; {options.rounds} rounds of {options.seconds:g} s", flush=True)
    found = measure(names, options)
    if is_whole(names, options):
        report.write(found)
    if given.json:
        with open(given.json, "w") as file:  # noqa: PTH123
            json.dump(report.document(found, report.origin()), file, indent=2, ensure_ascii=False)
    print("\n" + "\n".join(entry.line() for entry in found.entries))
    short = missed(found.entries)
    print(f"\n{len(found.entries) - len(short)} of {len(found.entries)} met" + (f"; missed: {', '.join(short)}" if short else ""))
    return 1 if short else 0
