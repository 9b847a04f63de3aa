"""All rows of a metadata database as values that JSON has, and back into an empty database of any kind.

Tables and columns are read from the database itself, so that nothing is forgotten here when a migration adds one, and so that rows of
an older schema go through the same migrations as a database that was there all the time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from sqlalchemy import Connection, MetaData, Table, func, insert, inspect, select, text, update
from sqlalchemy.exc import IntegrityError

from keyd.core.store import migrate, registry, tables
from keyd.core.store.database import Database

#: What is true of the processes that use a database, or of its schema, and not of the keys.
_PASSING = frozenset({"alembic_version", "replicas", "compatibility"})
#: Types of JSON values by the type of a column in Python; all others are of JSON itself.
_FITS: Mapping[type, tuple[type, ...]] = {str: (str,), int: (int,), float: (int, float), bool: (bool,)}

Row = Mapping[str, Any]


class DumpError(Exception):
    """Rows that are not what a database of their schema has, or a database that cannot take them. The message says which."""


@dataclass(frozen=True, slots=True)
class Dump:
    """What a database held at one moment.

    Attributes:
        schema: the revision of its schema.
        tables: its rows, by table; tables and columns as that schema has them.
    """

    schema: str
    tables: Mapping[str, tuple[Row, ...]]


@dataclass(frozen=True, slots=True)
class Since:
    """What happened after a dump was made, as far as others remember. Times in seconds since the epoch.

    Attributes:
        numbers: the highest version number that any key is known to have used, by key.
        skip: how many numbers of each key to leave out, because others may have been used that nobody remembers.
        counted: keys whose store never gives a number out twice; nothing is left out of theirs.
        compromised: when versions were marked compromised, by key and version.
        destroyed: when versions were destroyed, by key and version.
        disabled: when keys were disabled that were not enabled again.
        enabled: when keys were enabled that were not disabled again. One that the dump has as disabled later stays so.
    """

    numbers: Mapping[str, int] = field(default_factory=dict)
    skip: int = 0
    counted: Collection[str] = frozenset()
    compromised: Mapping[tuple[str, int], float] = field(default_factory=dict)
    destroyed: Mapping[tuple[str, int], float] = field(default_factory=dict)
    disabled: Mapping[str, float] = field(default_factory=dict)
    enabled: Mapping[str, float] = field(default_factory=dict)


NOTHING = Since()


def dump(database: Database) -> Dump:
    """Return all rows at one moment, whoever writes meanwhile.

    Raises:
        StoreUnavailableError: the database cannot be read.
        DumpError: it has no schema, or one that this keyd does not know.
    """
    with database.reading() as connection:
        schema = migrate.current(connection)
        if schema is None:
            raise DumpError("the database is empty: no daemon has used it yet")
        if schema not in migrate.known():
            raise DumpError(f"the database has schema {schema!r}, which this keyd does not know; run the keyd of the daemon")
        return Dump(
            schema,
            {
                table.name: tuple(dict(row._mapping) for row in connection.execute(select(table).order_by(*table.primary_key)))
                for table in _tables(connection)
            },
        )


def need_empty(database: Database) -> None:
    """Look whether a database can take rows.

    Raises:
        StoreUnavailableError: it does not answer.
        DumpError: it has keys, or had some.
    """
    with database.reading() as connection:
        _need_empty(connection, database)


def restore(database: Database, dump: Dump, since: Since = NOTHING) -> None:
    """Put rows into an empty database and bring it to the newest schema, all or nothing.

    What was being made when the dump was made is not noted any more: the store may hold it, and it may have been used since.

    Raises:
        StoreUnavailableError: the database does not take them.
        DumpError: the rows are not what a database of their schema has, or the database is not empty.
    """
    if dump.schema not in migrate.known():
        raise DumpError(f"the rows are of schema {dump.schema!r}, which this keyd does not know; restore them with a newer keyd")
    try:
        with database.migrating() as connection:
            _hold_off(connection)
            _need_empty(connection, database, dump.schema)
            migrate.upgrade(connection, dump.schema)
            _fill_all(connection, dump)
            migrate.upgrade(connection)
            connection.execute(tables.intents.delete())
            _catch_up(connection, since)
    except IntegrityError as exc:
        raise DumpError("the rows contradict one another") from exc


def _hold_off(connection: Connection) -> None:
    """Have a replica that starts meanwhile wait before it takes part, so that it does not miss what is put in."""
    if connection.dialect.name == "postgresql" and tables.replicas.name in inspect(connection).get_table_names():
        connection.execute(text(f"LOCK TABLE {tables.replicas.name} IN SHARE MODE"))


def _need_empty(connection: Connection, database: Database, schema: str | None = None) -> None:
    names = set(inspect(connection).get_table_names())
    there = migrate.current(connection)
    if there is None and names:
        raise DumpError("the database has tables that are not keyd's; give keyd a database of its own")
    if there is not None and schema is not None and there != schema:
        raise DumpError(
            f"the database has schema {there} already, and the rows are of schema {schema}; give it an empty database"
        )
    if "replicas" in names and registry.alive(connection, database.now, registry.ALIVE_FOR):
        raise DumpError("a daemon uses the database; stop every replica first")
    for name in ("keys", "versions", "archive", "version_numbers", "audit_checkpoints", "revoked_tokens"):
        if name in names and (count := connection.execute(text(f"SELECT count(*) FROM {name}")).scalar_one()):  # noqa: S608
            raise DumpError(
                f"the database is not empty (table {name} has {count} rows); move it away, nothing is ever overwritten"
            )


def _tables(connection: Connection) -> list[Table]:
    """Return the tables of a database as they are, those first that others refer to."""
    metadata = MetaData()
    metadata.reflect(connection)
    return [table for table in metadata.sorted_tables if table.name not in _PASSING]


def _fill_all(connection: Connection, dump: Dump) -> None:
    found = _tables(connection)
    unknown = sorted(set(dump.tables) - {table.name for table in found})
    if unknown:
        raise DumpError(f"schema {dump.schema} has no table {unknown[0]!r}")
    for table in found:
        _fill(connection, table, dump.tables.get(table.name, ()))


def _fill(connection: Connection, table: Table, rows: tuple[Row, ...]) -> None:
    for row in rows:
        _check(table, row)
    if connection.execute(select(func.count()).select_from(table)).scalar_one():
        connection.execute(table.delete())  # what a migration puts into a new database
    if rows:
        connection.execute(insert(table), [dict(row) for row in rows])
    if connection.dialect.name == "postgresql":
        _count_on(connection, table)


def _check(table: Table, row: Row) -> None:
    if set(row) != set(table.c.keys()):
        raise DumpError(f"a row of table {table.name} has other columns than its schema")
    for column in table.c:
        value = row[column.name]
        fits = column.nullable if value is None else type(value) in _FITS.get(column.type.python_type, (list, dict))
        if not fits:
            raise DumpError(f"column {column.name} of table {table.name} cannot have a value of type {type(value).__name__}")
        if not _is_sound(value):
            raise DumpError(f"column {column.name} of table {table.name} has a value that no database keeps")


def _is_sound(value: object) -> bool:
    """Say whether every database has the value: PostgreSQL no zero characters, SQLite no whole numbers of more than 64 bits."""
    if isinstance(value, str):
        return "\0" not in value and not any("\ud800" <= char <= "\udfff" for char in value)
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return not isinstance(value, float) or isfinite(value)


def _count_on(connection: Connection, table: Table) -> None:
    """Have a sequence go on behind the numbers that were put in: PostgreSQL does not look at them."""
    for column in table.primary_key:
        if column.type.python_type is int:
            sequence = connection.execute(select(func.pg_get_serial_sequence(table.name, column.name))).scalar()
            highest = connection.execute(select(func.max(column))).scalar()
            if sequence is not None and highest is not None:
                connection.execute(select(func.setval(sequence, highest)))


def _catch_up(connection: Connection, since: Since) -> None:
    numbers, versions, keys = tables.numbers, tables.versions, tables.keys
    highest = select(versions.c.key, func.max(versions.c.version)).group_by(versions.c.key)
    last: dict[str, int] = {key: version for key, version in connection.execute(highest)}  # noqa: C416 - rows are no pairs to mypy
    for row in connection.execute(select(numbers)):
        last[row.key] = max(row.last, last.get(row.key, 0))
    for key in {*last, *since.numbers}:
        skip = 0 if key in since.counted else since.skip
        behind = max(last.get(key, 0), since.numbers.get(key, 0)) + skip
        connection.execute(numbers.delete().where(numbers.c.key == key))
        connection.execute(insert(numbers).values(key=key, last=behind))
    for column, reason, times in (
        (versions.c.compromised_at, "marked compromised after the backup was made, as the audit trail says", since.compromised),
        (versions.c.destroyed_at, None, since.destroyed),
    ):
        for (key, version), at in times.items():
            where = (versions.c.key == key) & (versions.c.version == version) & column.is_(None)
            values = {column.name: at} | ({"compromise_reason": reason} if reason else {})
            connection.execute(update(versions).where(where).values(values))
    for key, at in since.enabled.items():
        connection.execute(update(keys).where((keys.c.name == key) & (keys.c.disabled_at < at)).values(disabled_at=None))
    for key, at in since.disabled.items():
        connection.execute(update(keys).where((keys.c.name == key) & keys.c.disabled_at.is_(None)).values(disabled_at=at))
