"""Databases of other releases: older ones are upgraded, newer ones are used as far as they say that they can be."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from stores import KINDS, Stores, add, opened, run, version
from support import START, new_key

from keyd.core.errors import StoreUnavailableError
from keyd.core.store import CheckpointRow, SqlStore, migrate
from keyd.core.store.offline import audit_facts

#: A migration of a later release, as one may be: what is added can be left out.
NEWER = """
import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("keys") as keys:
        keys.add_column(sa.Column("owner_team", sa.String(63)))
        keys.add_column(sa.Column("weight", sa.Integer, nullable=False, server_default="7"))
    op.add_column("versions", sa.Column("attestation", sa.Text))
    op.create_table("pins", sa.Column("kid", sa.String(255), primary_key=True))
"""


@pytest.fixture(params=KINDS)
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stores]:
    yield from opened(request.param, tmp_path)


def upgrade_by_a_later_release(store: SqlStore, directory: Path, oldest: str = "0003") -> None:
    """Do what the start of a later release does, which has one migration more than this one."""
    migrations = directory / "migrations"
    shutil.copytree(Path(migrate.__file__).with_name("migrations"), migrations)
    (migrations / "versions" / "0005_newer.py").write_text(NEWER)
    config = Config()
    config.set_main_option("script_location", str(migrations))
    with store._database.migrating() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    run(store, "UPDATE compatibility SET oldest = :oldest", oldest=oldest)


def test_a_running_keyd_goes_on_while_the_next_release_upgrades_the_database(stores: Stores, tmp_path: Path) -> None:
    store = stores.open()
    read = add(store)
    upgrade_by_a_later_release(store, tmp_path)
    assert store.load().keys == (read,)
    written = store.update(replace(read, disabled_at=START), [version(compromise_reason="stolen")])
    assert add(store, new_key("other")).change > written.change
    assert len(store.load(read.change).keys) == 2
    assert run(store, "SELECT DISTINCT weight, owner_team FROM keys") == [(7, None)]
    assert store.seen() > 0


def test_a_keyd_of_the_release_before_starts_on_it_too(stores: Stores, tmp_path: Path) -> None:
    first = stores.open()
    read = add(first)
    upgrade_by_a_later_release(first, tmp_path)
    second = stores.open("another")
    assert second.load().keys == (read,)
    second.update(read)
    assert run(second, "SELECT version_num FROM alembic_version") == [("0005",)], "it is left as it is"


def test_a_keyd_that_is_too_old_for_it_does_not_start_and_one_that_runs_writes_nothing(stores: Stores, tmp_path: Path) -> None:
    store = stores.open()
    store.register("one")
    read = add(store)
    upgrade_by_a_later_release(store, tmp_path, oldest="0005")
    reason = r"upgraded by a newer keyd; it needs one that knows schema 0005, and this one knows those up to 0004; upgrade keyd"
    with pytest.raises(StoreUnavailableError, match=reason):
        stores.open("another")
    calls = [lambda: store.update(read), lambda: add(store, new_key("other")), store.load, lambda: store.forget_handle(version())]
    for call in calls + ([store.seen] if store.shared else []):
        with pytest.raises(StoreUnavailableError, match=reason):
            call()
    assert run(store, "SELECT last FROM changes") == [(read.change,)]


def test_a_database_of_this_release_is_not_touched(stores: Stores) -> None:
    add(stores.open())
    before = stores.open("two").load()
    assert stores.open("three").load() == before


def old_database(path: Path, revision: str) -> None:
    """Make a SQLite database as a release with that schema left it, with two keys and an intent."""
    engine = create_engine(f"sqlite:///{path}")
    config = Config()
    config.set_main_option("script_location", "keyd.core.store:migrations")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()
    with closing(sqlite3.connect(path)) as database:
        for name, disabled in (("agent", None), ("off", START)):
            database.execute(
                "INSERT INTO keys VALUES (?, 'Ed25519', 'mem', '[\"http\"]', 'rfc9421', 'thumbprint', '[]', 1, 86400, 300, 172800, ?, ?)",
                [name, START, disabled],
            )
            database.execute(
                "INSERT INTO versions (key, version, kid, thumbprint, public_jwk, handle, created_at, publish_at, activate_at) "
                "VALUES (?, 1, ?, ?, '{}', 'handle', ?, ?, ?)",
                [name, f"{name}/1", f"thumbprint of {name}", START, START, START],
            )
            database.execute("INSERT INTO version_numbers VALUES (?, 1)", [name])
        database.execute("INSERT INTO intents VALUES ('agent', 2, 'mem')")
        if revision >= "0002":
            database.execute("INSERT INTO audit_checkpoints (seq, head, file, at) VALUES (41, 'a', 'f', 1), (42, 'b', 'f', 2)")
        database.commit()


def loaded_by_a_start_on(path: Path) -> set[str]:
    """Return which of the libraries that migrate a process has imported that has all of a daemon, and has opened a database."""
    program = (
        "import sys, keyd.workers.serve, keyd.app; from pathlib import Path; from keyd.core.store import SqlStore; "
        "SqlStore(Path(sys.argv[1])).close(); print(*({'alembic', 'mako'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=True, capture_output=True, text=True, timeout=60)
    return set(done.stdout.split())


def test_a_start_on_the_newest_schema_does_without_the_libraries_that_migrate(tmp_path: Path) -> None:
    SqlStore(tmp_path / "keyd.db").close()
    assert loaded_by_a_start_on(tmp_path / "keyd.db") == set()


@pytest.mark.parametrize("revision", [None, "0002"])
def test_a_start_on_any_other_needs_them_which_shows_that_the_test_above_can_fail(tmp_path: Path, revision: str | None) -> None:
    if revision is not None:
        old_database(tmp_path / "keyd.db", revision)
    assert "alembic" in loaded_by_a_start_on(tmp_path / "keyd.db")
    with closing(sqlite3.connect(tmp_path / "keyd.db")) as database:
        assert database.execute("SELECT version_num FROM alembic_version").fetchall() == [(migrate.newest(),)]


def test_the_known_revisions_are_those_that_the_migrations_have() -> None:
    config = Config()
    config.set_main_option("script_location", "keyd.core.store:migrations")
    scripts = ScriptDirectory.from_config(config)
    assert migrate.known() == {script.revision for script in scripts.walk_revisions()}
    assert [migrate.newest()] == scripts.get_heads()


def test_a_database_that_has_two_revisions_is_refused(tmp_path: Path) -> None:
    SqlStore(tmp_path / "keyd.db").close()
    with closing(sqlite3.connect(tmp_path / "keyd.db")) as database:
        database.execute("INSERT INTO alembic_version VALUES ('0003')")
        database.commit()
    with pytest.raises(StoreUnavailableError):
        SqlStore(tmp_path / "keyd.db")


@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_a_database_of_an_older_release_is_upgraded(tmp_path: Path, revision: str) -> None:
    path = tmp_path / "keyd.db"
    old_database(path, revision)
    with closing(SqlStore(path)) as store:
        records = store.load()
        agent, off = sorted(records.keys, key=lambda key: key.name)
        assert (agent.lifecycle.rotation_period, agent.lifecycle.destroy_after) == (float("inf"),) * 2
        assert (agent.disabled_at, off.disabled_at, off.paused_at, off.change) == (None, START, None, records.change)
        assert [intent.owner for intent in records.intents] == [""]
        assert records.intents[0].owner not in store.living(), "so that it is mended"
        assert run(store, "SELECT kid, recorded_at FROM archive ORDER BY kid") == [("agent/1", START), ("off/1", START)]
        assert store.update(replace(agent, paused_at=START)).change == records.change + 1
        kept = [CheckpointRow(42, "b", "f", 2), CheckpointRow(41, "a", "f", 1)] if revision >= "0002" else []
        assert store.checkpoints() == kept, "those of before are its own"
        store.add_checkpoint(CheckpointRow(43, "c", "f", 3))
        assert store.newest_checkpoint() == CheckpointRow(43, "c", "f", 3)


def test_the_trail_of_an_older_release_can_be_checked_before_the_upgrade(tmp_path: Path) -> None:
    old_database(tmp_path / "keyd.db", "0002")
    assert audit_facts(tmp_path / "keyd.db").checkpoints == ((41, "a"), (42, "b"))


def test_an_upgrade_that_fails_leaves_the_database_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keyd.db"
    old_database(path, "0002")
    with closing(sqlite3.connect(path)) as database:
        before = list(database.iterdump())
        database.execute("CREATE TABLE archive (x)")  # in the way of the upgrade, near its end
    with pytest.raises(StoreUnavailableError, match="archive already exists"):
        SqlStore(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE archive")
        assert list(database.iterdump()) == before
    SqlStore(path).close()
