"""Goal 4: two worker processes against one, over the Unix socket and over TCP."""

from __future__ import annotations

from benchmarks import workers
from benchmarks.daemon import takes
from benchmarks.figures import Outcome
from benchmarks.goals import Options

_CONNECTIONS = 32  # of each of two callers


def measure(options: Options) -> Outcome:
    """Measure one worker and two in turn."""
    if not takes("workers = 2"):
        return Outcome([workers.not_measured(way, "the daemon takes no [server] workers = 2") for way in workers.WAYS])
    return workers.outcome(workers.measure(options.rounds, options.seconds, _CONNECTIONS), _CONNECTIONS)
