"""``python benchmarks NAME [OPTIONS]``: run one of the benchmarks, against the keyd that is installed."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("run", "cost", "path", "client", "workers", "scale", "flood", "stores", "audit", "reading", "profile", "compare")
PROCESSES = ("unguarded",)  #: started by the others


def main() -> int:
    """Run what the command line names. Returns the exit code."""
    # Not this directory, whose profile.py would stand in for the standard library's. The root comes last: the keyd that is measured
    # is the one that is installed.
    os.environ["PYTHONSAFEPATH"] = "1"  # for the daemons and clients too
    sys.path[0] = str(ROOT / "tests")
    sys.path.append(str(ROOT))
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES + PROCESSES:
        print(f"usage: python benchmarks {{{','.join(NAMES)}}} [OPTIONS]; each has --help", file=sys.stderr)
        return 2
    name = sys.argv.pop(1)
    sys.argv[0] = f"benchmarks {name}"
    return int(importlib.import_module(f"benchmarks.{name}").main() or 0)


if __name__ == "__main__":
    sys.exit(main())
