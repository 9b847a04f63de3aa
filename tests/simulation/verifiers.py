"""The verifiers, in processes of their own in the environment `peers`: each takes a share of the keys."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_TESTS = Path(__file__).resolve().parents[1]
_Result = dict[str, dict[str, Any]]


class Verifiers:
    """Takes lines of the year, and at its end says what became of them."""

    def __init__(self, processes: list[subprocess.Popen[bytes]]) -> None:
        self._processes = processes

    def emit(self, line: dict[str, object]) -> None:
        """Hand a line to whoever has that key."""
        process = self._processes[zlib.crc32(str(line["key"]).encode()) % len(self._processes)]
        assert process.stdin is not None
        process.stdin.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def result(self) -> _Result:
        """Return the counts by verifier, once all have seen all."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        total: _Result = {}
        for process in self._processes:
            assert process.stdout is not None
            for name, counts in json.loads(process.stdout.read()).items():
                before = total.setdefault(name, dict.fromkeys(counts, 0) | {"failures": []})
                total[name] = {key: before[key] + value for key, value in counts.items()}
        return total


@contextmanager
def verifiers(processes: int = 2) -> Iterator[Verifiers]:
    """Start processes with all verifiers in them."""
    python = os.environ.get("KEYD_PEERS_PYTHON")
    assert python, "set KEYD_PEERS_PYTHON to the Python of an environment with the dependency group `peers`, as `make test` does"
    environment = {**os.environ, "PYTHONPATH": str(_TESTS), "PYTHONSAFEPATH": "1"}
    started = [
        subprocess.Popen(
            [python, "-m", "simulation.peer"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr, env=environment
        )
        for _ in range(processes)
    ]
    try:
        yield Verifiers(started)
    finally:
        for process in started:
            process.kill()
            with contextlib.suppress(BrokenPipeError):  # it did not read all
                process.stdin.close()  # type: ignore[union-attr]
            process.stdout.close()  # type: ignore[union-attr]
            process.wait()
