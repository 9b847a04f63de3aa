"""`python -m lifecycle`: run the state machine for about as many steps as asked for, and print what was done."""

from __future__ import annotations

import argparse
import sys
import time

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from keyd import log
from lifecycle.machine import DONE, Lifecycle

STEPS_OF_ONE = 50  # of one history


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5000)
    arguments = parser.parse_args()
    log.configure("critical", "json")  # what goes wrong here goes wrong on purpose
    began = time.monotonic()
    histories = max(1, arguments.steps // STEPS_OF_ONE)
    run_state_machine_as_test(
        Lifecycle,
        settings=settings(
            max_examples=histories,
            stateful_step_count=STEPS_OF_ONE,
            deadline=None,
            database=None,
            derandomize=False,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink),
        ),
    )
    for what, count in sorted(DONE.items()):
        print(f"{count:8}  {what}")
    done = sum(DONE.values())
    print(f"{histories} histories, {done} changes and refusals in {time.monotonic() - began:.0f} s, broken invariants: 0")
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
