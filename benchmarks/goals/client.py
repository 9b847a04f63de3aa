"""Goal 6: keyd's Python client against a bare grpcio stub, blocking and asyncio: p50 and CPU of a call."""

from __future__ import annotations

from benchmarks import client
from benchmarks.figures import Outcome
from benchmarks.goals import Options


def measure(options: Options) -> Outcome:
    """Have each call for a while, in turn: short runs and many, as the ratio is close to one."""
    return client.outcome(client.measure(options.rounds * 3, options.seconds / 3))
