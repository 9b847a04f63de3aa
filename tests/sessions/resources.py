"""Resources as processes of the environment `peers`."""

from __future__ import annotations

import os
import subprocess
from functools import cached_property
from pathlib import Path

import httpx

TESTS = Path(__file__).parents[1]


def peers_python() -> str:
    """Return the Python that has the libraries."""
    python = os.environ.get("KEYD_PEERS_PYTHON")
    assert python, "set KEYD_PEERS_PYTHON to the Python of an environment with the group `peers`, as `make test` does"
    return python


class Resource:
    """One that runs. Starting takes a second, so start all of them before you use the first.

    Attributes:
        library: that it verifies with.
    """

    def __init__(self, library: str, keyd: str, provider: str, origin: str = "", clock: Path | None = None) -> None:
        arguments = [library, keyd, provider, origin, str(clock or "")]
        self.library = library
        self._origin = origin
        self._process = subprocess.Popen(
            [peers_python(), "-m", "sessions.peer", *arguments],
            env={**os.environ, "PYTHONPATH": str(TESTS)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @cached_property
    def url(self) -> str:
        """Where it listens."""
        assert self._process.stdout is not None
        return f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    @property
    def authority(self) -> str:
        """That of its own origin."""
        return (self._origin or self.url).partition("://")[2]

    def counts(self) -> dict[str, int]:
        """Return how many requests it has verified and refused, and how often it fetched something."""
        found: dict[str, int] = {"verified": 0, "refused": 0} | httpx.get(f"{self.url}/.counts").json()
        return found

    def close(self) -> None:
        self._process.communicate(timeout=30)  # closes its standard input, which ends it
