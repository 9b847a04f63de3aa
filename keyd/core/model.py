"""Keys and key versions: frozen values, no I/O."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from backends.api import Algorithm
from keyd.core.errors import InvalidArgumentError
from keyd.core.timeline import LifecyclePolicy, Timeline

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class Purpose(enum.Enum):
    """What a key may sign."""

    HTTP = "http"
    JWT = "jwt"
    DIRECTORY = "directory"
    RAW = "raw"
    AUDIT = "audit"  # heads of the audit trail, which only keyd itself has signed


class KidFormat(enum.Enum):
    """How kids are made."""

    THUMBPRINT = "thumbprint"
    NAME_VERSION = "name-version"


@dataclass(frozen=True, slots=True)
class Key:
    """A named logical key. It has versions, and no material itself."""

    name: str
    algorithm: Algorithm
    backend: str
    purposes: frozenset[Purpose]
    profile: str
    kid_format: KidFormat
    keyid_aliases: tuple[str, ...]
    publish: bool
    lifecycle: LifecyclePolicy
    created_at: float
    disabled_at: float | None = None


@dataclass(frozen=True, slots=True)
class KeyVersion:
    """One key pair of a key. ``handle`` is None once the private key is destroyed for certain."""

    key: str
    version: int
    kid: str
    thumbprint: str
    public_jwk: str  # canonical JSON without `kid`, `alg`, `use`
    handle: str | None
    timeline: Timeline
    compromise_reason: str = ""


def check_new_key(key: Key, *, served_max_age: float, profiles: frozenset[str]) -> None:
    """Refuse a key that cannot be. ``served_max_age`` is how long, in seconds, a JWK Set may be cached.

    Raises:
        InvalidArgumentError: says what is wrong, all of it.
    """
    lifecycle, floor = key.lifecycle, 2 * served_max_age
    problems = []
    if not NAME.fullmatch(key.name):
        problems.append("a key name is 1 to 63 of A-Z a-z 0-9 . _ - and starts with a letter or digit")
    problems += _purpose_problems(key)
    if key.profile not in profiles:
        problems.append(f"there is no profile {key.profile!r} (there are: {', '.join(sorted(profiles))})")
    if lifecycle.publish_lead < floor:
        problems.append(
            f"publish_lead is at least {floor:g} s, twice the max-age of the JWK Set, so that verifiers know a key before it signs"
        )
    if lifecycle.retention < served_max_age:
        problems.append(f"retention is at least {served_max_age:g} s, the max-age of the JWK Set")
    if lifecycle.sign_grace < 0:
        problems.append("sign_grace is not negative")
    if any(not alias or len(alias) > 255 for alias in key.keyid_aliases):
        problems.append("a keyid alias has 1 to 255 characters")
    if problems:
        raise InvalidArgumentError(f"key {key.name[:63]!r}: " + "; ".join(problems))


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
