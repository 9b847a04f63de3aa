"""A circuit breaker: while a backend does not answer, callers are told so at once instead of waiting for it one by one."""

from __future__ import annotations

import threading
from collections.abc import Callable

THRESHOLD = 5
PAUSE = 1.0


class Breaker:
    """Opens after :data:`THRESHOLD` failures in a row, then lets one call through every :data:`PAUSE` seconds until one succeeds.

    Thread-safe. ``monotonic`` returns seconds.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._failures = 0
        self._next_try = 0.0
        self._reason: str | None = None

    @property
    def reason(self) -> str | None:
        """The last failure while the breaker is open, else None."""
        return self._reason

    def admits(self, *, patient: bool = True) -> bool:
        """Say whether a call may be made now. True while it is open takes the one place that there is until the next pause.

        A call that is not ``patient`` gets none of those: it may end too soon to tell anything.
        """
        if self._reason is None:
            return True
        if not patient:
            return False
        with self._lock:
            now = self._monotonic()
            if now < self._next_try:
                return False
            self._next_try = now + PAUSE
            return True

    def succeeded(self) -> bool:
        """Close. Returns whether it was open."""
        if not self._failures:  # the usual case, on the signing path
            return False
        with self._lock:
            was_open, self._reason, self._failures = self._reason is not None, None, 0
            return was_open

    def failed(self, reason: str) -> bool:
        """Count a failure. Returns whether this one opened it."""
        with self._lock:
            self._failures += 1
            opens = self._reason is None and self._failures >= THRESHOLD
            if opens or self._reason is not None:
                self._reason = reason
                self._next_try = self._monotonic() + PAUSE
            return opens
