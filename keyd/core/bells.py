"""Who waits for changes of some keys, and nobody is woken for others.

Those that one change concerns are woken a few at a time. To wake a thousand at once takes the signing loop's time for a tenth of a second.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Iterable
from typing import Self

_AT_ONCE, _PAUSE = 8, 0.004  # so many are woken, and as many seconds pass until the next: a thousand in half a second


class Bell:
    """Rings when one of its keys changes."""

    def __init__(self, bells: Bells, names: Collection[str]) -> None:
        self._bells = bells
        self._names = names
        self._news: set[str] = set()
        self._rung = asyncio.Event()
        self._queued = False

    def __enter__(self) -> Self:
        self._bells.hang(self, self._names)
        return self

    def __exit__(self, *_: object) -> None:
        self._bells.take_down(self, self._names)

    def news(self) -> set[str]:
        """Return which of its keys changed since this was asked last."""
        self._rung.clear()
        news, self._news = self._news, set()
        return news

    async def rung(self, within: float | None) -> None:
        """Return when it has rung since :meth:`news` was asked, or in its turn after ``within`` seconds."""
        try:
            async with asyncio.timeout(within):
                await self._rung.wait()
        except TimeoutError:
            self._bells.ring_one(self)  # at the same moment as a thousand others, perhaps
            await self._rung.wait()

    def note(self, name: str) -> None:
        """Note that a key changed."""
        self._news.add(name)

    def queue(self) -> bool:
        """Return whether it has to be put into the queue of those that are to ring."""
        before, self._queued = self._queued, True
        return not before

    def ring(self) -> None:
        """Wake who waits."""
        self._queued = False
        self._rung.set()


class Bells:
    """All bells, by the keys that they are for."""

    def __init__(self) -> None:
        self._by_name: dict[str, set[Bell]] = {}
        self._all: dict[Bell, None] = {}
        self._queue: deque[Bell] = deque()
        self._ringing = False

    def __bool__(self) -> bool:
        """Whether there are any that a key can ring."""
        return bool(self._by_name)

    def hang(self, bell: Bell, names: Iterable[str]) -> None:
        """Let a bell ring when one of these keys changes."""
        self._all[bell] = None
        for name in names:
            self._by_name.setdefault(name, set()).add(bell)

    def take_down(self, bell: Bell, names: Iterable[str]) -> None:
        """Let it ring no more."""
        self._all.pop(bell, None)
        for name in names:
            bells = self._by_name.get(name, set())
            bells.discard(bell)
            if not bells:
                self._by_name.pop(name, None)

    def ring(self, names: Iterable[str]) -> None:
        """Ring the bells of keys that changed."""
        for name in names:
            for bell in self._by_name.get(name, ()):
                bell.note(name)
                self.ring_one(bell)

    def ring_all(self) -> None:
        """Ring every bell: something else changed that all depend on."""
        for bell in self._all:
            self.ring_one(bell)

    def ring_one(self, bell: Bell) -> None:
        """Ring a bell when it has its turn."""
        if bell.queue():
            self._queue.append(bell)
            if not self._ringing:
                self._ringing = True
                asyncio.get_running_loop().call_soon(self._ring_some)

    def _ring_some(self) -> None:
        for _ in range(min(_AT_ONCE, len(self._queue))):
            self._queue.popleft().ring()
        self._ringing = bool(self._queue)
        if self._ringing:
            asyncio.get_running_loop().call_later(_PAUSE, self._ring_some)
