"""`python -m hostile`: start a daemon, send it the corpus, and print what became of it."""

from __future__ import annotations

import argparse
import sys

from hostile.run import run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=12_000, help="broken inputs to send")
    parser.add_argument("--seed", type=int, default=9421)
    arguments = parser.parse_args()
    report = run(arguments.cases, arguments.seed)
    sys.stdout.write(report.text())
    sys.exit(0 if report.good() else 1)
