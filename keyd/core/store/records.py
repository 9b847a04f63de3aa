"""What the store keeps beside keys and versions."""

from __future__ import annotations

from dataclasses import dataclass

from keyd.core.model import Key, KeyVersion


@dataclass(frozen=True, slots=True)
class Intent:
    """A note that a version is about to be made in a backend, written when it is known that nothing is in its place.

    If the process dies, what the backend holds under this name and version then is this version, which nobody was told of.
    """

    key: str
    version: int
    #: Empty when the version is there already, to be adopted.
    backend: str
    #: The id of the process that makes it; see :attr:`SqlStore.replica`.
    owner: str = ""


#: How many checkpoints of the audit trail are kept.
KEEP_CHECKPOINTS = 1000


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """A checkpoint of the audit trail: the record that has it, by sequence number and digest, and the directory of the trail."""

    seq: int
    head: str
    file: str
    at: float


@dataclass(frozen=True, slots=True)
class Records:
    """What is stored: everything, or what changed since.

    Attributes:
        keys: those that changed, or one of whose versions did.
        versions: all of those keys.
        intents: all of them, in any case.
        change: number of the newest change.
    """

    keys: tuple[Key, ...]
    versions: tuple[KeyVersion, ...]
    intents: tuple[Intent, ...]
    change: int = 0
