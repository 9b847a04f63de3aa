"""The store on SQL. Every method is one transaction and blocks; the keyring calls them from a thread."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, Result, Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from keyd.core.errors import AlreadyExistsError, ConflictError, StoreUnavailableError
from keyd.core.model import Key, KeyVersion
from keyd.core.sessions.revocations import Revoked
from keyd.core.store import migrate, registry, revoked, rows, tables
from keyd.core.store.database import Database, Sqlite
from keyd.core.store.records import KEEP_CHECKPOINTS, CheckpointRow, Intent, Records


class SqlStore:
    """Keys and versions in a SQL database.

    Every method raises StoreUnavailableError when the database does not answer, StorageFullError when it has no room.

    Attributes:
        replica: the id of this process among those that use the database; another at each start.
        alive_for: seconds after which a replica that was not seen is taken for dead.
    """

    def __init__(self, database: Path | Database, *, replica_name: str = "") -> None:
        """Open a database, made and migrated as needed.

        Args:
            database: with a path, a SQLite file of this process alone.
            replica_name: whose checkpoints of the audit trail are meant; empty where there is one process.

        Raises:
            StoreUnavailableError: it does not answer, or a newer keyd upgraded it so that this one cannot use it.
        """
        self.replica = secrets.token_hex(8)
        self.alive_for = registry.ALIVE_FOR
        self._name = self._known_as = replica_name
        self._database = Sqlite(database) if isinstance(database, Path) else database
        try:
            with self._database.migrating() as connection:
                migrate.upgrade(connection)
        except BaseException:
            self._database.close()
            raise

    @classmethod
    def on_postgres(cls, conninfo: str, *, replica_name: str) -> Self:
        """Open a PostgreSQL database, which other replicas use as well.

        Args:
            conninfo: for libpq, with the password if there is one. Never shown.
            replica_name: the same at each start of this replica, and no other's.

        Raises:
            StoreUnavailableError: as above, or psycopg is not installed.
        """
        try:
            from keyd.core.store.postgres import Postgres
        except ImportError as exc:
            raise StoreUnavailableError('PostgreSQL needs psycopg 3; run: pip install "keyd[postgres]"') from exc
        return cls(Postgres(conninfo), replica_name=replica_name)

    @property
    def shared(self) -> bool:
        """Whether other replicas can use the database."""
        return self._database.shared

    def load(self, after: int = 0) -> Records:
        """Return everything that changed after a change of that number, at one moment.

        Raises:
            StoreUnavailableError: also when a newer keyd upgraded the database meanwhile, so that this one cannot read it.
        """
        keys, versions = tables.keys, tables.versions
        which, whose = select(keys), select(versions)
        if after:
            which = which.where(keys.c.change > after)
            whose = whose.where(versions.c.key.in_(select(keys.c.name).where(keys.c.change > after)))
        with self._database.reading() as connection:
            migrate.check(connection)
            change = connection.execute(select(tables.changes.c.last)).scalar_one()
            intents = tuple(rows.to_intent(row) for row in connection.execute(select(tables.intents)))
            if after and change == after:  # which keys changed is found by a look at all of them
                return Records((), (), intents, change)
            found = tuple(map(rows.to_key, _many(connection.execute(which))))
            names = {key.name: key.name for key in found}
            return Records(
                keys=found,
                versions=tuple(rows.to_version(row, names) for row in _many(connection.execute(whose))),
                intents=intents,
                change=change,
            )

    def next_version(self, key: str) -> int:
        """Return the version number of a key that was not given out yet."""
        table = tables.numbers
        with self._database.reading() as connection:
            return (connection.execute(select(table.c.last).where(table.c.key == key)).scalar() or 0) + 1

    def begin_version(self, intent: Intent) -> None:
        """Give out a version number of a key, and note the intent to make that version if it names a backend.

        Raises:
            AlreadyExistsError: the number was given out meanwhile.
            ConflictError: another replica is making a version of the key.
        """
        table = tables.numbers
        with self._database.writing() as connection:
            _wait_for_changes(connection)  # whoever else gives out a number comes after
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
        owners = set(connection.execute(select(tables.intents.c.owner).where(tables.intents.c.key == key)).scalars())
        if (owners & self._living(connection)) - {self.replica}:
            raise ConflictError(f"another replica is making a version of key {key!r}; nothing was done, try again")

    def note(self, intent: Intent) -> None:
        """Note that a version is in a backend which was made on the way to another, and will not be recorded."""
        where = (tables.intents.c.key == intent.key) & (tables.intents.c.version == intent.version)
        with self._database.writing() as connection:
            connection.execute(delete(tables.intents).where(where))
            connection.execute(insert(tables.intents).values(**asdict(intent)))

    def holds(self, intent: Intent) -> bool:
        """Say whether an intent is still noted: neither was its version recorded nor was it abandoned."""
        table = tables.intents
        where = (table.c.key == intent.key) & (table.c.version == intent.version)
        with self._database.reading() as connection:
            return connection.execute(select(table.c.key).where(where)).first() is not None

    def recorded(self, intent: Intent) -> bool:
        """Say whether the version that an intent is about is on record."""
        table = tables.versions
        where = (table.c.key == intent.key) & (table.c.version == intent.version)
        with self._database.reading() as connection:
            return connection.execute(select(table.c.key).where(where)).first() is not None

    def living(self) -> frozenset[str]:
        """Return the ids of the replicas that are alive, this one among them. What the others are making is theirs."""
        with self._database.reading() as connection:
            return self._living(connection)

    def _living(self, connection: Connection) -> frozenset[str]:
        return registry.alive(connection, self._database.now, self.alive_for) | {self.replica}

    def register(self, name: str) -> None:
        """Note that this replica is alive, by a name for people. Does nothing where it is alone anyway."""
        if self.shared:
            self._known_as = name
            with self._database.writing() as connection:
                registry.enter(connection, self.replica, name, self._database.now)

    def seen(self) -> float:
        """Note that this replica is still alive.

        Returns the time by the clock of the database, in seconds since the epoch.
        """
        if not self.shared:
            return time.time()
        with self._database.writing() as connection:
            migrate.check(connection)
            return registry.see(connection, self.replica, self._known_as, self._database.now)

    def forget(self, name: str | None = None) -> None:
        """Note that the processes of this name, or all of them, have ended: what they were making is to be mended.

        For who knows that. Others wait until such a process was not seen for :attr:`alive_for`.
        """
        with self._database.writing() as connection:
            registry.forget(connection, name)

    def leave(self) -> None:
        """Note that this replica ends, so that the others mend at once what it leaves half made."""
        if self.shared:
            with self._database.writing() as connection:
                registry.leave(connection, self.replica)

    def finish_version(self, intent: Intent, version: KeyVersion, key: Key, changed: Sequence[KeyVersion]) -> Key:
        """Record a version that the backend made, its key as it now is, and the versions whose timelines change with it.

        Returns the key as it is on record then.

        Raises:
            AlreadyExistsError: the name, the kid or the public key is on record already.
            ConflictError: the key is on record otherwise than ``key`` was when it was read, or somebody else gave the intent up.
        """
        try:
            with self._database.writing() as connection:
                change = _next_change(connection)
                if intent.backend and not _forget(connection, intent):
                    raise ConflictError(f"version {intent.version} of key {intent.key!r} was given up by another replica")
                key = _write_key(connection, key, change)
                _write(connection, changed)
                connection.execute(insert(tables.versions).values(**rows.from_version(version)))
                connection.execute(insert(tables.archive).values(**rows.archived(version)))
                self._database.announce(connection, change)
                return key
        except IntegrityError as exc:
            raise AlreadyExistsError(
                f"kid {version.kid!r}, its public key, or the name of its key is on record already; a kid is never reused"
            ) from exc

    def abandon_version(self, intent: Intent) -> None:
        """Drop an intent of which nothing is left in the backend."""
        with self._database.writing() as connection:
            _forget(connection, intent)

    def update(self, key: Key, changed: Sequence[KeyVersion] = ()) -> Key:
        """Write a key that exists, with the handles, timelines and reasons of some of its versions.

        Returns the key as it is on record then.

        Raises:
            ConflictError: it is on record otherwise than ``key`` was when it was read.
        """
        with self._database.writing() as connection:
            change = _next_change(connection)
            key = _write_key(connection, key, change)
            _write(connection, changed)
            self._database.announce(connection, change)
            return key

    def forget_handle(self, version: KeyVersion) -> int:
        """Record that the private key of a version is destroyed for certain, and touch nothing else of it.

        Returns the number of the change.
        """
        table = tables.versions
        where = (table.c.key == version.key) & (table.c.version == version.version)
        with self._database.writing() as connection:
            change = _next_change(connection)
            connection.execute(update(table).where(where).values(handle=None))
            connection.execute(update(tables.keys).where(tables.keys.c.name == version.key).values(change=change))
            self._database.announce(connection, change)
            return change

    def revoke(self, tokens: Sequence[Revoked], ended: float) -> None:
        """Put tokens on the list of those that are revoked, and take those off that were over ``ended``."""
        with self._database.writing() as connection:
            change = _next_change(connection)
            revoked.add(connection, tokens, ended, change)
            self._database.announce(connection, change)

    def revoked(self, after: int = 0) -> tuple[list[Revoked], int]:
        """Return the tokens that were revoked after a change of that number, and the number of the newest change."""
        with self._database.reading() as connection:
            migrate.check(connection)
            return revoked.load(connection, after), connection.execute(select(tables.changes.c.last)).scalar_one()

    def newest_checkpoint(self) -> CheckpointRow | None:
        """Return the newest checkpoint of the audit trail of this replica."""
        return next(iter(self.checkpoints(1)), None)

    def checkpoints(self, most: int = KEEP_CHECKPOINTS) -> list[CheckpointRow]:
        """Return the newest checkpoints of the audit trail of this replica, newest first."""
        table = tables.audit_checkpoints
        own = select(table).where(table.c.replica == self._name)
        with self._database.reading() as connection:
            found = connection.execute(own.order_by(table.c.id.desc()).limit(most))
            return [CheckpointRow(row.seq, row.head, row.file, row.at) for row in found]

    def add_checkpoint(self, checkpoint: CheckpointRow) -> None:
        """Keep a checkpoint of the audit trail of this replica, and forget those before its newest :data:`KEEP_CHECKPOINTS`."""
        table = tables.audit_checkpoints
        own = table.c.replica == self._name
        too_old = select(table.c.id).where(own).order_by(table.c.id.desc()).offset(KEEP_CHECKPOINTS).limit(1).scalar_subquery()
        with self._database.writing() as connection:
            connection.execute(insert(table).values(**asdict(checkpoint), replica=self._name))
            connection.execute(delete(table).where(own, table.c.id <= too_old))

    def close(self) -> None:
        """Close all connections."""
        self._database.close()


def _many(result: Result[Any]) -> Iterator[Row[Any]]:
    """Go through rows, fetched many at a time: one by one takes twice as long."""
    return chain.from_iterable(result.partitions(1000))


def _next_change(connection: Connection) -> int:
    """Take the number of the next change. Until the transaction ends, everybody else who writes waits.

    Raises:
        StoreUnavailableError: a newer keyd upgraded the database meanwhile, so that this one cannot write it.
    """
    table = tables.changes
    connection.execute(update(table).values(last=table.c.last + 1))
    migrate.check(connection)
    return int(connection.execute(select(table.c.last)).scalar_one())


def _wait_for_changes(connection: Connection) -> None:
    """Take no number, for no key changes; but until the transaction ends, everybody else who writes waits. Raises as :func:`_next_change`."""
    connection.execute(update(tables.changes).values(last=tables.changes.c.last))
    migrate.check(connection)


def _write_key(connection: Connection, key: Key, change: int) -> Key:
    """Write a key if it is still as it was read, and return it as it is on record then. Raises ConflictError."""
    table, row = tables.keys, rows.from_key(replace(key, change=change))
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
        connection.execute(update(table).where(where).values(**rows.from_version(version)))


def _forget(connection: Connection, intent: Intent) -> bool:
    """Drop an intent. Returns whether it was there."""
    table = tables.intents
    where = (table.c.key == intent.key) & (table.c.version == intent.version)
    return bool(connection.execute(delete(table).where(where)).rowcount)
