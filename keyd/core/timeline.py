"""The lifecycle of a key version: a timeline and a clock.

The state of a version is a pure function of its timeline and the present time. Nothing has to run for a version to become
active, so nothing is lost when a process dies, and replicas agree without talking.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from math import inf


class KeyState(enum.Enum):
    """NIST SP 800-57 words; "suspended" does not exist here, a key can be disabled as a whole."""

    PRE_ACTIVATION = "pre-activation"
    ACTIVE = "active"
    DEACTIVATED = "deactivated"
    COMPROMISED = "compromised"
    DESTROYED = "destroyed"


@dataclass(frozen=True, slots=True)
class LifecyclePolicy:
    """Periods in seconds from which timelines are computed.

    Attributes:
        publish_lead: how long a version is published before it signs.
        sign_grace: how long a replaced version still signs what names its kid.
        retention: how long it stays published after that.
        rotation_period: how long a version is active before the planner replaces it; ``inf``: only an operator does.
        destroy_after: how long after it was unpublished the planner destroys its private key; ``inf``: only an operator does.
    """

    publish_lead: float = 24 * 3600.0
    sign_grace: float = 300.0
    retention: float = 48 * 3600.0
    rotation_period: float = inf
    destroy_after: float = inf


@dataclass(frozen=True, slots=True)
class Timeline:
    """Times of one version, in seconds since the epoch. ``inf`` is an end that is not set yet."""

    created_at: float
    publish_at: float
    activate_at: float
    deactivate_at: float = inf
    sign_until: float = inf
    unpublish_at: float = inf
    destroyed_at: float = inf
    compromised_at: float = inf

    def state(self, now: float) -> KeyState:
        """Return the state at ``now``. Destroyed outranks compromised, which outranks the rest."""
        if now >= self.destroyed_at:
            return KeyState.DESTROYED
        if now >= self.compromised_at:
            return KeyState.COMPROMISED
        if now < self.activate_at:
            return KeyState.PRE_ACTIVATION
        return KeyState.ACTIVE if now < self.deactivate_at else KeyState.DEACTIVATED

    def published(self, now: float) -> bool:
        """Say whether the public key belongs in the JWK Set at ``now``."""
        return self.publish_at <= now < min(self.unpublish_at, self.compromised_at, self.destroyed_at)

    def signs(self, now: float) -> bool:
        """Say whether the version may sign, at ``now``, what names its kid."""
        return self.activate_at <= now < min(self.sign_until, self.compromised_at, self.destroyed_at)

    def next_change(self, now: float) -> float:
        """Return the first moment after ``now`` at which any answer above changes; ``inf`` if none does."""
        earliest = inf
        for moment in self._moments():  # written out: asked of each key at the start
            if now < moment < earliest:
                earliest = moment
        return earliest

    def _moments(self) -> tuple[float, ...]:
        signing = self.publish_at, self.activate_at, self.deactivate_at, self.sign_until
        return (*signing, self.unpublish_at, self.destroyed_at, self.compromised_at)

    def replaced(self, at: float, policy: LifecyclePolicy, promised: float = 0.0) -> Timeline:
        """Return this timeline with a successor that takes over ``at`` that moment.

        ``promised`` is until when the key must stay published whatever its policy says now.
        """
        sign_until = at + policy.sign_grace
        return replace(self, deactivate_at=at, sign_until=sign_until, unpublish_at=max(sign_until + policy.retention, promised))

    def not_replaced(self) -> Timeline:
        """Return this timeline with the planned successor taken back."""
        return replace(self, deactivate_at=inf, sign_until=inf, unpublish_at=inf)

    def publication_ends(self, now: float, policy: LifecyclePolicy) -> float:
        """Return until when something signed ``now`` may be valid, so that it expires before its key is unpublished.

        The same period whether or not a rotation is under way, so that what an agent asks for is not refused all of a sudden:
        who may sign at ``now`` is still published a whole retention later.
        """
        return min(self.unpublish_at, now + policy.retention)


def first(now: float) -> Timeline:
    """Return the timeline of a key's first version: nobody holds an older JWK Set, so it is active at once."""
    return Timeline(created_at=now, publish_at=now, activate_at=now)


def successor(now: float, policy: LifecyclePolicy, *, at_once: bool = False) -> Timeline:
    """Return the timeline of a next version: published now, active after the publish lead, or ``at_once``."""
    return Timeline(created_at=now, publish_at=now, activate_at=now if at_once else now + policy.publish_lead)
