"""What a backup holds, and whether it is whole: found out by restoring it into a database that is thrown away."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from math import isinf
from pathlib import Path
from typing import Any, NoReturn

from joserfc.errors import JoseError

from keyd.core import jwk
from keyd.core.backup.container import Backup, BackupError
from keyd.core.errors import StoreUnavailableError
from keyd.core.model import KeyVersion
from keyd.core.store import Records, SqlStore
from keyd.core.store import dump as dumps
from keyd.core.store.database import Sqlite
from keyd.core.store.dump import Dump, DumpError, Row


def table_member(name: str) -> str:
    """Return the name of the member that has the rows of a table."""
    return f"tables/{name}.jsonl"


def to_lines(rows: tuple[Row, ...]) -> bytes:
    """Return rows as JSON objects, one a line."""
    return b"".join(json.dumps(row, separators=(",", ":"), allow_nan=False).encode() + b"\n" for row in rows)


def records_of(dump: Dump) -> Records:
    """Return what a dump has on record, as this keyd sees it.

    Raises:
        DumpError: its rows are not those of a database.
        StoreUnavailableError: a database does not take them.
    """
    with tempfile.TemporaryDirectory(prefix="keyd-") as directory:  # of metadata only, and closed to others
        path = Path(directory) / "keyd.db"
        with closing(Sqlite(path)) as database:
            dumps.restore(database, dump)
        with closing(SqlStore(path)) as store:
            try:
                return store.load()
            except ValueError as exc:
                raise DumpError(f"a row has a value that keyd does not know: {exc}") from exc


def needed(records: Records, backend: str) -> dict[str, KeyVersion]:
    """Return the versions whose private keys a backend has to hold, by handle. What is being destroyed is not needed."""
    backends = {key.name: key.backend for key in records.keys}
    return {
        version.handle: version
        for version in records.versions
        if version.handle is not None and isinf(version.timeline.destroyed_at) and backends[version.key] == backend
    }


def handles(dump: Dump) -> dict[str, set[str]]:
    """Return the same as :func:`needed`, of every backend that keys are in, as fast as can be: stores change meanwhile."""
    backends = {row["name"]: row["backend"] for row in dump.tables["keys"]}
    found: dict[str, set[str]] = {backend: set() for backend in sorted(backends.values())}
    for row in dump.tables["versions"]:
        if row["handle"] is not None and row["destroyed_at"] is None:
            found[backends[row["key"]]].add(row["handle"])
    return found


@dataclass(frozen=True, slots=True)
class Contents:
    """A backup that was found to be whole."""

    backup: Backup
    dump: Dump
    records: Records

    @classmethod
    def of(cls, backup: Backup) -> Contents:
        """Look at everything in a backup.

        Raises:
            BackupError: it is not what keyd wrote, or of a newer keyd.
        """
        tables: dict[str, tuple[Row, ...]] = {}
        for name, content in backup.members.items():
            kind, _, rest = name.partition("/")
            if kind == "tables":
                tables[rest.removesuffix(".jsonl")] = _rows(name, content)
        dump = Dump(backup.schema, tables)
        try:
            records = records_of(dump)
        except (DumpError, StoreUnavailableError) as exc:
            raise BackupError(f"the backup cannot be restored: {exc}") from exc
        contents = cls(backup, dump, records)
        contents._check()
        return contents

    def files(self, backend: str) -> dict[str, bytes]:
        """Return the files of a backend, by name."""
        prefix = f"backends/{backend}/"
        return {name.removeprefix(prefix): content for name, content in self.backup.members.items() if name.startswith(prefix)}

    @property
    def interrupted(self) -> tuple[tuple[str, int], ...]:
        """Key and number of the versions that were being made when the backup was made."""
        return tuple((str(row["key"]), int(row["version"])) for row in self.dump.tables.get("intents", ()))

    def _check(self) -> None:
        for version in self.records.versions:
            _check_public_key(version)
            if version.handle is None and isinf(version.timeline.destroyed_at):
                raise BackupError(f"version {version.version} of key {version.key!r} has no private key, and was not destroyed")
        for key in self.records.keys:
            if key.backend not in self.backup.backends:
                raise BackupError(f"the manifest does not name backend {key.backend!r} of key {key.name!r}")
        for name, part in self.backup.backends.items():
            files = self.files(name)
            if not part.private_keys and files:
                raise BackupError(f"the manifest says that no private keys of backend {name!r} are there, and there are")
            missing = sorted(set(needed(self.records, name)) - set(files)) if part.private_keys else []
            if missing:
                raise BackupError(f"the private key {missing[0]} of backend {name!r} is missing; take another backup")


def _rows(name: str, content: bytes) -> tuple[Row, ...]:
    rows: list[Row] = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            row: Any = json.loads(line, parse_constant=_no_number)
        except (ValueError, RecursionError) as exc:
            raise BackupError(f"line {number} of {name} is not JSON") from exc
        if not isinstance(row, Mapping):
            raise BackupError(f"line {number} of {name} is not an object")
        rows.append(row)
    return tuple(rows)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _check_public_key(version: KeyVersion) -> None:
    try:
        sound = jwk.from_public_key(jwk.to_public_key(version.public_jwk)) == (version.public_jwk, version.thumbprint)
    except (ValueError, KeyError, TypeError, JoseError):
        sound = False
    if not sound:
        raise BackupError(f"the public key of version {version.version} of key {version.key!r} is not the one of its thumbprint")
