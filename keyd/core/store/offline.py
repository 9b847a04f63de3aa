"""Reads what a reader of the audit trail needs from a metadata database, without a daemon and without changing anything."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from keyd.core.errors import StoreUnavailableError
from keyd.core.model import Purpose


@dataclass(frozen=True, slots=True)
class AuditFacts:
    """What a database knows of the audit trail.

    Attributes:
        checkpoints: sequence number and digest of the records that have them.
        public_jwks: the JWK Set of every version of every audit key: another may have been configured before.
    """

    checkpoints: tuple[tuple[int, str], ...]
    public_jwks: dict[str, Any]


def audit_facts(path: Path) -> AuditFacts:
    """Return what the SQLite database at ``path`` knows.

    Raises:
        StoreUnavailableError: it cannot be read, or is of a keyd that kept no trail yet.
    """
    problem: sqlite3.Error | None = None
    for mode in ("mode=ro", "immutable=1"):  # the second for a copy where SQLite may not write its lock
        try:
            with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?{mode}", uri=True, timeout=5)) as database:
                return _facts(database)
        except sqlite3.Error as exc:
            problem = problem or exc
    raise StoreUnavailableError(f"cannot read the metadata database {path}: {problem}") from problem


def _facts(database: sqlite3.Connection) -> AuditFacts:
    checkpoints = database.execute("SELECT seq, head FROM audit_checkpoints ORDER BY id").fetchall()
    versions = database.execute(
        "SELECT kid, public_jwk, algorithm, purposes, compromised_at FROM versions JOIN keys ON keys.name = versions.key"
    ).fetchall()
    jwks = [
        {**json.loads(public), "kid": kid, "alg": algorithm, "compromised": compromised_at is not None}
        for kid, public, algorithm, purposes, compromised_at in versions
        if json.loads(purposes) == [Purpose.AUDIT.value]  # a key that only keyd makes
    ]
    return AuditFacts(tuple((int(seq), str(head)) for seq, head in checkpoints), {"keys": jwks})
