"""What the JWK Sets of this daemon are: one of all keys, one of each configured issuer, and one of each key.

A set is rendered from timelines and clock when it is asked for, and kept until its next change. To render ten thousand keys anew
for each request would let whoever asks often enough stop everything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf
from types import MappingProxyType
from typing import Literal

import structlog

from keyd.core import globs, jwks
from keyd.core.errors import KeyStateError, NotFoundError
from keyd.core.jwks import AlgStyle, Document, Part
from keyd.core.keyring import Keyring
from keyd.core.snapshot import KeyView, Snapshot

#: What a verifier in the field reads at most of one document (regent-httpsig 0.7).
FEWEST_READ = 10
SMALLEST_READ = 64 * 1024
#: Whether there is a key directory (:mod:`keyd.core.directory`), and which verifiers it is made for.
DirectoryForm = Literal["off", "cloudflare", "draft"]
_log = structlog.get_logger("keyd.publication")


@dataclass(frozen=True)
class Issuer:
    """Keys that belong together, and the hosts at which their JWK Set is asked for.

    Attributes:
        hosts: host names or addresses, in lower case, with ``:port`` where only that port is meant.
        keys: globs of key names; one has to match.
        style: how ``alg`` is spelled.
        max_age: seconds that the set may be cached.
        origin: ``iss`` of the tokens that its keys sign: ``https://host``; None: they sign no agent tokens.
        directory: the form of the key directory of Web Bot Auth at these hosts.
        metadata: the documents that say who it is (:mod:`keyd.core.documents`), by name: what the configuration adds to them.
    """

    name: str
    hosts: frozenset[str]
    keys: tuple[str, ...]
    style: AlgStyle
    max_age: float
    origin: str | None = None
    directory: DirectoryForm = "off"
    metadata: Mapping[str, Mapping[str, object]] = field(default_factory=lambda: MappingProxyType({}), hash=False)

    @cached_property
    def _matchers(self) -> tuple[globs.Matcher, ...]:
        return tuple(globs.matcher(glob) for glob in self.keys)

    def has(self, key: str) -> bool:
        """Say whether a key of this name is one of the issuer's."""
        return any(matches(key) for matches in self._matchers)


@dataclass(frozen=True)
class Rules:
    """How JWK Sets are published; replaced on reload.

    Attributes:
        max_age: seconds that a set may be cached.
        style: how ``alg`` is spelled where no issuer says otherwise.
        issuers: by name.
        max_keys: a set of more keys is not published, that of all keys included.
    """

    max_age: float = 300.0
    style: AlgStyle = "jose"
    issuers: Mapping[str, Issuer] = field(default_factory=lambda: MappingProxyType({}))
    max_keys: int = 10_000

    @cached_property
    def _hosts(self) -> Mapping[str, Issuer]:
        return {host: issuer for issuer in self.issuers.values() for host in issuer.hosts}

    def at(self, host: str, port: str = "") -> Issuer | None:
        """Return the issuer whose set is asked for at a host; None: that of all keys.

        Args:
            host: in lower case, an IPv6 address in brackets.
            port: decimal, or empty. A host that the configuration names without port is meant whatever the port.
        """
        exact = self._hosts.get(f"{host}:{port}") if port else None
        return exact or self._hosts.get(host)


@dataclass(frozen=True, slots=True)
class _Set:
    """A rendered set, good from ``since`` to ``until`` while ``snapshot`` is what there is. ``body`` is None where it would be empty."""

    snapshot: Snapshot
    since: float
    until: float
    body: bytes | None
    etag: str
    keys: int
    members: Mapping[str, object]


