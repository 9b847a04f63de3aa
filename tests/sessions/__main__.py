"""`python -m sessions`: two agents with sessions, resources that verify with the libraries, and how often the stores had to sign."""

from __future__ import annotations

import argparse
import sys

from sessions.day import live


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000, help="of each agent")
    report = live(parser.parse_args().requests)
    for problem in report.problems:
        print(f"NOT GOOD: {problem}")
    for what, figure in report.figures.items():
        print(f"{what}: {figure}")
    print("everything was as it must be" if not report.problems else f"{len(report.problems)} things fell short")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
