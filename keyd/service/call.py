"""What a service knows of the call that it serves."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from keyd.core.principal import Principal


@dataclass(frozen=True, slots=True)
class Caller:
    """The other end of one connection.

    Attributes:
        principal: who it is.
        hold_back: stop reading from the connection for that many seconds, so that who sends too much waits at its own end.
    """

    principal: Principal
    hold_back: Callable[[float], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Call:
    """One call.

    Attributes:
        caller: who makes it.
        deadline: when the caller stops waiting, on the monotonic clock; None: never.
    """

    caller: Caller
    deadline: float | None = None

    @classmethod
    def of(cls, caller: Caller, time_remaining: float | None) -> Call:
        """Return a call whose caller waits for ``time_remaining`` more seconds."""
        return cls(caller, None if time_remaining is None else time.monotonic() + time_remaining)

    @property
    def principal(self) -> Principal:
        """Who makes it."""
        return self.caller.principal

    def seconds_left(self) -> float | None:
        """Return the time in which an answer still reaches the caller, in seconds, more than 0; None: any."""
        if self.deadline is None:
            return None
        left = self.deadline - time.monotonic()
        return max(0.001, left - min(0.1, left / 10))  # the answer needs time as well
