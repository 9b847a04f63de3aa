"""Tokens that are no longer good although they are not over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import structlog

from keyd.core.clock import Clock

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

    def revoke(self, tokens: Sequence[Revoked], now: float) -> None:
        """Put tokens on the list; one that is on it stays as it is. Take those off that are over ``now``."""

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

    @property
    def newest_change(self) -> int:
        """The number of the newest change, of whatever is in the store, of which this list knows."""
        return self._read

    @property
    def state(self) -> object:
        """What is another object whenever tokens were added."""
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
            known, now = {(token.issuer, token.token_id) for token in tokens}, self._clock.now()
            lost = [token for key, token in self._listed.items() if key not in known and token.expires > now]
            self._add(tokens)
            if lost:
                _log.error(
                    "the database has lost revocations that it had confirmed; the tokens are revoked again", number=len(lost)
                )
                await asyncio.to_thread(self._store.revoke, lost, now)

    async def revoke(self, tokens: Iterable[Revoked]) -> None:
        """Put tokens on the list; one that is there stays as it is. Raises StoreUnavailableError: then none of them is on it."""
        await _to_the_end(self._revoke(list(tokens)))

    async def _revoke(self, tokens: list[Revoked]) -> None:
        async with self._working:
            if self._store is None:
                self._add(tokens)
                return
            await asyncio.to_thread(self._store.revoke, tokens, self._clock.now())
            # What is in the store is on the list, whether or not the store can be read again right now.
            self._add(tokens)

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
        """Swap the list for one with these, and without those that are over."""
        new = {(token.issuer, token.token_id): token for token in tokens}
        if not new.keys() <= self._listed.keys():
            now = self._clock.now()
            kept = {key: token for key, token in self._listed.items() if token.expires > now}
            self._listed = MappingProxyType(new | kept)
            self.on_change()


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` to its end even if the caller goes away: what the store has, the list must have too."""
    await asyncio.shield(asyncio.ensure_future(work))
