"""Backups: what a restore brings back, and what it does not replace."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from backup_support import (
    CONFIG,
    configured,
    database,
    keys_of,
    made,
    names,
    on_record,
    passed_on,
    with_rows,
)
from older_databases import IN_GRACE, KEK, LEFT_OVER, SCHEMAS, STATES, lay_out
from support import START

from backends.api import Backend
from backends.errors import BackendConfigError, BackendError, KeyExistsError
from keyd import backup as backups
from keyd import plugins, process
from keyd.config import Config
from keyd.core.backup import BackendPart, BackupError
from keyd.core.backup.contents import needed
from keyd.core.store import Intent, SqlStore, dump, migrate, tables
from keyd.core.store.database import Sqlite
from keyd.core.store.dump import DumpError


def test_a_restore_brings_everything_back(source: Config, empty: Config) -> None:
    done = backups.restore(empty, passed_on(made(source)))
    assert on_record(empty) == on_record(source)
    assert done.proved == len({path.name for path in keys_of(source).glob("*.key")} - LEFT_OVER) > 15
    for path in keys_of(empty).iterdir():
        assert path.read_bytes() == (keys_of(source) / path.name).read_bytes()
        assert path.stat().st_mode & 0o777 == 0o400
    with closing(database(source)) as before, closing(database(empty)) as after:
        for name in sorted(names() - {"intents", "version_numbers"}):
            order = ", ".join(column.name for column in tables.metadata.tables[name].primary_key)
            query = f"SELECT * FROM {name} ORDER BY {order}"
            columns = tuple(tables.metadata.tables[name].c.keys())
            query = query.replace("*", ", ".join(f'"{column}"' for column in columns))
            assert after.execute(query).fetchall() == before.execute(query).fetchall(), name


def test_a_backend_type_is_not_looked_up_for_each_key(source: Config, empty: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up reads the metadata of every installed distribution, which takes longer than all else that is done for a key."""
    looked: list[str] = []

    def load(name: str) -> type[Backend]:
        looked.append(name)
        return original(name)

    original = plugins.load
    monkeypatch.setattr(plugins, "load", load)
    contents = passed_on(made(source))
    backups.restore(empty, contents)
    assert len(contents.records.keys) > 5 >= len(looked)


def test_no_version_number_is_given_out_twice(source: Config, empty: Config) -> None:
    with closing(database(source)) as connection:
        before = dict(connection.execute("SELECT key, last FROM version_numbers").fetchall())
    done = backups.restore(empty, passed_on(made(source)))
    assert set(done.contents.interrupted) == {("active", 2), ("never-made", 1)}
    with closing(database(empty)) as connection:
        after = dict(connection.execute("SELECT key, last FROM version_numbers").fetchall())
        assert connection.execute("SELECT count(*) FROM intents").fetchone() == (0,), "what was being made may be in use by now"
    assert after == {key: last + backups.SKIP for key, last in before.items()}


def test_numbers_are_not_left_out_where_nothing_was_made_since(source: Config, empty: Config) -> None:
    backups.restore(empty, passed_on(made(source)), skip=0)
    with closing(database(empty)) as connection, closing(database(source)) as before:
        query = "SELECT * FROM version_numbers ORDER BY key"
        assert connection.execute(query).fetchall() == before.execute(query).fetchall()


