"""The guard: what every call goes through before and after the work itself. Rates, turns, grants, and the record of it all."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import NoReturn

from keyd.core.approvals import Approvals
from keyd.core.clock import Clock
from keyd.core.decision import Audit, Decision, NoAudit
from keyd.core.errors import (
    AuditError,
    InvalidArgumentError,
    KeydError,
    MalformedError,
    NotFoundError,
    OverloadedError,
    RateError,
    RefusedError,
    SizeError,
)
from keyd.core.grants import Grant
from keyd.core.policy import Policy, over_rate
from keyd.core.principal import Principal
from keyd.core.rates import REFUSAL_COST, Holds, Rates, Refusals
from keyd.core.turns import Pace, Turns

_OF_THE_CALLER = (RefusedError, MalformedError, InvalidArgumentError, SizeError, NotFoundError)
_LONGEST_NAME, _LONGEST_DETAIL = 63, 512


class Guard:
    """Holds the policy, and what callers have used up of it.

    Attributes:
        policy: a reload replaces it. A signature that is under way then has to be allowed by both, or it is withheld.
    """

    def __init__(
        self,
        policy: Policy,
        clock: Clock,
        audit: Audit | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy = policy
        self.clock = clock
        self.approvals = Approvals(clock)
        self.turns = Turns()
        self.pace = Pace()
        self._audit = audit or NoAudit()
        self._rates = Rates(monotonic)
        self._refusals = Refusals(monotonic)
        self._holds = Holds(monotonic)
        self._calls: dict[str, int] = {}

    def over_rate(self, principal: Principal, cost: int = 1) -> float:
        """Take ``cost`` from what the principal may ask in all and return 0, or return the seconds until it is there."""
        policy = self.policy
        return self._rates.take(("", policy.rights(principal).share), policy.allowance.rate, cost)

    def charge_refusal(self, principal: Principal, error: KeydError) -> None:
        """Charge for a call that was refused for what it asked; not for the state of a key or a backend, which is not its doing."""
        if isinstance(error, _OF_THE_CALLER):
            self._rates.owe(("", self.share(principal)), REFUSAL_COST)

    def share(self, principal: Principal) -> str:
        """Return what stands for all callers that use up the same as this one; see :class:`keyd.core.policy.Rights`."""
        return self.policy.rights(principal).share

    async def refuse_rate(self, principal: Principal, operation: str, wait: float) -> NoReturn:
        """Refuse a call before anything of it is looked at. ``wait`` is in seconds.

        Raises:
            RateError: it is over the rate of the principal.
            AuditError: and that cannot be recorded.
        """
        error = over_rate(wait, "this caller")
        await self.refuse(self.decision(principal, operation), error)
        raise error

    def hold(self, principal: Principal, error: RateError) -> float:
        """Return for how many seconds not to listen to a connection on which a call was refused for its rate."""
        return self._holds.after_refusal(self.share(principal), float(error.metadata["retry_after"]))

    def begin_call(self, principal: Principal) -> str:
        """Count a call that begins, and return what :meth:`end_call` has to be given. Raises OverloadedError when too many are under way."""
        policy = self.policy
        share = policy.rights(principal).share
        count = self._calls.get(share, 0)
        if count >= policy.allowance.max_calls:
            raise OverloadedError(
                f"this caller has {count} calls and streams under way, as many as it may; end some of them first"
            )
        self._calls[share] = count + 1
        return share

    def end_call(self, share: str) -> None:
        """Count a call that ends. A reload may have changed its share meanwhile."""
        left = self._calls[share] - 1
        if left:
            self._calls[share] = left
        else:
            del self._calls[share]

    def taker(self, share: str) -> Callable[[Grant], float]:
        """Return what takes a token of a grant for ``share``; see :func:`keyd.core.policy.decide`."""

        def take(grant: Grant) -> float:
            return 0.0 if grant.rate is None else self._rates.take((grant.name, share), grant.rate)

        return take

    def decision(self, principal: Principal, operation: str, key: str | None = None) -> Decision:
        """Begin the record of a request; ``latency`` holds the moment until the record is written."""
        if key is not None and len(key) > _LONGEST_NAME:
            key = f"{key[:_LONGEST_NAME]}..."
        return Decision(principal, operation, self.clock.now(), key, latency=time.perf_counter())

    @property
    def records_wait(self) -> bool:
        """Whether what :meth:`record` returns takes time, because callers wait for the disk."""
        return self._audit.waits

    def record(self, decision: Decision) -> Awaitable[None] | None:
        """Write the record; see :meth:`keyd.core.decision.Audit.write`. Raises AuditError."""
        decision.latency = time.perf_counter() - decision.latency
        return self._audit.write(decision)

    async def refuse(self, decision: Decision, error: BaseException) -> None:
        """Write the record of a request that comes to nothing; ``error`` is for the caller to raise.

        Raises:
            AuditError: it cannot be recorded. Not for a caller that went away, whose task has to end as cancelled.
        """
        try:
            await finish(self._refused(decision, error))
        except AuditError:
            if isinstance(error, Exception):
                raise

    def _refused(self, decision: Decision, error: BaseException) -> Awaitable[None] | None:
        if isinstance(error, RateError):
            return self._record_rate(decision, error)
        if isinstance(error, KeydError):
            decision.reason, decision.detail = error.reason, str(error)[:_LONGEST_DETAIL]  # some name what the caller sent
        elif isinstance(error, Exception):
            decision.reason, decision.detail = KeydError.reason, "unexpected error"
        else:
            decision.reason, decision.detail = "CANCELLED", "the caller went away"
        decision.grant = decision.grant or (error.metadata.get("grant") if isinstance(error, KeydError) else None)
        return self.record(decision)

    def _record_rate(self, decision: Decision, error: RateError) -> Awaitable[None] | None:
        """Write one record a second and principal, at most."""
        count = self._refusals.to_report(self.share(decision.principal))
        if not count:
            return None
        decision.reason, decision.grant = error.reason, error.metadata.get("grant")
        decision.detail = f"{error}; {count} refused so since the last record of it"
        return self.record(decision)


async def finish(writing: Awaitable[None] | None) -> None:
    """Wait for what :meth:`Guard.record` returned."""
    if writing is not None:
        await writing
