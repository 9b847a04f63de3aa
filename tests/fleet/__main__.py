"""`python -m fleet`: three replicas, one PostgreSQL, one OpenBao, fifty clients, and trouble. Prints what came of it."""

from __future__ import annotations

import argparse
import sys

from fleet.run import run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=7517)
    arguments = parser.parse_args()
    report = run(60 * arguments.minutes, arguments.seed)
    sys.stdout.write(report.text())
    sys.exit(0 if report.good else 1)
