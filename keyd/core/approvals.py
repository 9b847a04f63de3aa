"""Dual control: what one operator asks for is done when a second one asks for the same."""

from __future__ import annotations

import datetime as dt
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from keyd.core.clock import Clock
from keyd.core.errors import ApprovalError
from keyd.core.principal import Principal

MAX_PENDING = 1000


@dataclass(frozen=True, slots=True)
class _Request:
    principal: Principal
    until: float


class Approvals:
    """The calls that wait for a second operator. In memory: after a restart both have to ask again."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pending: OrderedDict[tuple[str, bytes], _Request] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pending)

    def approve(
        self, operation: str, arguments: bytes, principal: Principal, window: float, may: Callable[[Principal], bool]
    ) -> str:
        """Return the account that asked first, when ``principal`` is the second; then it is to be done, once.

        Args:
            arguments: digest of everything that the call says.
            window: how long the first waits for the second, in seconds.
            may: says whether who asked first still has a grant for it; a reload may have taken it away.

        Raises:
            ApprovalError: ``principal`` is the first. The same account again starts the time anew.
        """
        now = self._clock.now()
        self._forget(now)
        pending = self._pending.pop((operation, arguments), None)
        if pending is not None and _differ(pending.principal, principal) and may(pending.principal):
            return pending.principal.account
        until = now + window
        self._pending[operation, arguments] = _Request(principal, until)
        stamp = dt.datetime.fromtimestamp(until, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        raise ApprovalError(
            f"{operation} needs two operators; one of another account than {principal.account} has to ask for exactly the same "
            f"until {stamp}",
            until=stamp,
            requested_by=principal.account,
        )

    def withdraw(self, operation: str, arguments: bytes) -> None:
        """Take back what waits, if it does."""
        self._pending.pop((operation, arguments), None)

    def _forget(self, now: float) -> None:
        for key in [key for key, request in self._pending.items() if request.until < now]:
            del self._pending[key]
        while len(self._pending) >= MAX_PENDING:
            self._pending.popitem(last=False)


def _differ(one: Principal, other: Principal) -> bool:
    """Say whether these are two. Certificates that share a DNS name are one, in whatever order they list their names."""
    return one.account != other.account and set(one.dns_names).isdisjoint(other.dns_names)
