"""Agents that sign without pause while something happens to a store, and what they saw of it."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from daemon_process import DaemonProcess

from keyd.client import KeydClientError

CALLER_TIMEOUT = 3.0  # seconds that every agent waits
_PAUSE = 0.004  # seconds between two calls of one agent: as many calls whether they succeed or fail at once


@dataclass
class Phase:
    """What the agents of one key saw during one phase."""

    latencies: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    def p99(self) -> float:
        """Return the latency in seconds that 99 of 100 calls kept."""
        ordered = sorted(self.latencies)
        return ordered[int(len(ordered) * 0.99)]

    @property
    def failures(self) -> Counter[str]:
        return Counter({outcome: count for outcome, count in self.outcomes.items() if outcome != "OK"})


class Load:
    """Two agents for a key in files and four for a key in the store under test, each with a connection of its own."""

    def __init__(self, daemon: DaemonProcess, keys: dict[str, int]) -> None:
        self._daemon = daemon
        self._keys = keys
        self._phase = "before"
        self._seen: dict[tuple[str, str], Phase] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(key,)) for key, agents in keys.items() for _ in range(agents)]
        self.signatures: list[tuple[str, str, bytes, bytes]] = []

    @contextmanager
    def running(self) -> Iterator[Load]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what begins meanwhile under this name."""
        outer, self._phase = self._phase, name
        try:
            yield
        finally:
            self._phase = outer

    def seen(self, key: str, phase: str) -> Phase:
        with self._lock:
            return self._seen.setdefault((key, phase), Phase())

    def until_it_signs_again(self, key: str, phase: str, within: float) -> float:
        """Wait until a call that began in this phase succeeds, and return how many seconds that took."""
        start = time.monotonic()
        while not self.seen(key, phase).outcomes["OK"]:
            assert time.monotonic() - start < within, f"{key} does not sign again within {within:g} s"
            time.sleep(0.005)
        return time.monotonic() - start

    def _work(self, key: str) -> None:
        with self._daemon.client(timeout=CALLER_TIMEOUT, retries=0) as client:
            for number in itertools.count():
                if self._stop.is_set():
                    return
                phase, message, start = self.seen(key, self._phase), b"%s %d" % (key.encode(), number), time.monotonic()
                try:
                    signed = client.sign_message(key, message)
                    outcome = "OK"
                except KeydClientError as exc:
                    outcome = f"{exc.code.name} {exc.reason}"
                took = time.monotonic() - start
                with self._lock:
                    phase.latencies.append(took)
                    phase.outcomes[outcome] += 1
                    if outcome == "OK" and number % 16 == 0:
                        self.signatures.append((key, signed.kid, message, signed.signature))
                time.sleep(_PAUSE)
