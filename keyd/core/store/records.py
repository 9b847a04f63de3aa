"""What the store keeps beside keys and versions."""

from __future__ import annotations

from dataclasses import dataclass

from keyd.core.model import Key, KeyVersion


@dataclass(frozen=True, slots=True)
class Intent:
    """A note, written before the backend is called, that a version is about to be made there.

    If the process dies, whatever the backend holds under this name and version belongs to nobody and is removed.
    """

    key: str
    version: int
    backend: str


@dataclass(frozen=True, slots=True)
class Records:
    """Everything that is stored."""

    keys: tuple[Key, ...]
    versions: tuple[KeyVersion, ...]
    intents: tuple[Intent, ...]
