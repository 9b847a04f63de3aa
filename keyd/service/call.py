"""What a service knows of the call that it serves."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Call:
    """One call.

    Attributes:
        peer: the transport's word for the other end; it is no proof of identity.
        deadline: when the caller stops waiting, on the monotonic clock; None: never.
    """

    peer: str
    deadline: float | None = None

    @classmethod
    def of(cls, peer: str, time_remaining: float | None) -> Call:
        """Return a call whose caller waits for ``time_remaining`` more seconds."""
        return cls(peer, None if time_remaining is None else time.monotonic() + time_remaining)

    def seconds_left(self) -> float | None:
        """Return the time in which an answer still reaches the caller, in seconds, more than 0; None: any."""
        if self.deadline is None:
            return None
        left = self.deadline - time.monotonic()
        return max(0.001, left - min(0.1, left / 10))  # the answer needs time as well
