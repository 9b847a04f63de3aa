"""Turns: how many calls a share may begin and how many signatures it may have under way, so that nobody's flood becomes everybody's queue."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from keyd.core.errors import OverloadedError

#: Calls of one share that begin in one turn of the event loop.
BEGIN_AT_ONCE = 3
#: More than so many shares are not remembered for longer than a turn.
_MANY_SHARES = 1024


class Pace:
    """Lets few calls of a share begin in each turn of the event loop, in the order in which they came.

    What is signed in this process takes the loop for as long as it takes. A client with many calls in flight has them all arrive in one
    piece; without this, whoever comes next would wait for all of them.

    To notice the end of a turn costs as much as half a turn. So it is looked for only when a share has begun as many as it may; until then,
    what it began in earlier turns counts as well, and at worst a call waits for one turn that it would not have had to.
    """

    def __init__(self) -> None:
        self._begun: dict[str, int] = {}
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._turning = False

    def __len__(self) -> int:
        """Return how many shares are remembered."""
        return len(self._begun.keys() | self._waiting.keys())

    def begin(self, share: str) -> asyncio.Future[None] | None:
        """Return None when a call may begin, else what to await until it may."""
        begun = self._begun.get(share, 0)
        if begun < BEGIN_AT_ONCE and share not in self._waiting:
            self._begun[share] = begun + 1
            if not self._turning and (begun + 1 == BEGIN_AT_ONCE or len(self._begun) > _MANY_SHARES):
                self._turning = True
                asyncio.get_running_loop().call_soon(self._turn)
            return None
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(share, deque()).append(turn)
        return turn

    def _turn(self) -> None:
        self._begun.clear()
        for share, queue in list(self._waiting.items()):
            begun = 0
            while queue and begun < BEGIN_AT_ONCE:
                turn = queue.popleft()
                if not turn.done():  # its caller may have gone away
                    turn.set_result(None)
                    begun += 1
            self._begun[share] = begun
            if not queue:
                del self._waiting[share]
        self._turning = bool(self._begun)
        if self._turning:
            asyncio.get_running_loop().call_soon(self._turn)


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

    def free(self, share: str, limit: int) -> bool:
        """Say whether ``share`` would have its turn at once. What is done before anything is waited for needs no turn then."""
        queue = self._queues.get(share)
        return queue is None or (queue.under_way < limit and not queue.waiting)

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
