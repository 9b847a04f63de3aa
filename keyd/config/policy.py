"""From a configuration to the policy that it says."""

from __future__ import annotations

from collections.abc import Iterable

from keyd.config.model import Config
from keyd.core.policy import Policy


def policy(config: Config, *, owners: Iterable[int]) -> Policy:
    """Return the policy; ``owners`` are the uids of who owns the daemon, see :class:`keyd.core.policy.Policy`."""
    return Policy(
        [grant.grant for grant in config.grants.values()],
        owners=owners,
        allowance=config.limits.to_allowance(),
        dual_control=config.policy.operations,
        approval_window=config.policy.approval_window,
    )
