"""Makes backups for tests, and looks at what a restore left."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from support import START

from keyd import backup as backups
from keyd import config
from keyd.config import Config
from keyd.core.backup import Backup, Contents
from keyd.core.model import KeyVersion
from keyd.core.store import SqlStore, tables

CONFIG = """
[server]
state_dir = "{directory}/state"
socket = "{directory}/keyd.sock"
[backends.file]
type = "file"
kek = {{ file = "{directory}/kek" }}
"""


def configured(directory: Path, text: str = CONFIG) -> Config:
    path = directory / "keyd.toml"
    path.write_text(text.format(directory=directory))
    return config.load(path)


def keys_of(at: Config) -> Path:
    return at.server.state_dir / "backends/file/keys"


def database(at: Config) -> sqlite3.Connection:
    return sqlite3.connect(at.server.state_dir / "keyd.db")


def made(at: Config) -> Backup:
    return backups.create(at, lambda: START)


def passed_on(backup: Backup) -> Contents:
    """Return what a reader gets."""
    stream = io.BytesIO()
    backup.write(stream)
    stream.seek(0)
    return Contents.of(Backup.read(stream))


def on_record(at: Config) -> dict[tuple[str, int], KeyVersion]:
    with closing(SqlStore(at.server.state_dir / "keyd.db")) as store:
        return {(version.key, version.version): version for version in store.load().versions}


def with_rows(backup: Backup, table: str, change: Callable[[list[dict[str, object]]], object]) -> Backup:
    """Return a backup with other rows in a table, and a manifest that says so."""
    name = f"tables/{table}.jsonl"
    rows = [json.loads(line) for line in backup.members[name].splitlines()]
    change(rows)
    return replace(backup, members={**backup.members, name: b"".join(json.dumps(row).encode() + b"\n" for row in rows)})


def names() -> set[str]:
    """Return the tables that belong in a backup: all but those that say which processes and releases use the database."""
    return set(tables.metadata.tables) - {"replicas", "compatibility"}


def numbers_of(at: Config) -> dict[str, int]:
    with closing(database(at)) as connection:
        return dict(connection.execute("SELECT key, last FROM version_numbers").fetchall())


def record(
    operation: str, key: str, version: int | None = None, *, at: str = "2027-01-15T09:00:00.000000Z", detail: str = "done"
) -> dict[str, object]:
    members = {"seq": 1, "time": at, "operation": operation, "decision": "allow", "key": key, "detail": detail, "prev": "0" * 64}
    return members if version is None else {**members, "version": version}


def with_trail(at: Config, *records: dict[str, object]) -> None:
    (at.server.state_dir / "audit").mkdir(parents=True)
    lines = [json.dumps({**each, "seq": number}) + "\n" for number, each in enumerate(records, 1)]
    (at.server.state_dir / "audit/audit.jsonl").write_text("".join(lines))
