"""Turns: how many signatures each principal may have under way, so that nobody's flood becomes everybody's queue."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from keyd.core.errors import OverloadedError


@dataclass(slots=True)
class _Queue:
    under_way: int = 0
    waiting: OrderedDict[asyncio.Future[None], None] = field(default_factory=OrderedDict)  # who leaves need not be searched for


class Turns:
    """Gives out turns, for each share so many at a time; those beyond wait in the order in which they came."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}

    def __len__(self) -> int:
        """Return how many identities have something under way."""
        return len(self._queues)

    async def take(self, share: str, limit: int, within: float | None) -> None:
        """Return when it is ``share``'s turn; :meth:`give_back` has to follow.

        Args:
            limit: how many may be under way.
            within: how long to wait, in seconds.

        Raises:
            OverloadedError: it took longer.
        """
        queue = self._queues.get(share)
        if queue is None:
            queue = self._queues[share] = _Queue()
        if queue.under_way < limit and not queue.waiting:
            queue.under_way += 1
            return
        turn = asyncio.get_running_loop().create_future()
        queue.waiting[turn] = None
        try:
            async with asyncio.timeout(within):
                await turn
        except BaseException as exc:
            self._leave(share, queue, turn)
            if isinstance(exc, TimeoutError):
                raise OverloadedError(
                    "too many signatures of this caller are under way already; ask for fewer at a time"
                ) from None
            raise

    def give_back(self, share: str) -> None:
        """End a turn; the next one begins."""
        queue = self._queues[share]
        while queue.waiting:
            turn, _ = queue.waiting.popitem(last=False)
            if not turn.done():
                turn.set_result(None)
                return
        queue.under_way -= 1
        if not queue.under_way:
            del self._queues[share]

    def _leave(self, share: str, queue: _Queue, turn: asyncio.Future[None]) -> None:
        """Leave the queue, or, when the turn came at this very moment, pass it on."""
        if turn.done() and not turn.cancelled():
            self.give_back(share)
        else:
            queue.waiting.pop(turn, None)
