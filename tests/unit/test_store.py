"""What the store keeps, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from stores import ALL_TIMES_SET, KINDS, Stores, add, opened, run, version
from support import START, new_key

from backends.api import Algorithm
from keyd.core.errors import AlreadyExistsError, ConflictError, KeydError, StoreUnavailableError
from keyd.core.model import Key, KidFormat, Purpose
from keyd.core.store import CheckpointRow, Intent, SqlStore
from keyd.core.store.database import Sqlite
from keyd.core.timeline import LifecyclePolicy, Timeline


@pytest.fixture(params=KINDS)
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stores]:
    yield from opened(request.param, tmp_path)


@pytest.fixture
def store(stores: Stores) -> SqlStore:
    return stores.open()


def key_in(store: SqlStore, name: str = "agent") -> Key:
    return next(key for key in store.load().keys if key.name == name)


def test_what_is_recorded_is_what_is_loaded(stores: Stores) -> None:
    store = stores.open()
    plain = new_key(lifecycle=LifecyclePolicy(1.5, 0.1 + 0.2, 3, inf, inf))
    full = Key(
        name="Full.1",
        algorithm=Algorithm.ES256,
        backend="backend",
        purposes=frozenset(Purpose),
        profile="profile",
        kid_format=KidFormat.NAME_VERSION,
        keyid_aliases=('"quoted"', "ключ-\N{KEY}", "back\\slash"),
        publish=False,
        lifecycle=LifecyclePolicy(1, 2, 3, 4.25, 5),
        created_at=START + 0.1,
        disabled_at=START + 0.2,
        paused_at=START + 1 / 3,
        promised_until=START + 2 / 3,
    )
    recorded = [
        add(store, plain),
        add(store, full, 7, timeline=ALL_TIMES_SET, handle=None, compromise_reason="gestohlen \N{KEY}'\""),
    ]
    expected = [version(), version("Full.1", 7, timeline=ALL_TIMES_SET, handle=None, compromise_reason="gestohlen \N{KEY}'\"")]
    for reader in (store, stores.open("another")):
        records = reader.load()
        assert sorted(records.keys, key=lambda key: key.change) == recorded
        assert sorted(records.versions, key=lambda each: each.version) == expected
        assert records.intents == ()
        assert records.change == recorded[-1].change
    assert [replace(key, change=0) for key in recorded] == [plain, full]


@pytest.mark.parametrize("never", [Timeline(START, START, inf), Timeline(START, START, START)])
def test_an_end_that_is_not_set_stays_so(store: SqlStore, never: Timeline) -> None:
    add(store, timeline=never)
    assert store.load().versions[0].timeline == never


def test_only_what_changed_since_is_loaded_with_all_versions_of_it(store: SqlStore) -> None:
    add(store)
    second = add(store, new_key("other"))
    add(store, key_in(store), 2)
    records = store.load(second.change)
    assert [key.name for key in records.keys] == ["agent"]
    assert sorted(each.version for each in records.versions) == [1, 2]
    again = store.load(records.change)
    assert (again.keys, again.versions, again.change) == ((), (), records.change)


def test_a_key_that_somebody_else_wrote_is_not_written_over(stores: Stores) -> None:
    store, other = stores.open(), stores.open("other")
    read = add(store)
    written = other.update(replace(read, disabled_at=START), [version(compromise_reason="stolen")])
    assert written.change > read.change
    with pytest.raises(ConflictError):
        store.update(replace(read, paused_at=START), [version(compromise_reason="overwritten")])
    assert key_in(store) == written
    assert store.load().versions[0].compromise_reason == "stolen"
    store.update(replace(written, disabled_at=None))
    assert key_in(store).disabled_at is None


def test_of_two_who_write_at_once_one_is_told(stores: Stores) -> None:
    """Every success is one more; nothing is lost, and no number of a change is given twice."""
    add(stores.open())
    rounds, writers = 15, [stores.open(f"writer {number}") for number in range(3)]
    changes: list[int] = []
    conflicts = [0]
    together = threading.Barrier(len(writers))

    def write(own: SqlStore) -> None:
        for _ in range(rounds):
            together.wait(30)
            while True:
                read = key_in(own)
                try:
                    changes.append(own.update(replace(read, promised_until=read.promised_until + 1)).change)
                    break
                except ConflictError:
                    conflicts[0] += 1

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, writers))
    assert key_in(writers[0]).promised_until == rounds * len(writers)
    assert len(set(changes)) == len(changes)
    assert conflicts[0] > 0, "they never met, which shows nothing"


def test_a_number_is_given_once_whoever_asks(stores: Stores) -> None:
    writers = [stores.open(f"writer {number}") for number in range(3)]
    given: list[int] = []

    def take(own: SqlStore) -> None:
        taken = 0
        while taken < 10:
            number = own.next_version("agent")
            try:
                own.begin_version(Intent("agent", number, "", own.replica))
            except AlreadyExistsError:
                continue
            given.append(number)
            taken += 1

    with ThreadPoolExecutor() as pool:
        list(pool.map(take, writers))
    assert sorted(given) == list(range(1, 31))


def test_changes_are_seen_in_the_order_of_their_numbers(stores: Stores) -> None:
    """Who read up to a number never gets to see an older change later, so that asking for what is newer misses nothing."""
    writers = [stores.open(f"writer {number}") for number in range(3)]
    for number, writer in enumerate(writers):
        add(writer, new_key(f"key-{number}"))
    reader, done = stores.open("reader"), threading.Event()
    seen: dict[str, int] = {}

    def write(number: int) -> None:
        for _ in range(25):
            writers[number].update(key_in(writers[number], f"key-{number}"))

    def follow() -> int:
        read = reads = 0
        while True:
            last = done.is_set()
            records = reader.load(read)
            for key in records.keys:
                assert read < key.change <= records.change
                seen[key.name] = key.change
            read, reads = records.change, reads + 1
            if last:
                return reads

    with ThreadPoolExecutor() as pool:
        following = pool.submit(follow)
        list(pool.map(write, range(len(writers))))
        done.set()
        assert following.result() > 3
    assert seen == {key.name: key.change for key in reader.load().keys}


def test_what_is_loaded_is_of_one_moment(stores: Stores) -> None:
    reader, writer = stores.open("reader"), stores.open("writer")
    add(writer)
    with reader._database.reading() as connection:
        count = text("SELECT count(*) FROM versions")
        assert connection.execute(count).scalar_one() == 1
        add(writer, key_in(writer), 2)  # waits for no reader
        assert connection.execute(count).scalar_one() == 1
    assert len(reader.load().versions) == 2


def test_a_reader_waits_for_no_writer(stores: Stores) -> None:
    reader, writer = stores.open("reader"), stores.open("writer")
    before = add(writer)
    with writer._database.writing() as connection:
        connection.execute(text("UPDATE keys SET promised_until = 7"))
        assert ThreadPoolExecutor(1).submit(reader.load).result(4).keys == (before,)


@pytest.mark.parametrize(
    "again",
    [version(number=2, kid="agent/1", thumbprint="new"), version(number=2, kid="new", thumbprint="thumbprint of agent/1")],
    ids=["kid", "public key"],
)
def test_no_kid_and_no_public_key_is_recorded_twice(store: SqlStore, again: object) -> None:
    read = add(store)
    intent = Intent("agent", 2, "mem", store.replica)
    store.begin_version(intent)
    with pytest.raises(AlreadyExistsError):
        store.finish_version(intent, again, read, ())  # type: ignore[arg-type]
    assert store.holds(intent), "all of it is undone"
    assert key_in(store) == read
    assert len(run(store, "SELECT 1 FROM archive")) == 1


def test_a_kid_stays_taken_for_ever(store: SqlStore) -> None:
    """Even if its key and versions were removed from the database by hand."""
    add(store)
    run(store, "DELETE FROM versions")
    run(store, "DELETE FROM keys")
    with pytest.raises(AlreadyExistsError):
        add(store, new_key("other"), kid="agent/1")


def test_every_version_is_in_the_archive(store: SqlStore) -> None:
    add(store)
    add(store, key_in(store), 2)
    store.forget_handle(version(number=1))
    rows = run(store, "SELECT kid, key, version, public_jwk, recorded_at FROM archive ORDER BY version")
    assert rows == [(f"agent/{n}", "agent", n, f'{{"kty":"agent/{n}"}}', START) for n in (1, 2)]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE archive SET public_jwk = '{}'",
        "DELETE FROM archive",
        "TRUNCATE archive",
        "INSERT OR REPLACE INTO archive VALUES ('agent/1', 'agent', 1, '{}', 0)",
        "INSERT INTO archive VALUES ('agent/1', 'agent', 1, '{}', 0) ON CONFLICT (kid) DO UPDATE SET public_jwk = '{}'",
    ],
)
def test_what_is_in_the_archive_stays_there(store: SqlStore, statement: str) -> None:
    add(store)
    if statement.startswith("TRUNCATE") and not store.shared:
        statement = "DELETE FROM archive WHERE true"  # there is no other in SQLite
    if "OR REPLACE" in statement and store.shared:
        statement = "DELETE FROM archive WHERE kid IN (SELECT kid FROM versions)"  # PostgreSQL has no such insert
    with pytest.raises((DBAPIError, KeydError), match="the archive of public keys is only added to"):
        run(store, statement)
    assert run(store, "SELECT public_jwk FROM archive") == [('{"kty":"agent/1"}',)]


def test_what_was_given_up_cannot_be_recorded(stores: Stores) -> None:
    store, other = stores.open(), stores.open("other")
    add(store)
    intent = Intent("agent", 2, "mem", store.replica)
    store.begin_version(intent)
    assert store.holds(intent)
    other.abandon_version(intent)
    assert not store.holds(intent)
    with pytest.raises(ConflictError, match="given up"):
        store.finish_version(intent, version(number=2), key_in(store), ())
    assert not store.recorded(intent)
    assert store.next_version("agent") == 3, "its number is not given again"


def test_a_handle_is_forgotten_and_nothing_else(store: SqlStore) -> None:
    before = add(store)
    change = store.forget_handle(version(compromise_reason="of an old reading"))
    assert store.load().versions == (version(handle=None),)
    assert key_in(store) == replace(before, change=change)


def checkpoint(number: int) -> CheckpointRow:
    return CheckpointRow(2**40 + number, f"{number:064x}", "/var/lib/keyd/\N{KEY}", START + number / 3)


def test_the_newest_checkpoints_are_kept(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyd.core.store.sql.KEEP_CHECKPOINTS", 3)
    assert store.newest_checkpoint() is None
    for number in range(5):
        store.add_checkpoint(checkpoint(number))
    assert store.newest_checkpoint() == checkpoint(4)
    assert store.checkpoints() == [checkpoint(number) for number in (4, 3, 2)]
    assert store.checkpoints(2) == [checkpoint(4), checkpoint(3)]


def broken(store: SqlStore) -> Iterator[Callable[[], object]]:
    yield store.load
    yield lambda: store.update(new_key(change=1))
    yield lambda: store.next_version("agent")


def test_a_failure_says_what_the_driver_says_and_no_statement(store: SqlStore) -> None:
    run(store, "DROP TABLE version_numbers")
    run(store, "ALTER TABLE keys RENAME TO hidden")
    for call in broken(store):
        with pytest.raises(StoreUnavailableError) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert "SELECT" not in str(caught.value) + repr(caught.value)
        assert "the metadata database does not" in str(caught.value)


class TestWorkersOnOneDatabase:
    """SQLite, shared: whoever supervises the processes knows which of them live."""

    @pytest.fixture
    def two(self, tmp_path: Path) -> Iterator[list[SqlStore]]:
        stores = [SqlStore(Sqlite(tmp_path / "keyd.db", shared=True), replica_name=name) for name in ("", "worker-2")]
        for store, name in zip(stores, ("worker-1", "worker-2"), strict=True):
            store.alive_for = inf
            store.register(name)
        yield stores
        for store in stores:
            store.close()

    def test_each_counts_as_alive_until_it_is_forgotten(self, two: list[SqlStore]) -> None:
        one, other = two
        assert one.living() == other.living() == {one.replica, other.replica}
        one.forget("worker-2")
        assert one.living() == {one.replica}

    def test_what_one_that_lives_is_making_is_not_the_other_s(self, two: list[SqlStore]) -> None:
        one, other = two
        one.begin_version(Intent("agent", 1, "backend", one.replica))
        with pytest.raises(ConflictError):
            other.begin_version(Intent("agent", 2, "backend", other.replica))
        other.forget("worker-1")
        other.begin_version(Intent("agent", 2, "backend", other.replica))

    def test_a_new_daemon_forgets_all(self, two: list[SqlStore]) -> None:
        one, _ = two
        one.forget()
        assert one.living() == {one.replica}

    def test_each_has_checkpoints_of_its_own(self, two: list[SqlStore]) -> None:
        one, other = two
        one.add_checkpoint(CheckpointRow(7, "a", "/audit", START))
        assert one.newest_checkpoint() is not None
        assert other.newest_checkpoint() is None
