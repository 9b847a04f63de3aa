"""How often, how long and how soon again: the same for both clients."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import grpc

from keyd.client.errors import KeydClientError, ResourceExhausted, Unavailable, from_rpc_error

_FIRST_PAUSE = 0.2  # seconds; longer than grpc waits before it connects again, else the retry meets the same dead connection
_LONGEST_PAUSE = 5.0


class Attempts:
    """The attempts of one call, which share one deadline.

    Args:
        timeout: seconds for all attempts together.
        retries: how many attempts may follow the first; ``inf``: as many as it takes.
        address: where the call goes, for messages.
    """

    def __init__(
        self,
        timeout: float,
        retries: float,
        address: str,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._deadline = monotonic() + timeout
        self._retries = retries
        self._address = address
        self._failures = 0
        self._monotonic = monotonic
        self._jitter = jitter

    def remaining(self) -> float:
        """Return how many seconds the next attempt may take."""
        return max(0.0, self._deadline - self._monotonic())

    def pause_after(self, error: grpc.RpcError) -> float:
        """Return for how many seconds to wait before the next attempt.

        Raises:
            KeydClientError: there shall be no other attempt; this is what the last one means.
        """
        return self.pause_for(from_rpc_error(error, self._address), error)

    def pause_for(self, failure: KeydClientError, cause: BaseException | None = None) -> float:
        """Return the same after what an attempt came to. Raises ``failure`` where there shall be no other."""
        wait = failure.retry_after if isinstance(failure, ResourceExhausted) else None
        pause: float = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._failures, 10)) * (0.5 + self._jitter() / 2)
        self._failures += 1
        if wait is not None:  # over the rate: nothing was done, and then there is room
            pause = max(pause, wait)
        if (
            not (isinstance(failure, Unavailable) or wait is not None)
            or self._failures > self._retries
            or pause >= self.remaining()
        ):
            raise failure from cause
        return pause
