"""Reads what a reader of the audit trail needs from a metadata database, without a daemon and without changing anything.

Also from a database that an older or a newer keyd left, whose schema is another.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from keyd.core.errors import StoreUnavailableError
from keyd.core.model import Purpose

_CHECKPOINTS = "SELECT seq, head FROM audit_checkpoints"
_AUDIT_KEYS = "SELECT kid, public_jwk, algorithm, purposes, compromised_at FROM versions JOIN keys ON keys.name = versions.key"


@dataclass(frozen=True, slots=True)
class AuditFacts:
    """What a database knows of the audit trail.

    Attributes:
        checkpoints: sequence number and digest of the records that have them.
        public_jwks: the JWK Set of every version of every audit key: another may have been configured before.
    """

    checkpoints: tuple[tuple[int, str], ...]
    public_jwks: dict[str, Any]


def audit_facts(path: Path, owner: str = "") -> AuditFacts:
    """Return what the SQLite database at ``path`` knows.

    Args:
        path: of its file.
        owner: whose trail; empty for that of the first worker, or of the only process.

    Raises:
        StoreUnavailableError: it cannot be read, or is of a keyd that kept no trail yet.
    """
    problem: sqlite3.Error | None = None
    for mode in ("mode=ro", "immutable=1"):  # the second for a copy where SQLite may not write its lock
        try:
            with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?{mode}", uri=True, timeout=5)) as database:
                return _facts(_checkpoints_of(database, owner), database.execute(_AUDIT_KEYS).fetchall())
        except sqlite3.Error as exc:
            problem = problem or exc
    raise StoreUnavailableError(f"cannot read the metadata database {path}: {problem}") from problem


def _checkpoints_of(database: sqlite3.Connection, owner: str) -> list[Any]:
    columns = {name for _, name, *_ in database.execute("PRAGMA table_info(audit_checkpoints)")}
    if "replica" not in columns:  # of a release in which there was one trail
        return database.execute(f"{_CHECKPOINTS} ORDER BY id").fetchall() if not owner else []
    return database.execute(f"{_CHECKPOINTS} WHERE replica = ? ORDER BY id", [owner]).fetchall()


def shared_audit_facts(conninfo: str, replica: str) -> AuditFacts:
    """Return what a PostgreSQL database knows of the trail of one replica.

    Args:
        conninfo: for libpq, with the password if there is one. Never shown.
        replica: the name of the replica.

    Raises:
        StoreUnavailableError: it cannot be read, or is of a keyd that kept no trail yet.
    """
    import psycopg

    from keyd.core.store.postgres import connect

    try:
        with contextlib.closing(connect(conninfo)) as database:
            database.isolation_level, database.read_only = psycopg.IsolationLevel.REPEATABLE_READ, True
            own = database.execute(f"{_CHECKPOINTS} WHERE replica = %s ORDER BY id", [replica]).fetchall()
            return _facts(own, database.execute(_AUDIT_KEYS).fetchall())
    except psycopg.Error as exc:
        cause = " ".join((exc.diag.message_primary or str(exc)).split())
        raise StoreUnavailableError(f"cannot read the metadata database: {cause}") from exc


def _facts(checkpoints: Sequence[Any], versions: Sequence[Any]) -> AuditFacts:
    jwks = [
        {**json.loads(public), "kid": kid, "alg": algorithm, "compromised": compromised_at is not None}
        for kid, public, algorithm, purposes, compromised_at in versions
        # Of a key that only keyd makes. PostgreSQL's driver has read the JSON already.
        if (json.loads(purposes) if isinstance(purposes, str) else purposes) == [Purpose.AUDIT.value]
    ]
    return AuditFacts(tuple((int(seq), str(head)) for seq, head in checkpoints), {"keys": jwks})
