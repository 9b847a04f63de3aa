"""Backups between SQLite and PostgreSQL."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from backup_support import (
    configured,
    keys_of,
    made,
    on_record,
    passed_on,
)
from components.postgres import Database
from older_databases import KEK, SCHEMAS, lay_out
from sqlalchemy import Connection
from support import START

from keyd import backup as backups
from keyd.config import Config
from keyd.core.errors import StoreUnavailableError
from keyd.core.model import KeyVersion
from keyd.core.sessions.revocations import Revoked
from keyd.core.store import CheckpointRow, Intent, SqlStore, dump, migrate
from keyd.core.store.database import Sqlite
from keyd.core.store.dump import DumpError


def in_postgres(database: Database) -> dict[tuple[str, int], KeyVersion]:
    with closing(SqlStore.on_postgres(database.conninfo, replica_name="one")) as store:
        return {(version.key, version.version): version for version in store.load().versions}


@pytest.mark.parametrize("schema", [*SCHEMAS, "newest"])
def test_from_sqlite_into_postgresql_and_back(
    schema: str, source: Config, shared: tuple[Config, Database], tmp_path: Path
) -> None:
    there, database = shared
    if schema != "newest":
        old = tmp_path / "old"
        old.mkdir()
        lay_out(schema, old)
        source = configured(old)
    first = passed_on(made(source))
    backups.restore(there, first, skip=0)
    second = passed_on(made(there))
    assert second.backup.schema == max(migrate.known())
    assert second.records.versions and set(second.records.versions) == set(first.records.versions)
    assert {replace(key, change=0) for key in second.records.keys} == {replace(key, change=0) for key in first.records.keys}
    assert second.files("file") == first.files("file")
    back = tmp_path / "back"
    back.mkdir()
    (back / "kek").write_bytes(KEK)
    (back / "kek").chmod(0o400)
    backups.restore(configured(back), second, skip=0)
    assert on_record(configured(back)) == in_postgres(database)
    third = passed_on(made(configured(back)))
    assert third.backup.members == second.backup.members


def test_a_restored_postgresql_counts_on(source: Config, shared: tuple[Config, Database]) -> None:
    there, database = shared
    backups.restore(there, passed_on(made(source)))
    with closing(SqlStore.on_postgres(database.conninfo, replica_name="one")) as store:
        store.add_checkpoint(CheckpointRow(30, "3" * 64, "/audit", START))
    assert [row[0] for row in database.execute("SELECT id FROM audit_checkpoints ORDER BY id")] == [1, 2, 3]


def test_postgresql_must_be_empty_and_unused(source: Config, shared: tuple[Config, Database]) -> None:
    there, database = shared
    contents = passed_on(made(source))
    with closing(SqlStore.on_postgres(database.conninfo, replica_name="two")) as store:
        store.register("two")
        with pytest.raises(DumpError, match="a daemon uses the database"):
            backups.restore(there, contents)
        store.leave()
    backups.restore(there, contents)
    with pytest.raises(DumpError, match="is not empty"):
        backups.restore(there, contents)


def test_a_replica_that_starts_meanwhile_waits_and_sees_everything(
    source: Config, shared: tuple[Config, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    there, database = shared
    contents = passed_on(made(source))
    with closing(SqlStore.on_postgres(database.conninfo, replica_name="two")) as store, ThreadPoolExecutor() as pool:
        starting: list[Future[int]] = []

        def start() -> int:
            store.register("two")
            return len(store.load().versions)

        def fill_all(connection: Connection, rows: dump.Dump) -> None:
            starting.append(pool.submit(start))
            deadline = time.monotonic() + 30
            while not starting[0].done() and not database.execute("SELECT 1 FROM pg_locks WHERE NOT granted"):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            original(connection, rows)

        original = dump._fill_all
        monkeypatch.setattr(dump, "_fill_all", fill_all)
        backups.restore(there, contents)
        assert starting[0].result(30) == len(contents.records.versions)


def test_postgresql_that_is_away_is_said(source: Config, shared: tuple[Config, Database]) -> None:
    there, database = shared
    contents = passed_on(made(source))
    database.drop()
    with pytest.raises(StoreUnavailableError) as caught:
        backups.restore(there, contents)
    assert "postgresql://" not in str(caught.value)
    assert not keys_of(there).exists()


def test_a_writer_does_not_change_what_is_read(source: Config) -> None:
    """The rows are those of one moment, and a daemon that writes meanwhile waits for nobody."""
    path = source.server.state_dir / "keyd.db"
    with closing(Sqlite(path)) as reader, reader.reading() as connection:
        before = connection.exec_driver_sql("SELECT count(*) FROM version_numbers").scalar_one()
        with closing(SqlStore(path)) as writer:
            writer.begin_version(Intent("born-now", 1, ""))
        assert connection.exec_driver_sql("SELECT count(*) FROM version_numbers").scalar_one() == before
    assert b"born-now" in made(source).members["tables/version_numbers.jsonl"]


def test_revoked_tokens_are_in_a_backup(source: Config, shared: tuple[Config, Database], tmp_path: Path) -> None:
    token = Revoked("https://agents.example", "one", START + 3600, START)
    with closing(SqlStore(source.server.state_dir / "keyd.db")) as store:
        store.revoke([token], START)
    there, database = shared
    with closing(SqlStore.on_postgres(database.conninfo, replica_name="one")) as store:
        store.revoke([token], START)
        with pytest.raises(DumpError, match="table revoked_tokens has 1 rows"):
            backups.restore(there, passed_on(made(source)))
        store.revoke([], START + 3600)  # it is over then, and leaves
    backups.restore(there, passed_on(made(source)))
    with closing(SqlStore.on_postgres(database.conninfo, replica_name="one")) as store:
        found, change = store.revoked()
        assert found == [token]
        store.revoke([replace(token, token_id="two")], START)
        assert [each.token_id for each in store.revoked(change)[0]] == ["two"], "changes are counted on"
