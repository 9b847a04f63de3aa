"""All keys at one moment, immutable: what signing and publication read, and swap whole on change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import inf
from operator import attrgetter
from types import MappingProxyType

from backends.api import PublicKey
from keyd.core import jwk
from keyd.core.errors import KeyStateError, NotFoundError
from keyd.core.key_map import KeyMap
from keyd.core.model import Key, KeyVersion
from keyd.core.timeline import KeyState

#: Seconds after a compromise in which the successor of the version may be on its way.
SUCCESSION = 2.0
_number = attrgetter("record.version")


@dataclass(frozen=True)
class VersionView:
    """A version with its public key."""

    record: KeyVersion

    @cached_property
    def public_key(self) -> PublicKey:
        """The recorded public key; what the backend returns is checked against it."""
        return jwk.to_public_key(self.record.public_jwk)


@dataclass(frozen=True)
class KeyView:
    """A key with its versions, oldest first."""

    key: Key
    versions: tuple[VersionView, ...]

    def active(self, now: float) -> VersionView | None:
        """Return the version that signs by default, whether or not the key is disabled."""
        return next((v for v in reversed(self.versions) if v.record.timeline.state(now) is KeyState.ACTIVE), None)

    def pending(self, now: float) -> VersionView | None:
        """Return the version that waits to become active."""
        return next((v for v in self.versions if v.record.timeline.state(now) is KeyState.PRE_ACTIVATION), None)

    def succession(self, now: float) -> float:
        """Return for how many more seconds to wait for a version that takes over from a compromised one; 0: for none."""
        left = self._compromised_at + SUCCESSION - now
        if left <= 0 or self.key.disabled_at is not None or self.active(now) is not None:
            return 0.0
        return min(SUCCESSION, left)

    @cached_property
    def _compromised_at(self) -> float:
        """When a version was compromised last; of most keys none ever was, and each signature asks."""
        return max((t for v in self.versions if (t := v.record.timeline.compromised_at) < inf), default=-inf)

    def version(self, number: int) -> VersionView:
        """Return one version. Raises NotFoundError."""
        for view in self.versions:
            if view.record.version == number:
                return view
        raise NotFoundError(f"key {self.key.name!r} has no version {number}")

    def by_kid(self, kid: str) -> VersionView | None:
        """Return the version that a kid or thumbprint names."""
        return next((v for v in reversed(self.versions) if kid in (v.record.kid, v.record.thumbprint)), None)

    def signer(self, kid: str | None, now: float) -> VersionView:
        """Return the version that shall sign: the one that ``kid`` names, else the active one.

        Raises:
            KeyStateError: it may not sign now; metadata has ``active_kid`` where another may.
            NotFoundError: the key has no such kid.
        """
        name = self.key.name
        active = self.active(now)
        if self.key.disabled_at is not None:
            raise KeyStateError(f"key {name!r} is disabled; `keyd key enable {name}` lets it sign again")
        hint = {"active_kid": active.record.kid} if active else {}
        if kid is None:
            if active is None:
                raise KeyStateError(f"key {name!r} has no active version; `keyd key rotate --now {name}` makes one")
            return active
        view = self.by_kid(kid)
        if view is None:
            raise NotFoundError(f"key {name!r} has no kid {kid!r}", **hint)
        if not view.record.timeline.signs(now):
            state = view.record.timeline.state(now).value
            raise KeyStateError(f"version {view.record.version} of key {name!r} does not sign: it is {state}", **hint)
        return view

    def published(self, now: float) -> list[VersionView]:
        """Return what belongs in the JWK Set: the active version first, then newest first."""
        if not self.key.publish:
            return []
        active = self.active(now)
        views = [v for v in reversed(self.versions) if v.record.timeline.published(now)]
        return sorted(views, key=lambda v: v is not active)

    def next_change(self, now: float) -> float:
        """Return the next moment at which time alone changes anything here; ``inf`` if none."""
        return min((v.record.timeline.next_change(now) for v in self.versions), default=inf)


class Snapshot:
    """All keys by name."""

    __slots__ = ("keys",)
    keys: KeyMap[KeyView]

    def __init__(self, keys: Mapping[str, KeyView] = MappingProxyType({})) -> None:
        self.keys = keys if isinstance(keys, KeyMap) else KeyMap(keys)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Snapshot) and self.keys == other.keys

    __hash__ = None  # type: ignore[assignment]  # too large for it; to be the same one is what counts

    @classmethod
    def of(cls, keys: Iterable[Key], versions: Iterable[KeyVersion]) -> Snapshot:
        """Build a snapshot from records."""
        grouped: dict[str, tuple[VersionView, ...]] = {}
        further: dict[str, list[VersionView]] = {}
        for record in versions:
            view = VersionView(record)
            if record.key in grouped:
                further.setdefault(record.key, []).append(view)
            else:  # most keys have one: a list for each, to be made a tuple, takes twice as long
                grouped[record.key] = (view,)
        for name, views in further.items():
            grouped[name] = tuple(sorted((*grouped[name], *views), key=_number))
        return cls({key.name: KeyView(key, grouped.get(key.name, ())) for key in keys})

    def with_keys(self, *views: KeyView) -> Snapshot:
        """Return a snapshot in which these keys stand as given."""
        return Snapshot(self.keys.with_items({view.key.name: view for view in views}))

    def sharing(self, other: Snapshot) -> Snapshot:
        """Return the same, with the very objects of ``other`` for keys that are equal there: what was made of them stays good."""
        views = {name: o if (o := other.keys.get(name)) == view and o is not None else view for name, view in self.keys.items()}
        return Snapshot(views)

    def get(self, name: str) -> KeyView:
        """Return one key. Raises NotFoundError."""
        view = self.keys.get(name)
        if view is None:
            raise NotFoundError(f"there is no key {name!r}; `keyd key list` shows those that there are")
        return view

    def has_kid(self, kid: str) -> bool:
        """Say whether any version of any key has this kid or thumbprint."""
        return any(view.by_kid(kid) for view in self.keys.values())
