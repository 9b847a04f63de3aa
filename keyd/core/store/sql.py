"""The store on SQL. Every method is one transaction and blocks; the keyring calls them from a thread."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from math import inf, isinf
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Row, create_engine, delete, event, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from backends.api import Algorithm
from keyd.core.errors import AlreadyExistsError, ConflictError, StorageFullError, StoreUnavailableError
from keyd.core.model import Key, KeyVersion, KidFormat, Purpose
from keyd.core.store import migrate, tables
from keyd.core.store.records import KEEP_CHECKPOINTS, CheckpointRow, Intent, Records
from keyd.core.timeline import LifecyclePolicy, Timeline

_TIMES = tuple(f.name for f in fields(Timeline))


class SqlStore:
    """Keys and versions in a SQL database.

    Every method raises StoreUnavailableError when the database does not answer, StorageFullError when it has no room.

    Attributes:
        replica: the id of this process among those that use the database; another at each start.
    """

    def __init__(self, path: Path) -> None:
        """Open the SQLite database at ``path``, made and migrated as needed."""
        self.replica = secrets.token_hex(8)
        self._engine = create_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": 5})
        event.listen(self._engine, "connect", _configure_sqlite)
        event.listen(self._engine, "begin", _begin_sqlite)
        with self._transaction() as connection:
            migrate.upgrade(connection)

    def load(self, after: int = 0) -> Records:
        """Return everything that changed after a change of that number, at one moment."""
        keys, versions = tables.keys, tables.versions
        changed = select(keys.c.name).where(keys.c.change > after)
        with self._transaction() as connection:
            return Records(
                keys=tuple(_key(row) for row in connection.execute(select(keys).where(keys.c.change > after))),
                versions=tuple(_version(row) for row in connection.execute(select(versions).where(versions.c.key.in_(changed)))),
                intents=tuple(_intent(row) for row in connection.execute(select(tables.intents))),
                change=connection.execute(select(tables.changes.c.last)).scalar_one(),
            )

    def next_version(self, key: str) -> int:
        """Return the version number of a key that was not given out yet."""
        table = tables.numbers
        with self._transaction() as connection:
            return (connection.execute(select(table.c.last).where(table.c.key == key)).scalar() or 0) + 1

    def begin_version(self, intent: Intent) -> None:
        """Give out a version number of a key, and note the intent to make that version if it names a backend.

        Raises:
            AlreadyExistsError: the number was given out meanwhile.
            ConflictError: another replica is making a version of the key.
        """
        table = tables.numbers
        with self._transaction() as connection:
            _next_change(connection)  # whoever else gives out a number comes after
            self._need_no_other(connection, intent.key)
            last = connection.execute(select(table.c.last).where(table.c.key == intent.key)).scalar() or 0
            if last >= intent.version:
                raise AlreadyExistsError(f"version {intent.version} of key {intent.key!r} is being made already")
            connection.execute(delete(table).where(table.c.key == intent.key))
            connection.execute(insert(table).values(key=intent.key, last=intent.version))
            if intent.backend:
                connection.execute(insert(tables.intents).values(**asdict(intent)))

    def _need_no_other(self, connection: Connection, key: str) -> None:
        """Raise ConflictError while another replica makes a version of a key."""
        owners = connection.execute(select(tables.intents.c.owner).where(tables.intents.c.key == key)).scalars()
        if (set(owners) - {self.replica}) & self.living():
            raise ConflictError(f"another replica is making a version of key {key!r}; nothing was done, try again")

    def note(self, intent: Intent) -> None:
        """Note that a version is in a backend which was made on the way to another, and will not be recorded."""
        where = (tables.intents.c.key == intent.key) & (tables.intents.c.version == intent.version)
        with self._transaction() as connection:
            connection.execute(delete(tables.intents).where(where))
            connection.execute(insert(tables.intents).values(**asdict(intent)))

    def holds(self, intent: Intent) -> bool:
        """Say whether an intent is still noted: neither was its version recorded nor was it abandoned."""
        table = tables.intents
        where = (table.c.key == intent.key) & (table.c.version == intent.version)
        with self._transaction() as connection:
            return connection.execute(select(table.c.key).where(where)).first() is not None

    def recorded(self, intent: Intent) -> bool:
        """Say whether the version that an intent is about is on record."""
        table = tables.versions
        where = (table.c.key == intent.key) & (table.c.version == intent.version)
        with self._transaction() as connection:
            return connection.execute(select(table.c.key).where(where)).first() is not None

    def living(self) -> frozenset[str]:
        """Return the ids of the replicas that are alive, this one among them. What the others are making is theirs."""
        return frozenset({self.replica})

    def finish_version(self, intent: Intent, version: KeyVersion, key: Key, changed: Sequence[KeyVersion]) -> Key:
        """Record a version that the backend made, its key as it now is, and the versions whose timelines change with it.

        Returns the key as it is on record then.

        Raises:
            AlreadyExistsError: the name, the kid or the public key is on record already.
            ConflictError: the key is on record otherwise than ``key`` was when it was read, or somebody else gave the intent up.
        """
        try:
            with self._transaction() as connection:
                change = _next_change(connection)
                if intent.backend and not _forget(connection, intent):
                    raise ConflictError(f"version {intent.version} of key {intent.key!r} was given up by another replica")
                key = _write_key(connection, key, change)
                _write(connection, changed)
                connection.execute(insert(tables.versions).values(**_version_row(version)))
                connection.execute(insert(tables.archive).values(**_archive_row(version)))
                return key
        except IntegrityError as exc:
            raise AlreadyExistsError(
                f"kid {version.kid!r}, its public key, or the name of its key is on record already; a kid is never reused"
            ) from exc

    def abandon_version(self, intent: Intent) -> None:
        """Drop an intent of which nothing is left in the backend."""
        with self._transaction() as connection:
            _forget(connection, intent)

    def update(self, key: Key, changed: Sequence[KeyVersion] = ()) -> Key:
        """Write a key that exists, with the handles, timelines and reasons of some of its versions.

        Returns the key as it is on record then.

        Raises:
            ConflictError: it is on record otherwise than ``key`` was when it was read.
        """
        with self._transaction() as connection:
            change = _next_change(connection)
            key = _write_key(connection, key, change)
            _write(connection, changed)
            return key

    def forget_handle(self, version: KeyVersion) -> int:
        """Record that the private key of a version is destroyed for certain, and touch nothing else of it.

        Returns the number of the change.
        """
        table = tables.versions
        where = (table.c.key == version.key) & (table.c.version == version.version)
        with self._transaction() as connection:
            change = _next_change(connection)
            connection.execute(update(table).where(where).values(handle=None))
            connection.execute(update(tables.keys).where(tables.keys.c.name == version.key).values(change=change))
            return change

    def newest_checkpoint(self) -> CheckpointRow | None:
        """Return the newest checkpoint of the audit trail."""
        rows = self.checkpoints(1)
        return rows[0] if rows else None

    def checkpoints(self, most: int = KEEP_CHECKPOINTS) -> list[CheckpointRow]:
        """Return the newest checkpoints of the audit trail, newest first."""
        table = tables.audit_checkpoints
        with self._transaction() as connection:
            rows = connection.execute(select(table).order_by(table.c.id.desc()).limit(most))
            return [CheckpointRow(row.seq, row.head, row.file, row.at) for row in rows]

    def add_checkpoint(self, checkpoint: CheckpointRow) -> None:
        """Keep a checkpoint of the audit trail, and forget those before the newest :data:`KEEP_CHECKPOINTS`."""
        table = tables.audit_checkpoints
        with self._transaction() as connection:
            added = connection.execute(insert(table).values(**asdict(checkpoint))).inserted_primary_key
            assert added is not None
            connection.execute(delete(table).where(table.c.id <= added[0] - KEEP_CHECKPOINTS))

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except SQLAlchemyError as exc:
            # `orig` is the driver's message; str(exc) would add the statement and its values.
            cause = str(getattr(exc, "orig", None) or type(exc).__name__)
            full = "full" in cause or "disk I/O error" in cause
            error = StorageFullError if full else StoreUnavailableError
            advice = "make room on its disk, then try again" if full else "nothing was changed"
            raise error(f"the metadata database does not take the change ({cause}); {advice}") from exc


def _configure_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # the driver's own BEGIN leaves schema changes outside of the transaction
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # a version that was announced must survive a power cut
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _next_change(connection: Connection) -> int:
    """Take the number of the next change. Until the transaction ends, everybody else who writes waits."""
    table = tables.changes
    connection.execute(update(table).values(last=table.c.last + 1))
    return int(connection.execute(select(table.c.last)).scalar_one())


def _write_key(connection: Connection, key: Key, change: int) -> Key:
    """Write a key if it is still as it was read, and return it as it is on record then. Raises ConflictError."""
    table, row = tables.keys, _key_row(replace(key, change=change))
    if key.change == 0:
        connection.execute(insert(table).values(**row))
    elif not connection.execute(
        update(table).where(table.c.name == key.name, table.c.change == key.change).values(**row)
    ).rowcount:
        raise ConflictError(f"key {key.name!r} was changed by another replica meanwhile")
    return replace(key, change=change)


def _write(connection: Connection, changed: Sequence[KeyVersion]) -> None:
    table = tables.versions
    for version in changed:
        where = (table.c.key == version.key) & (table.c.version == version.version)
        connection.execute(update(table).where(where).values(**_version_row(version)))


def _forget(connection: Connection, intent: Intent) -> bool:
    """Drop an intent. Returns whether it was there."""
    table = tables.intents
    where = (table.c.key == intent.key) & (table.c.version == intent.version)
    return bool(connection.execute(delete(table).where(where)).rowcount)


def _intent(row: Row[Any]) -> Intent:
    return Intent(row.key, row.version, row.backend, row.owner)


def _key(row: Row[Any]) -> Key:
    return Key(
        name=row.name,
        algorithm=Algorithm(row.algorithm),
        backend=row.backend,
        purposes=frozenset(Purpose(value) for value in row.purposes),
        profile=row.profile,
        kid_format=KidFormat(row.kid_format),
        keyid_aliases=tuple(row.keyid_aliases),
        publish=row.publish,
        lifecycle=LifecyclePolicy(
            row.publish_lead, row.sign_grace, row.retention, _or_inf(row.rotation_period), _or_inf(row.destroy_after)
        ),
        created_at=row.created_at,
        disabled_at=row.disabled_at,
        paused_at=row.paused_at,
        promised_until=row.promised_until,
        change=row.change,
    )


def _key_row(key: Key) -> dict[str, Any]:
    return {
        "name": key.name,
        "algorithm": key.algorithm.value,
        "backend": key.backend,
        "purposes": sorted(purpose.value for purpose in key.purposes),
        "profile": key.profile,
        "kid_format": key.kid_format.value,
        "keyid_aliases": list(key.keyid_aliases),
        "publish": key.publish,
        **{name: _or_none(period) for name, period in asdict(key.lifecycle).items()},
        "created_at": key.created_at,
        "disabled_at": key.disabled_at,
        "paused_at": key.paused_at,
        "promised_until": key.promised_until,
        "change": key.change,
    }


def _version(row: Row[Any]) -> KeyVersion:
    times = {name: _or_inf(row._mapping[name]) for name in _TIMES}
    return KeyVersion(
        key=row.key,
        version=row.version,
        kid=row.kid,
        thumbprint=row.thumbprint,
        public_jwk=row.public_jwk,
        handle=row.handle,
        timeline=Timeline(**times),
        compromise_reason=row.compromise_reason,
    )


def _version_row(version: KeyVersion) -> dict[str, Any]:
    row = asdict(version)
    times = row.pop("timeline")
    return row | {name: _or_none(at) for name, at in times.items()}


def _archive_row(version: KeyVersion) -> dict[str, Any]:
    return {
        "kid": version.kid,
        "key": version.key,
        "version": version.version,
        "public_jwk": version.public_jwk,
        "recorded_at": version.timeline.created_at,
    }


def _or_inf(value: float | None) -> float:
    return inf if value is None else value


def _or_none(value: float) -> float | None:
    return None if isinf(value) else value
