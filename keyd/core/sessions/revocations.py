"""Tokens that are no longer good although they are not over."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from keyd.core.clock import Clock


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


class Revocations:
    """The list of them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._listed: dict[tuple[str, str], Revoked] = {}

    async def revoke(self, tokens: Iterable[Revoked]) -> None:
        """Put tokens on the list; one that is there stays as it is. Raises StoreUnavailableError: then none of them is on it."""
        for token in tokens:
            self._listed.setdefault((token.issuer, token.token_id), token)

    def listed(self, issuer: str | None = None) -> list[Revoked]:
        """Return those that are not over, of one issuer or of all, in the order in which they end."""
        now = self._clock.now()
        found = [t for t in self._listed.values() if t.expires > now and issuer in (None, t.issuer)]
        return sorted(found, key=lambda t: (t.expires, t.issuer, t.token_id))
