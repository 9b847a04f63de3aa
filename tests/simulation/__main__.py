"""`python -m simulation`: live through a year with all verifiers, and print what they noticed."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from simulation.run import Report, run
from simulation.year import Plan

_COLUMNS = {
    "verifications": "verifications",
    "whole": "whole",
    "cold": "cold",
    "fetches": "fetches",
    "inside": "failed inside",
    "outside": "failed outside",
    "trusted": "trusted inside",
    "trusted_outside": "trusted outside",
}


def show(report: Report, console: Console) -> None:
    """Print the table, what went wrong, and the figures last."""
    table = Table("verifier", *(str(title) for title in _COLUMNS.values()))
    for name, counts in report.verifiers.items():
        table.add_row(name, *(f"{counts[column]:,}" for column in _COLUMNS))
    console.print(table)
    console.print(
        "whole: by all of the library's own code; cold: by a verifier that has just been started; fetches: of JWK Sets; inside and "
        "outside: of the window that keyd announced; trusted: a kid that was compromised",
        style="dim",
    )
    for problem in report.problems()[:40]:
        console.print(problem, style="red", highlight=False, markup=False)
    for what, number in report.figures.items():
        console.print(f"{what}: {number:,}", highlight=False)
    total = sum(counts["verifications"] for counts in report.verifiers.values())
    inside = sum(counts["inside"] for counts in report.verifiers.values())
    console.print(
        f"{report.plan.keys:,} keys, {report.plan.days} days, seed {report.plan.seed}: {total:,} verifications by "
        f"{len(report.verifiers)} verifiers; {report.failures():,} failures outside of announced windows, {inside:,} inside, "
        f"{len(report.faults)} faults of keyd",
        highlight=False,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=1000)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(f"seed {arguments.seed} (--seed={arguments.seed} repeats this year)", highlight=False)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        days = bar.add_task("days", total=arguments.days)
        plan = Plan(arguments.keys, arguments.days, arguments.seed)
        report = asyncio.run(run(plan, progress=lambda day: bar.update(days, completed=day)))
    show(report, console)
    return 0 if report.good() else 1


if __name__ == "__main__":
    sys.exit(main())
