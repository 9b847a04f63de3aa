"""Tokens that are no longer good although they are not over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import structlog

from keyd.core.clock import Clock

R = TypeVar("R")
#: Seconds that an entry is kept after it is over: a clock that was ahead by less takes nothing off the list.
_KEPT = 86400.0
_log = structlog.get_logger("keyd.sessions")


@dataclass(frozen=True, slots=True)
class Revoked:
    """One of them. Times in seconds since the epoch.

    Attributes:
        issuer: ``iss`` of the token.
        token_id: its ``jti``.
        expires: its ``exp``, with which it leaves the list.
    """

    issuer: str
    token_id: str
    expires: float
    revoked_at: float


class RevocationStore(Protocol):
    """Where the list outlives this process. Both methods block, and raise StoreUnavailableError."""

    def revoke(self, tokens: Sequence[Revoked], ended: float) -> None:
        """Put tokens on the list; of one that is on it, the later end counts. Take those off that were over ``ended``."""

    def revoked(self, after: int = 0) -> tuple[list[Revoked], int]:
        """Return what was put on it after a change of that number, and the number of the newest change of anything."""


class Revocations:
    """The list of them. To read it never waits for the store."""

    def __init__(self, clock: Clock, store: RevocationStore | None = None) -> None:
        """Begin with nothing; :meth:`refresh` reads what is in the store. Without one, the list ends with this object."""
        self._clock = clock
        self._store = store
        self._listed: Mapping[tuple[str, str], Revoked] = MappingProxyType({})
        self._read = 0
        self._working = asyncio.Lock()
        #: Called whenever there is another on the list.
        self.on_change: Callable[[], None] = lambda: None
        #: Has the other workers of this daemon see the list before whoever added to it is told. Raises nothing.
        self.spread: Callable[[], Awaitable[None]] = _alone

    @property
    def newest_change(self) -> int:
        """The number of the newest change, of whatever is in the store, of which this list knows."""
        return self._read

    @property
    def state(self) -> object:
        """What is another object whenever tokens were added, or end later."""
        return self._listed

    async def refresh(self) -> None:
        """See what other replicas revoked. Raises StoreUnavailableError."""
        async with self._working:
            await self._refresh()

    async def reload(self) -> None:
        """See all of it as the store has it, after it was away; what it has lost is put there again. Raises StoreUnavailableError."""
        await _to_the_end(self._reload())

    async def _reload(self) -> None:
        async with self._working:
            if self._store is None:
                return
            tokens, self._read = await asyncio.to_thread(self._store.revoked)
            ends, now = {(token.issuer, token.token_id): token.expires for token in tokens}, self._clock.now()
            lost = [token for key, token in self._listed.items() if token.expires > max(now, ends.get(key, now))]
            self._add(tokens)
            if lost:
                _log.error(
                    "the database has lost revocations that it had confirmed; the tokens are revoked again", number=len(lost)
                )
                await asyncio.to_thread(self._store.revoke, lost, now - _KEPT)

    async def revoke(self, tokens: Iterable[Revoked]) -> list[Revoked]:
        """Put tokens on the list, and return them as they stand there; of one that is on it, the later end counts.

        Raises:
            StoreUnavailableError: none of them was put there.
        """
        return await _to_the_end(self._revoke(list(tokens)))

    async def _revoke(self, tokens: list[Revoked]) -> list[Revoked]:
        async with self._working:
            if self._store is not None:
                await asyncio.to_thread(self._store.revoke, tokens, self._clock.now() - _KEPT)
            # What is in the store is on the list, whether or not the store can be read again right now.
            self._add(tokens)
            listed = [self._listed[token.issuer, token.token_id] for token in tokens]
        await self.spread()
        return listed

    def listed(self, issuer: str | None = None) -> list[Revoked]:
        """Return those that are not over, of one issuer or of all, in the order in which they end."""
        now = self._clock.now()
        found = [t for t in self._listed.values() if t.expires > now and issuer in (None, t.issuer)]
        return sorted(found, key=lambda t: (t.expires, t.issuer, t.token_id))

    async def _refresh(self) -> None:
        if self._store is not None:
            tokens, self._read = await asyncio.to_thread(self._store.revoked, self._read)
            self._add(tokens)

    def _add(self, tokens: Iterable[Revoked]) -> None:
        """Swap the list for one with these, and without those that were over a while ago."""
        new: dict[tuple[str, str], Revoked] = {}
        for token in tokens:
            key = token.issuer, token.token_id
            known = new.get(key) or self._listed.get(key)
            if known is None or token.expires > known.expires:
                new[key] = token if known is None else replace(known, expires=token.expires)
        if new:
            ended = self._clock.now() - _KEPT
            kept = {key: token for key, token in self._listed.items() if token.expires > ended}
            self._listed = MappingProxyType(kept | new)
            self.on_change()


async def _alone() -> None:
    """There are no other workers."""


async def _to_the_end(work: Coroutine[Any, Any, R]) -> R:
    """Run ``work`` to its end even if the caller goes away: what the store has, the list must have too."""
    return await asyncio.shield(asyncio.ensure_future(work))
