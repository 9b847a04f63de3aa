"""A PostgreSQL server that is restarted, killed, hung or away, replicas that stop, and what each leaves."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from components import postgres
from components.postgres import Database, fresh_database
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from remote_backend import RemoteBackend
from sqlalchemy import event, text
from stores import Stores, add, opened, run, version
from support import FakeClock, keyring, new_key, until

from backends.api import Algorithm
from backends.errors import BackendConfigError
from backends.secrets import SecretRef
from keyd.config import Store
from keyd.core.errors import ConflictError, InvalidArgumentError, KeydError, StorageFullError, StoreUnavailableError
from keyd.core.keyring import Keyring
from keyd.core.runner import BackendRunner
from keyd.core.store import CheckpointRow, Intent, SqlStore
from keyd.core.store.offline import shared_audit_facts
from keyd.core.store.postgres import CHANNEL, Postgres


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    yield from opened("postgres", tmp_path)


@pytest.fixture
def store(stores: Stores) -> SqlStore:
    return stores.open()


@pytest.fixture
def database(stores: Stores) -> Database:
    assert stores.postgres is not None
    return stores.postgres


def dead(database: Database, *replicas: SqlStore) -> None:
    """Have replicas not been seen for long."""
    for replica in replicas:
        found = database.execute("UPDATE replicas SET seen_at = seen_at - 31 WHERE id = %s RETURNING 1", [replica.replica])
        assert found


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_the_server_is_started_anew_in_between(store: SqlStore, how: str) -> None:
    read = add(store)
    server = postgres.shared()
    if how == "restart":
        server.restart()
    else:
        server.kill()
        server.start()
    assert store.load().keys == (read,)
    assert store.update(replace(read, disabled_at=1.0)).change > read.change


def test_without_the_server_everything_is_refused_in_words(store: SqlStore, database: Database) -> None:
    read = add(store)
    with postgres.shared().away():
        for call in (store.load, lambda: store.update(read), store.seen, lambda: store.begin_version(Intent("x", 1, "", ""))):
            with pytest.raises(StoreUnavailableError, match=r"the metadata database does not .*connection.*") as caught:
                call()
            assert "\n" not in str(caught.value)
        with pytest.raises(StoreUnavailableError, match="cannot be opened"):
            SqlStore.on_postgres(database.conninfo, replica_name="late")
    assert store.load().keys == (read,)


def test_a_server_that_hangs_is_given_up(database: Database) -> None:
    with closing(SqlStore(Postgres(database.conninfo, patience=0.5), replica_name="one")) as store:
        read = add(store)
        with pytest.raises(StoreUnavailableError, match=r"did not answer within 0\.5 s.*nothing was changed"):
            hang_in_a_change(store)
        with postgres.shared().hung():
            start = time.monotonic()
            with pytest.raises(StoreUnavailableError, match="nothing was changed"):
                store.update(read)
            assert time.monotonic() - start < 15
        assert store.update(read).change > read.change, "with a new connection, or it would take the old answer for this one"


def hang_in_a_change(store: SqlStore) -> None:
    with store._database.writing() as connection:
        connection.execute(text("SELECT 1"))
        with postgres.shared().hung():
            connection.execute(text("SELECT 2"))


def test_a_replica_that_is_stopped_in_a_change_holds_up_the_others_for_a_moment_only(database: Database) -> None:
    settings = {"idle_in_transaction_session_timeout": "300ms"}
    with ExitStack() as stack:
        stopped, other = (
            stack.enter_context(closing(SqlStore(Postgres(database.conninfo, settings), replica_name=name))) for name in "ab"
        )
        read = add(other)
        with pytest.raises(StoreUnavailableError), stopped._database.writing() as connection:
            connection.execute(text("UPDATE changes SET last = last + 1000"))
            written = other.update(read)  # waits for the server to throw the other out
            connection.execute(text("SELECT 1"))
        assert written.change == read.change + 1, "what was thrown out is undone"


def test_who_waits_for_another_too_long_is_told(database: Database) -> None:
    with ExitStack() as stack:
        slow = stack.enter_context(closing(SqlStore(Postgres(database.conninfo), replica_name="slow")))
        hasty = SqlStore(Postgres(database.conninfo, {"lock_timeout": "100ms"}), replica_name="hasty")
        stack.enter_context(closing(hasty))
        read = add(slow)
        with slow._database.writing() as connection:
            connection.execute(text("UPDATE changes SET last = last + 1"))
            with pytest.raises(StoreUnavailableError, match=r"lock timeout.*nothing was changed"):
                hasty.update(read)


def test_a_connection_lost_in_the_commit_leaves_open_what_happened(store: SqlStore, database: Database) -> None:
    read = add(store)

    def cut(_: object) -> None:
        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
            [database.name],
        )

    engine = store._database._engine
    event.listen(engine, "commit", cut)
    with pytest.raises(StoreUnavailableError, match="may have been made all the same"):
        store.update(read)
    event.remove(engine, "commit", cut)
    store.update(read)


def test_text_that_the_database_cannot_hold_is_the_callers_mistake(store: SqlStore) -> None:
    read = add(store)
    for wrong in (version(compromise_reason="a\0b"), version(thumbprint="x" * 65)):
        with pytest.raises(InvalidArgumentError, match="cannot hold this"):
            store.update(read, [wrong])
    assert store.load().keys == (read,)


def test_a_full_disk_is_named(store: SqlStore, database: Database) -> None:
    """A trigger raises what the server raises then; to fill its disk would take a disk."""
    read = add(store)
    database.execute(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE disk_full USING MESSAGE = "
        "'could not extend file'; END $$; CREATE TRIGGER t BEFORE UPDATE ON keys EXECUTE FUNCTION full_disk()"
    )
    with pytest.raises(StorageFullError, match=r"could not extend file.*make room"):
        store.update(read)


def test_every_change_of_a_key_is_announced_with_its_number_once_it_is_there(store: SqlStore, database: Database) -> None:
    with psycopg.connect(database.conninfo, autocommit=True) as listener:
        listener.execute(f"LISTEN {CHANNEL}")
        made = add(store)
        updated = store.update(made)
        with pytest.raises(ConflictError):
            store.update(made)
        forgotten = store.forget_handle(version())
        heard = [int(each.payload) for each in listener.notifies(timeout=5, stop_after=3)]
        assert heard == [made.change, updated.change, forgotten]
        assert not list(listener.notifies(timeout=0.1)), "what was refused is no change"


def test_several_that_start_at_once_on_an_empty_database(database: Database) -> None:
    together = threading.Barrier(4)

    def start(number: int) -> int:
        together.wait(30)
        with closing(SqlStore.on_postgres(database.conninfo, replica_name=str(number))) as own:
            return own.load().change

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(start, range(4))) == [1] * 4


def test_a_database_that_is_not_utf8_is_refused(database: Database) -> None:
    server = postgres.shared()
    name = f"{database.name}_ascii"
    server.execute(f"CREATE DATABASE {name} OWNER keyd ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    try:
        with pytest.raises(StoreUnavailableError, match="has the encoding SQL_ASCII; make one with"):
            SqlStore.on_postgres(make_conninfo(database.conninfo, dbname=name), replica_name="one")
    finally:
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


class TestAddress:
    """[store], as it gets to libpq."""

    def test_over_the_socket(self, database: Database) -> None:
        SqlStore.on_postgres(Store(url=database.url).conninfo(), replica_name="one").close()

    def test_with_a_password(self, database: Database, tmp_path: Path) -> None:
        secret = tmp_path / "password"
        secret.touch(mode=0o600)
        secret.write_text(postgres.PASSWORD + "\n")
        section = Store(url=database.tcp_url, password=SecretRef(file=secret))
        assert postgres.PASSWORD not in repr(section)
        SqlStore.on_postgres(section.conninfo(), replica_name="one").close()
        assert conninfo_to_dict(section.conninfo())["password"] == postgres.PASSWORD

    def test_a_wrong_password_is_not_shown(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KEYD_DB", "hunter2")
        conninfo = Store(url=database.tcp_url, password=SecretRef(env="KEYD_DB")).conninfo()
        with pytest.raises(StoreUnavailableError, match="password authentication failed") as caught:
            SqlStore.on_postgres(conninfo, replica_name="one")
        shown = [caught.value, caught.value.__cause__, getattr(caught.value.__cause__, "orig", None)]
        assert "hunter2" not in "".join(map(repr, shown)) + "".join(map(str, shown))

    @pytest.mark.parametrize("value", [b"\xff", b"a\0b"])
    def test_a_password_that_is_no_text(self, value: bytes, tmp_path: Path) -> None:
        secret = tmp_path / "password"
        secret.touch(mode=0o600)
        secret.write_bytes(value)
        with pytest.raises(BackendConfigError, match=f"the file {secret} with the password"):
            Store(url="postgresql:///keyd", password=SecretRef(file=secret)).conninfo()

    def test_what_the_address_says_prevails(self, database: Database) -> None:
        options = "-c%20idle_in_transaction_session_timeout%3D7s&application_name=mine"
        conninfo = Store(url=f"{database.url}&options={options}").conninfo()
        with closing(SqlStore.on_postgres(conninfo, replica_name="one")) as store:
            settings = {name: run(store, f"SHOW {name}")[0][0] for name in ("application_name", "lock_timeout")}
            assert settings == {"application_name": "mine", "lock_timeout": "10s"}
            assert run(store, "SHOW idle_in_transaction_session_timeout") == [("7s",)]

    def test_without_psycopg(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in [name for name in sys.modules if name.split(".")[0] == "psycopg" or name.endswith("store.postgres")]:
            monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(StoreUnavailableError, match=r'run: pip install "keyd\[postgres\]"'):
            SqlStore.on_postgres("", replica_name="one")
        with pytest.raises(ValueError, match=r'run: pip install "keyd\[postgres\]"'):
            Store(url="postgresql:///keyd")


class TestReplicas:
    """Who is alive, and what becomes of what the others were making."""

    def test_who_was_seen_is_alive_until_it_is_not(self, stores: Stores, database: Database) -> None:
        one, other = stores.open(), stores.open("other")
        assert one.living() == {one.replica}
        one.register("one")
        other.register("other")
        assert one.living() == other.living() == {one.replica, other.replica}
        dead(database, one)
        assert other.living() == {other.replica}
        assert one.living() == {one.replica, other.replica}, "it is alive for itself in any case"
        one.seen()
        assert other.living() == {one.replica, other.replica}
        one.leave()
        assert other.living() == {other.replica}

    def test_how_long_can_be_set(self, stores: Stores, database: Database) -> None:
        one, other = stores.open(), stores.open("other")
        one.register("one")
        dead(database, one)
        other.alive_for = 60
        assert one.replica in other.living()

    def test_the_clock_is_the_databases(self, store: SqlStore, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(time, "time", lambda: 0.0)
        store.register("one")
        before, seen, after = (
            float(database.execute("SELECT extract(epoch FROM clock_timestamp())")[0][0]),
            store.seen(),
            float(database.execute("SELECT extract(epoch FROM clock_timestamp())")[0][0]),
        )
        assert before <= seen <= after
        [(name, started_at, seen_at)] = database.execute("SELECT name, started_at, seen_at FROM replicas")
        assert (name, seen_at) == ("one", seen)
        assert started_at < seen

    def test_the_long_dead_are_forgotten_and_may_come_back(self, stores: Stores, database: Database) -> None:
        one, other = stores.open(), stores.open("other")
        one.register("one")
        database.execute("UPDATE replicas SET seen_at = seen_at - 86401")
        other.register("other")
        assert database.execute("SELECT name FROM replicas") == [("other",)]
        one.seen()
        assert database.execute("SELECT name FROM replicas ORDER BY name") == [("one",), ("other",)]

    def test_nobody_makes_a_version_of_a_key_while_another_does(self, stores: Stores, database: Database) -> None:
        one, other = stores.open(), stores.open("other")
        one.register("one")
        one.begin_version(Intent("agent", 1, "mem", one.replica))
        with pytest.raises(ConflictError, match="another replica is making a version of key 'agent'"):
            other.begin_version(Intent("agent", 2, "mem", other.replica))
        assert other.next_version("agent") == 2, "the number was not used up"
        other.begin_version(Intent("other", 1, "mem", other.replica))
        dead(database, one)
        other.begin_version(Intent("agent", 2, "mem", other.replica))

    def test_on_sqlite_there_is_nobody_else(self, tmp_path: Path) -> None:
        with closing(SqlStore(tmp_path / "keyd.db")) as store:
            store.register("one")
            assert abs(store.seen() - time.time()) < 60
            assert store.living() == {store.replica}
            assert run(store, "SELECT count(*) FROM replicas") == [(0,)]
            store.leave()


class Replica:
    """A keyring on the database and the backend of a fleet, with its own clock and name."""

    def __init__(self, stores: Stores, backend: RemoteBackend, name: str) -> None:
        self.store = stores.open(name)
        self.runner = BackendRunner("remote", backend)
        self.ring: Keyring = keyring(self.store, {"remote": self.runner}, FakeClock())
        self.store.register(name)


@pytest.fixture
def fleet(stores: Stores) -> Iterator[tuple[Replica, Replica, RemoteBackend]]:
    backend = RemoteBackend()
    one, other = (Replica(stores, backend, name) for name in ("one", "other"))
    yield one, other, backend
    backend.answering.set()
    for replica in (one, other):
        replica.runner.close()


KEY = new_key(backend="remote")


async def test_what_a_dead_replica_left_is_mended_by_another_and_not_before(
    fleet: tuple[Replica, Replica, RemoteBackend], database: Database
) -> None:
    one, other, backend = fleet
    await one.ring.start()
    await other.ring.start()
    # Killed after the backend made the key pair, and before that was recorded.
    one.store.begin_version(Intent("agent", 1, "remote", one.store.replica))
    backend.create("agent", 1, Algorithm.ED25519)
    await other.ring.mend("remote")
    assert backend.held == {"agent.1"}, "it may be about to record it"
    with pytest.raises(KeydError):
        await other.ring.create(KEY)
    dead(database, one.store)
    await other.ring.mend("remote")
    assert backend.held == set()
    assert not other.store.load().intents
    assert (await other.ring.create(KEY)).version.version == 2


async def test_a_replica_that_was_only_paused_cannot_finish_and_removes_what_it_made(
    fleet: tuple[Replica, Replica, RemoteBackend], database: Database
) -> None:
    one, other, backend = fleet
    await other.ring.start()
    await other.ring.create(KEY)
    await one.ring.start()
    create, paused = backend.create, threading.Event()

    def created(name: str, number: int, algorithm: Algorithm) -> str:
        handle = create(name, number, algorithm)
        assert paused.wait(30)
        return handle

    backend.create = created  # type: ignore[method-assign]
    rotation = asyncio.create_task(one.ring.rotate("agent", at_once=True))
    await until(lambda: "agent.2" in backend.held)
    backend.create = create  # type: ignore[method-assign]
    dead(database, one.store)
    # The other one gives up what was begun, finds nothing that it may remove yet, and makes its own.
    other.store.abandon_version(Intent("agent", 2, "remote", one.store.replica))
    assert (await other.ring.rotate("agent", at_once=True)).version.version == 3
    one.store.seen()
    paused.set()
    with pytest.raises(ConflictError):
        await rotation
    assert backend.held == {"agent.1", "agent.3"}, "what one made and nobody knows is gone, and nothing else"
    await one.ring.refresh()
    assert [v.record.version for v in one.ring.snapshot.get("agent").versions] == [1, 3]
    assert not one.store.load().intents


class TestCheckpoints:
    """Each replica has a trail of its own, and so its own checkpoints."""

    def test_each_replica_sees_its_own(self, stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("keyd.core.store.sql.KEEP_CHECKPOINTS", 2)
        one, other = stores.open("one"), stores.open("other")
        rows = [CheckpointRow(number, "0" * 64, "file", 1.0) for number in range(6)]
        other.add_checkpoint(rows[5])
        for row in rows[:4]:
            one.add_checkpoint(row)
        assert one.checkpoints() == [rows[3], rows[2]]
        assert other.checkpoints() == [rows[5]], "another's are not forgotten for one's own"
        assert stores.open("new").newest_checkpoint() is None
        assert stores.open("one").newest_checkpoint() == rows[3], "the same replica, started anew"

    def test_a_reader_of_the_trail_gets_those_of_its_replica(self, stores: Stores, database: Database) -> None:
        for name, number in (("one", 1), ("other", 2)):
            stores.open(name).add_checkpoint(CheckpointRow(number, f"{number:064x}", "file", 1.0))
        facts = shared_audit_facts(database.conninfo, "one")
        assert facts.checkpoints == ((1, f"{1:064x}"),)
        assert facts.public_jwks == {"keys": []}

    def test_a_database_that_does_not_answer(self, database: Database) -> None:
        with pytest.raises(StoreUnavailableError, match=r"cannot read the metadata database: .*audit_checkpoints"):
            shared_audit_facts(database.conninfo, "one")  # nobody made the tables
        with pytest.raises(StoreUnavailableError, match="cannot read the metadata database: ") as caught:
            shared_audit_facts(make_conninfo(database.conninfo, dbname="nope", password="hunter2"), "one")
        assert "hunter2" not in str(caught.value)


def test_a_database_of_its_own_for_each_test() -> None:
    with fresh_database() as one, fresh_database() as other:
        assert one.name != other.name
        assert one.execute("SELECT current_database()") == [(one.name,)]