def test_all_keys_can_be_disabled(source: Config, empty: Config) -> None:
    backups.restore(empty, passed_on(made(source)), disabled_at=START)
    with closing(database(empty)) as connection:
        times = dict(connection.execute("SELECT name, disabled_at FROM keys"))
    assert times.pop("disabled") < START, "since when it is disabled is not forgotten"
    assert set(times.values()) == {START}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_backup_of_an_older_schema_is_migrated(schema: str, tmp_path: Path, empty: Config) -> None:
    directory = tmp_path / "old"
    directory.mkdir()
    lay_out(schema, directory)
    contents = passed_on(made(configured(directory)))
    assert contents.backup.schema == schema
    with closing(database(configured(directory))) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (schema,), "making one changes nothing"
    backups.restore(empty, contents)
    states: dict[str, list[str]] = {}
    for (key, _), version in sorted(on_record(empty).items()):
        states.setdefault(key, []).append(version.timeline.state(START).value)
    assert states == {name: STATES[name] for name in states}
    assert len(states) >= 11
    with closing(database(empty)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (max(migrate.known()),)
        archived = connection.execute("SELECT count(*) FROM archive").fetchone()[0]
    assert archived == len(on_record(empty))
    assert set(on_record(empty)) >= IN_GRACE


def untouched(at: Config) -> bool:
    """Say whether a restore left nothing but its lock and an empty database."""
    return not keys_of(at).exists() and (not (at.server.state_dir / "keyd.db").exists() or on_record(at) == {})


def test_nothing_that_is_there_is_replaced(source: Config, empty: Config) -> None:
    contents = passed_on(made(source))
    backups.restore(empty, contents)
    before = (on_record(empty), {path.name: path.read_bytes() for path in keys_of(empty).iterdir()})
    with pytest.raises(DumpError, match=r"the database is not empty \(table keys has \d+ rows\); move it away"):
        backups.restore(empty, contents)
    (empty.server.state_dir / "keyd.db").rename(empty.server.state_dir / "away")
    path = keys_of(empty) / "grace.1.key"
    other = (keys_of(empty) / "grace.2.key").read_bytes()
    path.chmod(0o600)
    path.write_bytes(other)
    with pytest.raises(KeyExistsError, match=r"grace\.1\.key exists already and is another"):
        backups.restore(empty, contents)
    assert path.read_bytes() == other
    path.write_bytes(before[1][path.name])
    path.chmod(0o400)
    backups.restore(empty, contents)
    assert on_record(empty) == before[0]


def test_a_database_that_is_not_empty_keeps_the_private_keys_out_too(source: Config, empty: Config) -> None:
    contents = passed_on(made(source))
    empty.server.state_dir.mkdir(mode=0o700)
    with closing(SqlStore(empty.server.state_dir / "keyd.db")) as store:
        store.begin_version(Intent("another", 1, ""))
    with pytest.raises(DumpError, match=r"table version_numbers has 1 rows"):
        backups.restore(empty, contents)
    assert not keys_of(empty).exists()
    with closing(Sqlite(empty.server.state_dir / "keyd.db")) as there, pytest.raises(DumpError, match="is not empty"):
        dump.restore(there, contents.dump)  # looked at again where nobody can come between


def test_a_store_that_counts_and_is_in_no_backup(source: Config, empty: Config) -> None:
    """Its keys stay where they are: nothing of them is restored, proved, or left out."""
    backup = made(source)

    def moved(rows: list[dict[str, object]]) -> None:
        next(row for row in rows if row["name"] == "unlisted")["backend"] = "vault"

    members = {name: content for name, content in backup.members.items() if not name.endswith("/unlisted.1.key")}
    parts = {**backup.backends, "vault": BackendPart(type="vault", private_keys=False)}
    contents = passed_on(with_rows(replace(backup, members=members, backends=parts), "keys", moved))
    vault = '[backends.vault]\ntype = "vault"\naddress = "https://vault.example"\nauth = {{ token = {{ env = "T" }} }}\n'
    done = backups.restore(configured(empty.server.state_dir.parent, CONFIG + vault), contents)
    assert done.unproved == ("vault",)
    with closing(database(empty)) as connection:
        last = dict(connection.execute("SELECT key, last FROM version_numbers").fetchall())
    assert (last["unlisted"], last["disabled"]) == (1, 1 + backups.SKIP)


def test_the_daemon_must_not_run(source: Config, empty: Config) -> None:
    contents = passed_on(made(source))
    with process.lock_file(empty.server.state_dir / "lock"), pytest.raises(process.AlreadyRunningError):
        backups.restore(empty, contents)
    assert untouched(empty)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ('[backends.other]\ntype = "file"\n', "the configuration has none"),
        ('[backends.file]\ntype = "memory"\n', "the configuration has one of type 'memory'"),
    ],
)
def test_the_configuration_must_have_the_backends(source: Config, empty: Config, section: str, message: str) -> None:
    text = CONFIG[: CONFIG.index("[backends")] + section
    if "other" in section:
        text += '[defaults]\nbackend = "other"\n[audit]\nbackend = "other"\n'
    with pytest.raises(BackupError, match=message):
        backups.restore(configured(empty.server.state_dir.parent, text), passed_on(made(source)))
    assert untouched(empty)


def test_the_wrong_key_encryption_key_is_found_before_the_database_is_filled(source: Config, empty: Config) -> None:
    kek = empty.server.state_dir.parent / "kek"
    kek.chmod(0o600)
    kek.write_bytes(bytes(32))
    contents = passed_on(made(source))
    with pytest.raises(BackendConfigError, match="encrypted under another key-encryption key"):
        backups.restore(empty, contents)
    assert on_record(empty) == {}
    kek.write_bytes(KEK)
    backups.restore(empty, contents)
    assert on_record(empty) == on_record(source)


def test_no_key_encryption_key_is_made_for_files_that_have_one(source: Config, tmp_path: Path) -> None:
    directory = tmp_path / "first"
    directory.mkdir()
    there = replace(configured(directory, CONFIG.replace("kek =", "# kek =")), first_run_allowed=True)
    with pytest.raises(BackendError, match="is gone; restore it from its backup"):
        backups.restore(there, passed_on(made(source)))
    assert not list(directory.rglob("kek"))


def test_a_private_key_under_another_kid_is_found(source: Config, empty: Config) -> None:
    """Who can write to a backup cannot have a key sign as another: here two versions of the database change places."""
    contents = passed_on(made(source))
    one, two = (needed(contents.records, "file")[handle] for handle in ("active.1.key", "disabled.1.key"))

    def exchange(rows: list[dict[str, object]]) -> None:
        by_kid = {row["kid"]: row for row in rows}
        by_kid[one.kid]["handle"], by_kid[two.kid]["handle"] = two.handle, one.handle

    altered = passed_on(with_rows(contents.backup, "versions", exchange))
    with pytest.raises(BackupError, match="is not that of kid"):
        backups.restore(empty, altered)
    assert on_record(empty) == {}


def test_a_restore_that_fails_in_the_database_leaves_it_empty(
    source: Config, empty: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = passed_on(made(source))

    def fail(*_: object) -> None:
        raise DumpError("enough")

    with monkeypatch.context() as patch:
        patch.setattr(dump, "_catch_up", fail)
        with pytest.raises(DumpError, match="enough"):
            backups.restore(empty, contents)
    assert on_record(empty) == {}
    backups.restore(empty, contents)
    assert on_record(empty) == on_record(source)


def test_a_database_of_somebody_else_is_left_alone(source: Config, empty: Config) -> None:
    empty.server.state_dir.mkdir()
    with closing(database(empty)) as connection:
        connection.execute("CREATE TABLE accounts (id INTEGER)")
    with pytest.raises(DumpError, match="tables that are not keyd's"):
        backups.restore(empty, passed_on(made(source)))
