"""The key of a cluster's service account tokens, as kube-apiserver's ExternalJWTSigner (KEP-740) has it.

kube-apiserver fetches public keys and takes them for changed when their timestamp, number, order, kids or exclusion did. What it is
told is a function of timelines, clock and configuration, so each replica tells the same, and so does keyd after a restart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil, inf

import structlog
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from backends.api import Algorithm
from keyd.core import jws
from keyd.core.errors import FreshnessError, KeydError, KeyStateError
from keyd.core.keyring import Keyring
from keyd.core.model import Purpose
from keyd.core.profile import jwt_lifetime, signs_type
from keyd.core.signing import Build
from keyd.core.snapshot import KeyView, VersionView
from keyd.core.timeline import Timeline

#: Those of keyd's that kube-apiserver takes.
ALGORITHMS = frozenset({Algorithm.RS256, Algorithm.ES256, Algorithm.ES384})
TYPE = "JWT"
#: kube-apiserver does not start with a shorter maximum, in seconds.
SHORTEST_MAXIMUM = 600
#: Seconds between kube-apiserver's clock and keyd's, as far as a machine's may be from that of its database.
CLOCKS = 30.0
_log = structlog.get_logger("keyd.kubernetes")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A kid, and its public key in PKIX form, DER."""

    kid: str
    pkix: bytes


@dataclass(frozen=True)
class Rules:
    """What the configuration says; replaced on reload. Times in seconds.

    Attributes:
        key: name of the key that signs.
        max_token_expiration: the longest life of a token.
        refresh_hint: after how long kube-apiserver fetches again, if nothing changes sooner.
        previous: keys of before keyd, which verify what they signed.
        excluded: kids that are left out of the OIDC discovery documents. Their keys do not sign.
    """

    key: str
    max_token_expiration: float = 86400.0
    refresh_hint: float = 300.0
    previous: tuple[PublicKey, ...] = ()
    excluded: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class KeySet:
    """What kube-apiserver fetches.

    Attributes:
        keys: at least one; versions of the key, oldest first, then those of before keyd. No kid is there twice.
        excluded: kids of those that are left out of the OIDC discovery documents.
        changed_at: when the set came to be, in nanoseconds since the epoch. Below the millisecond it is a digest of the set, so that
            a configuration which replaces a key under the same kid moves it too.
        refresh: seconds until it should be fetched again, at least 1. No version is published and active in between.
    """

    keys: tuple[PublicKey, ...]
    excluded: frozenset[str]
    changed_at: int
    refresh: int