class Publication:
    """The JWK Sets. What it keeps is bounded by the keys and issuers that there are, never by what is asked for."""

    def __init__(self, keyring: Keyring, rules: Rules) -> None:
        self._keyring = keyring
        self._rules = rules
        self._sets: dict[str | None, _Set] = {}
        #: For each key and style: the view it is of, and from when it is good.
        self._parts: dict[tuple[str, AlgStyle], tuple[KeyView, float, Part]] = {}
        #: Which keys are whose, for as long as there is no other key.
        self._members: dict[str, dict[str, None]] = {}
        self._seen = Snapshot()
        self._difference: tuple[Snapshot, Snapshot, frozenset[str]] | None = None
        #: Which sets were said to be too large.
        self._told: set[str] = set()

    @property
    def rules(self) -> Rules:
        """How they are published."""
        return self._rules

    @rules.setter
    def rules(self, rules: Rules) -> None:
        self._rules = rules
        self._sets.clear()
        self._members.clear()

    def issuer(self, name: str) -> Issuer:
        """Return a configured issuer. Raises NotFoundError."""
        found = self._rules.issuers.get(name)
        if found is None:
            raise NotFoundError(f"there is no issuer {name[:100]!r}; write [issuers.NAME] into the configuration")
        return found

    def members(self, issuer: Issuer) -> list[KeyView]:
        """Return the keys of an issuer, published or not, by name."""
        snapshot = self._keyring.snapshot
        return [snapshot.keys[name] for name in self._members_of(issuer, snapshot)]

    def document(self, *, key: str | None = None, issuer: Issuer | None = None) -> Document:
        """Return the set of all published keys, of those of an issuer, or of one key as an issuer publishes it.

        Raises:
            NotFoundError: there is no such key, or it is none of the issuer's.
            KeyStateError: nothing is published; see :func:`keyd.core.jwks.render`. An issuer's set is never empty. Or the set has more
                keys than one may have.
        """
        now, snapshot = self._keyring.clock.now(), self._keyring.snapshot
        style, max_age = (issuer.style, issuer.max_age) if issuer else (self._rules.style, self._rules.max_age)
        if key is not None:
            return self._of_key(snapshot, now, key, issuer, style, max_age)
        if self._too_large(snapshot, issuer):
            whose = "all keys" if issuer is None else f"issuer {issuer.name!r}"
            raise KeyStateError(
                f"the set of {whose} would have more than {self._rules.max_keys} keys (jwks.max_keys), and is not published; "
                "ask for the set of one key, or of an issuer with fewer"
            )
        found = self._set(snapshot, now, issuer, style)
        if found.body is None:
            raise jwks.nothing_published() if issuer is None else KeyStateError(f"no key of issuer {issuer.name!r} is published")
        return Document(found.body, found.etag, jwks.age(now, found.until, max_age if found.keys else 0), found.keys, found.until)

    def sizes(self) -> Mapping[str, tuple[int, int]]:
        """Return how many keys and octets the set of each issuer has; under the empty name, that of all keys.

        One that has too many keys has no octets: it is not published.
        """
        now, snapshot = self._keyring.clock.now(), self._keyring.snapshot
        sizes = {}
        for issuer in (None, *self._rules.issuers.values()):
            if self._too_large(snapshot, issuer):
                sizes[issuer.name if issuer else ""] = len(self._members_of(issuer, snapshot)), 0
                continue
            found = self._set(snapshot, now, issuer, issuer.style if issuer else self._rules.style)
            sizes[issuer.name if issuer else ""] = found.keys, len(found.body or b"")
        return sizes

    def warn_of_size(self) -> None:
        """Log which sets are larger than every verifier reads."""
        for name, (keys, octets) in self.sizes().items():
            if octets and (keys > FEWEST_READ or octets > SMALLEST_READ):
                _log.warning(
                    "a JWK Set is larger than some verifiers read: keys beyond that do not exist for them",
                    issuer=name or "(all keys)",
                    keys=keys,
                    bytes=octets,
                    read_keys=FEWEST_READ,
                    read_bytes=SMALLEST_READ,
                    hint="give the keys to several issuers, or point verifiers at /keys/NAME/jwks.json",
                )

    def _of_key(
        self, snapshot: Snapshot, now: float, name: str, issuer: Issuer | None, style: AlgStyle, max_age: float
    ) -> Document:
        view = snapshot.get(name)
        if issuer is not None and not issuer.has(name):
            raise NotFoundError(f"key {name!r} is none of issuer {issuer.name!r}")
        part = self._part(view, now, style)
        if not part.keys:
            raise jwks.nothing_published(name)
        body = jwks.body([part])
        return Document(body, jwks.etag(body), jwks.age(now, part.until, max_age), part.keys, part.until)

    def _set(self, snapshot: Snapshot, now: float, issuer: Issuer | None, style: AlgStyle) -> _Set:
        name = issuer.name if issuer else None
        known = self._sets.get(name)
        members = self._members_of(issuer, snapshot)
        if known is not None and known.since <= now < known.until:
            if known.snapshot is not snapshot and not any(
                name in members or name in known.members for name in self._changed(known.snapshot, snapshot)
            ):
                known = self._sets[name] = replace(known, snapshot=snapshot)
            if known.snapshot is snapshot:
                return known
        parts = [self._part(snapshot.keys[key], now, style) for key in members]
        keys = sum(part.keys for part in parts)
        until = min((part.until for part in parts), default=inf)
        if keys or (issuer is None and not jwks.has_issuers(snapshot)):
            body = jwks.body(parts)
            rendered = _Set(snapshot, now, until, body, jwks.etag(body), keys, members)
        else:
            rendered = _Set(snapshot, now, until, None, "", 0, members)
        self._sets[name] = rendered
        return rendered

    def _too_large(self, snapshot: Snapshot, issuer: Issuer | None) -> bool:
        """Say whether a set has too many keys, and log it when it comes to that."""
        name, keys = issuer.name if issuer else "", len(self._members_of(issuer, snapshot))
        if keys <= self._rules.max_keys:
            self._told.discard(name)
            return False
        if name not in self._told:
            self._told.add(name)
            _log.error(
                "a JWK Set has too many keys and is not published",
                issuer=name or "(all keys)",
                keys=keys,
                most_keys=self._rules.max_keys,
                hint="give the keys to several issuers, point verifiers at /keys/NAME/jwks.json, or set jwks.max_keys",
            )
        return True

    def _members_of(self, issuer: Issuer | None, snapshot: Snapshot) -> Mapping[str, object]:
        """Return the names of the keys of a set, in order."""
        if issuer is None:
            return snapshot.keys
        # To match ten thousand names for each of many issuers after each change would stop everything else for seconds.
        if snapshot is not self._seen:
            new = [name for name in self._changed(self._seen, snapshot) if name not in self._seen.keys]
            if len(self._seen.keys) + len(new) != len(snapshot.keys):  # the database lost some
                self._members.clear()
            for known in self._members:
                self._add(self._rules.issuers[known], new)
            self._seen = snapshot
        members = self._members.get(issuer.name)
        if members is None:
            members = self._members[issuer.name] = dict.fromkeys(key for key in snapshot.keys if issuer.has(key))
        return members

    def _add(self, issuer: Issuer, names: list[str]) -> None:
        own = [name for name in names if issuer.has(name)]
        if own:
            self._members[issuer.name] = dict.fromkeys(sorted([*self._members[issuer.name], *own]))

    def _changed(self, old: Snapshot, new: Snapshot) -> frozenset[str]:
        """Return the names of the keys that are not the same in both."""
        known = self._difference
        if known is None or known[0] is not old or known[1] is not new:
            names = frozenset(new.keys.differing(old.keys)).union(old.keys.differing(new.keys))
            known = self._difference = (old, new, names)
        return known[2]

    def _part(self, view: KeyView, now: float, style: AlgStyle) -> Part:
        where = view.key.name, style
        known = self._parts.get(where)
        # A key that did not change is the same object in the next snapshot, so that a change costs one key and not all of them.
        if known is not None and known[0] is view and known[1] <= now < known[2].until:
            return known[2]
        part = jwks.part(view, now, style)
        self._parts[where] = view, now, part
        return part
