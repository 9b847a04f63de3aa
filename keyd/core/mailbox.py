"""Carries results from threads to the event loop. Waking the loop is dear, so many results may come with one wake-up."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Any


class Mailbox:
    """Where threads post what tasks wait for."""

    def __init__(self) -> None:
        self._letters: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        #: The loop that was woken and has not come yet.
        self._woken: asyncio.AbstractEventLoop | None = None

    def post(self, waiter: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        """Give ``waiter`` its result or its error, from any thread. Nobody is told if nobody waits any more."""
        self._letters.append((waiter, result, error))
        loop = waiter.get_loop()
        if self._woken is not loop:
            self._woken = loop
            with suppress(RuntimeError):  # the loop is closed, and so is everybody who waited
                loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._woken = None  # first: whoever posts from now on wakes the loop again
        while self._letters:
            waiter, result, error = self._letters.popleft()
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(result)
            elif isinstance(error, StopIteration):  # which no future takes
                waiter.set_exception(RuntimeError("StopIteration"))
            else:
                waiter.set_exception(error)
