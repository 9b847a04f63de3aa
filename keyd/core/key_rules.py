"""What a key may be: its name, its purposes, lifecycle periods that do not contradict what it signs and how it is served, and its kids."""

from __future__ import annotations

from collections.abc import Mapping
from math import isinf

from keyd.core.errors import AlreadyExistsError, InvalidArgumentError
from keyd.core.model import NAME, Key, KidFormat, Purpose
from keyd.core.profile import Profile
from keyd.core.snapshot import Snapshot


def check_key(key: Key, *, served_max_age: float, profiles: Mapping[str, Profile]) -> None:
    """Refuse a key that cannot be. ``served_max_age`` is how long, in seconds, a JWK Set may be cached.

    Raises:
        InvalidArgumentError: says what is wrong, all of it.
    """
    problems = []
    if not NAME.fullmatch(key.name):
        problems.append("a key name is 1 to 63 of A-Z a-z 0-9 . _ - and starts with a letter or digit")
    problems += _purpose_problems(key)
    if key.profile not in profiles:
        problems.append(f"there is no profile {key.profile!r} (there are: {', '.join(sorted(profiles))})")
    problems += _lifecycle_problems(key, served_max_age, profiles.get(key.profile))
    if any(not alias or len(alias) > 255 for alias in key.keyid_aliases):
        problems.append("a keyid alias has 1 to 255 characters")
    if problems:
        raise InvalidArgumentError(f"key {key.name[:63]!r}: " + "; ".join(problems))


def check_kid(kid: str, name: str, snapshot: Snapshot) -> None:
    """Refuse a kid that an operator chose for a version of key ``name``, where ``snapshot`` has it or another key will.

    Raises:
        AlreadyExistsError: it is not free.
    """
    if snapshot.has_kid(kid) or _will_be_anothers(kid, name, snapshot):
        raise AlreadyExistsError(f"kid {kid!r} is on record already, or kept for another key; a kid is never reused")


def longest_lifetime(key: Key, profile: Profile) -> float:
    """Return for how long, in seconds, the longest-lived of what ``profile`` lets the key sign is valid."""
    lifetimes = [0.0]
    if Purpose.HTTP in key.purposes or Purpose.DIRECTORY in key.purposes:
        lifetimes.append(profile.max_expires_in)
    if Purpose.JWT in key.purposes:
        lifetimes.append(profile.max_jwt_lifetime)
    return max(lifetimes)


def _will_be_anothers(kid: str, name: str, snapshot: Snapshot) -> bool:
    """Say whether a version of another key will have this kid: who takes it keeps that key from rotating."""
    other, _, number = kid.rpartition("-")
    view = snapshot.keys.get(other)
    return other != name and view is not None and view.key.kid_format is KidFormat.NAME_VERSION and number.isdecimal()


def _purpose_problems(key: Key) -> list[str]:
    if not key.purposes:
        return ["a key needs at least one purpose"]
    alone = len(key.purposes) == 1
    problems = []
    if Purpose.RAW in key.purposes and not alone:
        problems.append("a key with purpose raw can have no other purpose: raw signs anything, a base or a token included")
    if Purpose.AUDIT in key.purposes and (key.publish or not alone):
        problems.append("a key with purpose audit can have no other purpose, and is not published")
    return problems


def _lifecycle_problems(key: Key, served_max_age: float, profile: Profile | None) -> list[str]:
    lifecycle, floor = key.lifecycle, 2 * served_max_age
    problems = []
    if lifecycle.publish_lead < floor:
        problems.append(
            f"publish_lead is at least {floor:g} s, twice the max-age of the JWK Set, so that verifiers know a key before it signs"
        )
    if lifecycle.retention < served_max_age:
        problems.append(f"retention is at least {served_max_age:g} s, the max-age of the JWK Set")
    longest = 0.0 if profile is None else longest_lifetime(key, profile)
    if lifecycle.retention < longest:
        problems.append(
            f"retention is at least {longest:g} s: its profile {key.profile!r} lets it sign what is valid for as long, "
            "and that must be verified until it expires"
        )
    if lifecycle.sign_grace < 0:
        problems.append("sign_grace is not negative")
    # The next version is published while this one is active, and half of the period is left for making it.
    if not isinf(lifecycle.rotation_period) and lifecycle.rotation_period < 2 * lifecycle.publish_lead:
        problems.append(f"rotation_period is at least {2 * lifecycle.publish_lead:g} s, twice the publish_lead")
    if lifecycle.destroy_after < 0:
        problems.append("destroy_after is not negative")
    return problems
