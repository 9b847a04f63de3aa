"""Keys and key versions: frozen values, no I/O."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from backends.api import Algorithm
from keyd.core.timeline import LifecyclePolicy, Timeline

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class Purpose(enum.Enum):
    """What a key may sign."""

    HTTP = "http"
    JWT = "jwt"
    DIRECTORY = "directory"
    RAW = "raw"
    AUDIT = "audit"  # heads of the audit trail, which only keyd itself has signed

    __hash__ = object.__hash__  # members are looked up for each signature, and the hash of an enum runs Python code


class KidFormat(enum.Enum):
    """How kids are made."""

    THUMBPRINT = "thumbprint"
    NAME_VERSION = "name-version"


@dataclass(frozen=True, slots=True)
class Key:
    """A named logical key. It has versions, and no material itself.

    Attributes:
        keyid_aliases: further values of ``keyid`` that mean this key.
        publish: whether its public keys belong in JWK Sets.
        disabled_at: None unless it is disabled.
        paused_at: None unless its rotation is held.
        promised_until: until when its versions stay published whatever its lifecycle says now, because it said more before.
        change: number of the change that wrote the key or one of its versions last; 0 while it is not on record.
    """

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
    paused_at: float | None = None
    promised_until: float = 0.0
    change: int = 0


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
