"""Whether a worker lives: its event loop has to answer, also while there is nothing to do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

#: Beats without an answer after which a worker hangs. Nothing keeps an event loop for that long that still turns.
HUNG = 10
#: Seconds from one beat to the next.
BEAT = 1.0
#: Turns of the event loop that an answer needs from the socket to who asked, and some more.
_TURNS = 10


async def beat() -> None:
    """Return at the next beat, when everything has been heard that was there by then."""
    await asyncio.sleep(BEAT)
    for _ in range(_TURNS):  # after a standstill, the beat is over and the answers lie in the socket, both at once
        await asyncio.sleep(0)


async def hangs(ask: Callable[[], Awaitable[object]], beat: Callable[[], Awaitable[None]] = beat) -> None:
    """Return when a worker hangs: it has not answered a question for :data:`HUNG` beats.

    Beats are counted, not seconds. While this process stands still there are none, nor while the whole machine does: no worker is blamed for
    a silence in which nobody could hear it.

    Args:
        ask: asks what an event loop answers that turns. Where it raises, that is no answer.
        beat: waits for the next beat, while answers arrive.
    """
    while True:
        asked = asyncio.ensure_future(ask())
        asked.add_done_callback(_heard)
        try:
            for _ in range(HUNG):
                await beat()
                if asked.done() and asked.exception() is None:
                    break
            else:
                return
        finally:
            asked.cancel()


def _heard(asked: asyncio.Future[object]) -> None:
    """Take note of an error, which asyncio would else log when the worker ends, with a traceback that says nothing to an operator."""
    if not asked.cancelled():
        asked.exception()
