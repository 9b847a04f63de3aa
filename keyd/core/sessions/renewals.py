"""Who renews sessions: few at a time for each backend, and the next one as soon as one is done."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable

from keyd.core.sessions.session import Session

#: Tokens that are made by renewal at one time, for each backend; agents that open sessions go first.
RENEWALS = 4


class Renewals:
    """Renews what is due. A backend that is slow, or away, holds up the sessions of its own keys and nobody else's."""

    def __init__(self, renew: Callable[[Session], Awaitable[None]]) -> None:
        """Take what renews one session. It may fail, which is its own to tell."""
        self._renew = renew
        self._due: dict[str, deque[Session]] = {}
        self._workers: Counter[str] = Counter()
        self._under_way: set[Session] = set()
        self._tasks: set[asyncio.Task[None]] = set()  # the event loop does not keep them

    def begin(self, due: Iterable[tuple[str, Session]]) -> set[asyncio.Task[None]]:
        """Renew these, each with the name of its backend, and no others that were due before. Returns the workers that it began.

        Args:
            due: in the order in which they are to be renewed.
        """
        self._due = {}
        for backend, session in due:
            if session not in self._under_way:
                self._due.setdefault(backend, deque()).append(session)
        begun = set()
        for backend, queue in self._due.items():
            for _ in range(min(len(queue), RENEWALS - self._workers[backend])):
                self._workers[backend] += 1
                begun.add(task := asyncio.create_task(self._work(backend)))
                task.add_done_callback(self._tasks.discard)
        self._tasks |= begun
        return begun

    async def _work(self, backend: str) -> None:
        try:
            while queue := self._due.get(backend):
                session = queue.popleft()
                if session.closed:
                    continue
                self._under_way.add(session)
                try:
                    await self._renew(session)
                finally:
                    self._under_way.discard(session)
                await asyncio.sleep(0)  # one that is refused at once has waited for nothing; others have to go on meanwhile
        finally:
            self._workers[backend] -= 1