class ServiceAccounts:
    """Says which keys verify a cluster's tokens, and has tokens built that kube-apiserver takes."""

    def __init__(self, keyring: Keyring, rules: Rules) -> None:
        self._keyring = keyring
        self.rules = rules
        self._said: tuple[str, int] | None = None

    def key_set(self) -> KeySet:
        """Return what verifies tokens now.

        Raises:
            NotFoundError: there is no such key.
            KeyStateError: it is not one for this, nothing is published, or a kid would have two keys.
        """
        rules, now = self.rules, self._keyring.clock.now()
        view = self._view()
        keys = _merged(view, now, rules.previous)
        if not keys:
            raise KeyStateError(f"key {rules.key!r} has no published version; `keyd key rotate --now {rules.key}` makes one")
        excluded = rules.excluded & keys.keys()
        moments = [moment for version in view.versions for moment in _changes(version.record.timeline)]
        since = max((moment for moment in moments if moment <= now), default=view.key.created_at)
        until = min((moment for moment in moments if moment > now), default=inf)
        # Rounded up, so that the fetch comes after the change and not just before it. Versions are published for longer than that.
        refresh = max(1, ceil(min(int(rules.refresh_hint), until - now)))
        stamp = int(since * 1000) * 1_000_000 + _digest(keys.values(), excluded) % 1_000_000
        return KeySet(tuple(keys.values()), excluded, stamp, refresh)

    def max_token_expiration(self) -> int:
        """Return the longest life of a token, in seconds: what is configured, or less where the key's retention or profile says so.

        Raises:
            NotFoundError: there is no such key.
            KeyStateError: it is not one for this, or what is left is less than kube-apiserver takes.
        """
        rules, view = self.rules, self._view()
        profile = self._keyring.profiles[view.key.profile]
        allowed = min(view.key.lifecycle.retention, jwt_lifetime(profile, TYPE)) - CLOCKS
        longest = int(min(rules.max_token_expiration, allowed))
        if longest < SHORTEST_MAXIMUM:
            raise KeyStateError(
                f"retention and profile of key {rules.key!r} allow tokens of {max(0, longest)} s, and kube-apiserver wants to hear "
                f"{SHORTEST_MAXIMUM} s or more; raise the retention of the key, or use another profile"
            )
        if longest < int(rules.max_token_expiration) and self._said != (rules.key, longest):
            self._said = rules.key, longest
            _log.warning(
                "service account tokens live shorter than configured, so that none outlives the publication of its key",
                key=rules.key,
                max_token_expiration=rules.max_token_expiration,
                seconds=longest,
                hint="it is 30 s less than the key's retention and than what its profile allows",
            )
        return longest

    def build(self, payload: str) -> Build:
        """Return what builds the signing input for ``payload``, claims in base64url, which stays as it is.

        It raises KeyStateError for a key or version that kube-apiserver does not take, FreshnessError for a token that lives too long,
        and the errors of :func:`keyd.core.jws.parse`.
        """
        rules = self.rules

        def build(view: KeyView, version: VersionView, now: float) -> bytes:
            self._check(view)
            kid = version.record.kid
            if kid in rules.excluded:
                raise KeyStateError(
                    f"kid {kid!r} of key {view.key.name!r} is in exclude_from_oidc_discovery, so it verifies and does not sign; "
                    "take it out of there, or rotate the key"
                )
            data = jws.with_header(payload, typ=TYPE, kid=kid, algorithm=view.key.algorithm)
            expires = jws.parse(data).claims.get("exp")
            if isinstance(expires, int | float) and expires > now + rules.max_token_expiration + CLOCKS:
                raise FreshnessError(f"exp is more than {rules.max_token_expiration:g} s ahead, which is max_token_expiration")
            return data

        return build

    def recheck(self, rules: Rules) -> None:
        """Raise KeyStateError when ``rules`` let be signed what those of a reload since then may not."""
        new = self.rules
        if (new.key, new.max_token_expiration, new.excluded) != (rules.key, rules.max_token_expiration, rules.excluded):
            raise KeyStateError("a reload changed [kubernetes] while this token was signed; ask for it again")

    def warn(self) -> None:
        """Log what keeps kube-apiserver from getting tokens signed."""
        try:
            self.max_token_expiration()
            self.key_set()
        except KeydError as exc:
            _log.warning("kube-apiserver cannot have service account tokens signed", key=self.rules.key, error=str(exc))

    def _view(self) -> KeyView:
        view = self._keyring.snapshot.get(self.rules.key)
        self._check(view)
        return view

    def _check(self, view: KeyView) -> None:
        key, profile = view.key, self._keyring.profiles.get(view.key.profile)
        problems = []
        if key.algorithm not in ALGORITHMS:
            problems.append(f"has the algorithm {key.algorithm.value}, and kube-apiserver takes RS256, ES256 and ES384")
        if Purpose.JWT not in key.purposes:
            problems.append("does not have the purpose jwt")
        if not key.publish:
            problems.append("is not published")
        if profile is None or not signs_type(profile, TYPE):
            problems.append(f"has the profile {key.profile!r}, which does not sign typ {TYPE}")
        if problems:
            raise KeyStateError(
                f"key {key.name!r} cannot sign service account tokens: it {', '.join(problems)}; make one with "
                "`keyd key create NAME --algorithm RS256 --purpose jwt --profile kubernetes` and name it in [kubernetes]"
            )


def _merged(view: KeyView, now: float, previous: Iterable[PublicKey]) -> Mapping[str, PublicKey]:
    """Return the published versions and the keys of before, by kid. Raises KeyStateError where two keys have one kid."""
    versions = [(version, _pkix(version)) for version in view.versions]
    keys = {
        version.record.kid: PublicKey(version.record.kid, pkix)
        for version, pkix in versions
        if version.record.timeline.published(now)
    }
    # A key of before may have been imported. When it is compromised, it is not to be trusted under any name.
    compromised = {pkix for version, pkix in versions if now >= version.record.timeline.compromised_at}
    for key in previous:
        if key.pkix in compromised:
            continue
        if keys.setdefault(key.kid, key).pkix != key.pkix:
            raise KeyStateError(f"kid {key.kid!r} of previous_keys is that of another key, a version of {view.key.name!r}")
    return keys


def _pkix(version: VersionView) -> bytes:
    return version.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _changes(line: Timeline) -> Iterator[float]:
    """Return when a version enters the set, and when it leaves it. One that leaves before it is published never does either."""
    end = min(line.unpublish_at, line.compromised_at, line.destroyed_at)
    if line.publish_at < end:
        yield from (line.publish_at, end)


def _digest(keys: Iterable[PublicKey], excluded: frozenset[str]) -> int:
    digest = hashlib.sha256()
    for key in keys:
        for part in (key.kid.encode(), key.pkix, b"-" if key.kid in excluded else b"+"):
            digest.update(len(part).to_bytes(4) + part)
    return int.from_bytes(digest.digest())
