"""What is the same for each base that one caller has one key sign, worked out once.

It is for the usual case alone: the key has an active version, signs requests, and its backend does so without waiting for anything. Then nothing
can change between the first check and the signature. Whatever is otherwise goes the long way (:class:`keyd.core.signing.Signer`), and is
refused there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from keyd.core.binding import Signing
from keyd.core.grants import Grant
from keyd.core.guard import Guard
from keyd.core.keyring import Keyring
from keyd.core.model import Purpose
from keyd.core.policy import Policy, Rights, Rule
from keyd.core.principal import Principal
from keyd.core.profile import Profile
from keyd.core.runner import BackendRunner
from keyd.core.snapshot import KeyView, VersionView

_MAX_KEPT = 4096


@dataclass(frozen=True, slots=True)
class Standing:
    """How a caller stands with a key, from ``since`` until ``until``, in seconds since the epoch.

    Attributes:
        usual: whether it is the usual case; if not, nothing else here means anything.
        version: the active one.
        names: the kid and the thumbprint of that.
        take: see :meth:`keyd.core.guard.Guard.taker`.
    """

    view: KeyView
    since: float
    until: float
    usual: bool
    version: VersionView
    signing: Signing
    names: frozenset[str]
    profile: Profile
    runner: BackendRunner
    rules: tuple[Rule, ...]
    share: str
    take: Callable[[Grant], float]


class Standings:
    """Keeps them. One is good while policy, profiles and the key are the very objects that it was made of, and time changes nothing."""

    def __init__(self, keyring: Keyring, guard: Guard) -> None:
        self._keyring = keyring
        self._guard = guard
        self._kept: dict[tuple[Rights, str], Standing] = {}
        self._policy: Policy | None = None
        self._profiles: Mapping[str, Profile] | None = None

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, principal: Principal, name: str, profiles: Mapping[str, Profile], now: float) -> Standing | None:
        """Return how a caller stands with a key; None: not as usual. Raises GrantError."""
        policy = self._guard.policy
        if policy is not self._policy or profiles is not self._profiles:
            self._kept.clear()
            self._policy, self._profiles = policy, profiles
        view = self._keyring.snapshot.keys.get(name)
        if view is None:
            return None
        rights = policy.rights(principal)
        standing = self._kept.get((rights, name))
        if standing is None or standing.view is not view or not standing.since <= now < standing.until:
            standing = self._make(rights, view, now)
            if standing is None:
                return None
        return standing if standing.usual else None

    def _make(self, rights: Rights, view: KeyView, now: float) -> Standing | None:
        key, rules = view.key, rights.sign(view.key.name)
        version, profile = view.active(now), self._profiles.get(key.profile) if self._profiles is not None else None
        runner = self._keyring.backends.get(key.backend)
        if version is None or profile is None or runner is None:
            return None
        names = frozenset((version.record.kid, version.record.thumbprint))
        usual = (
            key.disabled_at is None
            and Purpose.HTTP in key.purposes
            and version.record.handle is not None
            and version.record.timeline.signs(now)
            and all(view.by_kid(each) is version for each in names)
            and runner.signs_inline(key.algorithm)
        )
        standing = Standing(
            view,
            now,
            view.next_change(now),
            usual,
            version,
            Signing(key.algorithm, version.record.kid, version.record.thumbprint),
            names,
            profile,
            runner,
            rules,
            rights.share,
            self._guard.taker(rights.share),
        )
        if len(self._kept) >= _MAX_KEPT:
            self._kept.clear()
        self._kept[rights, key.name] = standing
        return standing
