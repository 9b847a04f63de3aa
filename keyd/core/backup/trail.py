"""What the audit trail remembers of the time after a backup, so that a restore does not bring back what was ended meanwhile."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
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
_MOST = 10_000  # changes that are told one by one


@dataclass(frozen=True, slots=True)
class Memory:
    """What was done after a moment.

    Attributes:
        changes: records of operators' calls that were carried out, oldest first.
        numbers: the highest version number that is on record for each key.
        compromised: when versions were marked compromised, in seconds since the epoch.
        destroyed: when versions were destroyed.
        disabled: when keys were disabled; None for those that were enabled last.
    """

    changes: tuple[Record, ...]
    numbers: dict[str, int]
    compromised: dict[tuple[str, int], float]
    destroyed: dict[tuple[str, int], float]
    disabled: dict[str, float | None]


def remembered(paths: Iterable[Path], since: str) -> Memory:
    """Read the trail in these files from a time on, RFC 3339 in UTC. Raises OSError."""
    changes: list[Record] = []
    memory = Memory((), {}, {}, {}, {})
    for record in search.matching(paths, search.Filter((("decision", "allow"),), since=since)):
        key, version = record.text("key"), record.number("version")
        if key and (version is not None or record.operation in _CREATIONS):
            memory.numbers[key] = max(memory.numbers.get(key, 0), version or 1)
        # Each call leaves a record before, and one that says how it ended; only the second says that it was carried out.
        if record.operation in _CHANGES and record.text("detail").startswith("done"):
            if len(changes) < _MOST:
                changes.append(record)
            _note(memory, record, key, version)
    return Memory(tuple(changes), memory.numbers, memory.compromised, memory.destroyed, memory.disabled)


def _note(memory: Memory, record: Record, key: str, version: int | None) -> None:
    at = datetime.fromisoformat(record.time).timestamp()
    if record.operation == "compromise_version" and version is not None:
        memory.compromised.setdefault((key, version), at)
    elif record.operation == "destroy_version" and version is not None:
        memory.destroyed.setdefault((key, version), at)
    elif record.operation in ("disable_key", "enable_key"):
        memory.disabled[key] = at if record.operation == "disable_key" else None
