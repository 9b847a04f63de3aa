"""How long the call under way may still take.

keyd releases a caller at its deadline whatever the backend does. A backend that asks here gives the thread back by then too,
and does not go on retrying for somebody who is gone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from backends.errors import BackendUnavailableError

_END: ContextVar[float | None] = ContextVar("keyd_backend_deadline", default=None)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Give what is called inside, in this thread, at most this many seconds. An outer, shorter deadline stays in force."""
    end = time.monotonic() + seconds
    outer = _END.get()
    token = _END.set(end if outer is None else min(end, outer))
    try:
        yield
    finally:
        _END.reset(token)


def remaining(limit: float) -> float:
    """Return the seconds that are left for the call under way, at most ``limit``, more than 0.

    Raises:
        BackendUnavailableError: none are left.
    """
    end = _END.get()
    if end is None:
        return limit
    left = end - time.monotonic()
    if left <= 0:
        raise BackendUnavailableError("no answer before the deadline of the call")
    return min(left, limit)
