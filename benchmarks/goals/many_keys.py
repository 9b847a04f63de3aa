"""Goal 5: 100,000 keys and 1,000 connected agents against one of each: latency, start-up, memory, and rotations that agents are told of."""

from __future__ import annotations

from benchmarks import scale
from benchmarks.figures import Outcome
from benchmarks.goals import Options


def measure(options: Options) -> Outcome:
    """Measure a daemon with one key and one agent, and one with many, in turn."""
    return scale.outcome(scale.measure(scale.Size(options.keys, options.agents), options.rounds, options.seconds))
