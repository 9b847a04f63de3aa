"""What the audit trail remembers of the time after a backup, so that a restore does not bring back what was ended meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from keyd.core.audit import search
from keyd.core.audit.record import Record

#: Operators' calls that change a key. What else is on record are signatures, looks, and events of the trail itself.
_CREATIONS = frozenset({"create_key", "import_key", "adopt_key"})
_CHANGES = _CREATIONS | {
    *("rotate_key", "rollback_key", "pause_key", "resume_key", "update_key"),
    *("disable_key", "enable_key", "compromise_version", "destroy_version"),
}
#: Those that name a version which is on record already.
_NAMING = frozenset({"compromise_version", "destroy_version"})
_SWITCHES = frozenset({"disable_key", "enable_key"})
_MOST = 10_000  # changes that are told one by one


@dataclass(frozen=True, slots=True)
class Memory:
    """What was done after a moment.

    Attributes:
        changes: records of operators' calls that were carried out, oldest first.
        numbers: the highest version number that is on record for each key.
        compromised: when versions were marked compromised, in seconds since the epoch.
        destroyed: when versions were destroyed.
        disabled: when keys were disabled that were not enabled again.
        enabled: when keys were enabled that were not disabled again.
    """

    changes: tuple[Record, ...]
    numbers: dict[str, int]
    compromised: dict[tuple[str, int], float]
    destroyed: dict[tuple[str, int], float]
    disabled: dict[str, float]
    enabled: dict[str, float]


def remembered(paths: Iterable[Path], since: str) -> Memory:
    """Read what trails have from a time on, RFC 3339 in UTC. The files may be of several replicas. Raises OSError."""
    changes: list[Record] = []
    memory = Memory((), {}, {}, {}, {}, {})
    for record in search.matching(paths, search.Filter((("decision", "allow"),), since=since)):
        key, version = record.text("key"), record.number("version")
        # Each call leaves a record before, and one that says how it ended; only the second says that it was carried out.
        done = record.text("detail").startswith("done")
        if record.operation in _NAMING and not done:
            version = None  # what an operator typed, not the number of anything
        if key and (version is not None or record.operation in _CREATIONS):
            memory.numbers[key] = max(memory.numbers.get(key, 0), version or 1)
        if record.operation in _CHANGES and done:
            if len(changes) < _MOST:
                changes.append(record)
            _note(memory, record, key, version, _time(record, since))
    return replace(memory, changes=tuple(sorted(changes, key=lambda record: record.time)))


def _note(memory: Memory, record: Record, key: str, version: int | None, at: float) -> None:
    if record.operation == "compromise_version" and version is not None:
        memory.compromised.setdefault((key, version), at)
    elif record.operation == "destroy_version" and version is not None:
        memory.destroyed.setdefault((key, version), at)
    elif record.operation in _SWITCHES and at >= memory.disabled.get(key, memory.enabled.get(key, at)):
        this, other = (memory.disabled, memory.enabled)[:: 1 if record.operation == "disable_key" else -1]
        this[key] = at
        other.pop(key, None)


def _time(record: Record, since: str) -> float:
    """Return the time of a record in seconds since the epoch; ``since`` where that is damaged."""
    for text in (record.time, since):
        with contextlib.suppress(ValueError):
            return datetime.fromisoformat(text).timestamp()
    raise ValueError(since)
