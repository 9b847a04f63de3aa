"""Goal "floods": what one caller notices of another that does its worst."""

from __future__ import annotations

from benchmarks import flood
from benchmarks.figures import Outcome
from benchmarks.goals import Options


def measure(options: Options) -> Outcome:
    """Measure each flood."""
    return flood.measure(min(3, options.rounds), 2 * options.seconds)  # a p99 of 200 calls a second needs some
