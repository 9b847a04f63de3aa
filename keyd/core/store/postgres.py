"""PostgreSQL as the database of a fleet, through psycopg 3, which the extra ``keyd[postgres]`` brings."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq.abc import PGconn
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Double,
    NullPool,
    cast,
    create_engine,
    extract,
    func,
    literal,
    select,
    text,
)
from sqlalchemy.exc import SQLAlchemyError

from keyd.core.errors import StoreUnavailableError
from keyd.core.store.database import Database

#: Where the numbers of changes are announced, by NOTIFY.
CHANNEL = "keyd_changes"
#: Key of the advisory lock of those who migrate. "keyd" in ASCII, and one.
MIGRATION_LOCK = 0x6B657964_00000001

_PATIENCE = 15.0  # seconds without an answer after which a connection is given up; the server's own timeouts come first
_MIGRATION = 600.0  # seconds that a migration, or waiting for another replica's, may take
#: What a connection is made with, unless the configured string says otherwise.
_CONNECTION: Mapping[str, Any] = {
    "application_name": "keyd",
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "target_session_attrs": "read-write",
}
# Who has taken the number of the next change holds up every other replica. One that is stopped there is thrown out before the
# others lose patience.
_SETTINGS: Mapping[str, str] = {
    "statement_timeout": "12s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "5s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
_LONG: Mapping[str, str] = {
    "statement_timeout": f"{_MIGRATION:g}s",
    "lock_timeout": f"{_MIGRATION:g}s",
    "idle_in_transaction_session_timeout": "60s",
}

R = TypeVar("R")


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that is given up when the server does not answer. libpq itself waits for ever, as long as the line is there.

    Attributes:
        patience: seconds that an answer may take.
    """

    patience = _PATIENCE

    def wait(self, gen: Generator[Any, Any, R], *args: Any, **kwargs: Any) -> R:
        """Wait for the server as psycopg does, and not longer than ``patience``. Raises psycopg.OperationalError."""
        return super().wait(bounded(gen, self.pgconn, self.patience), *args, **kwargs)


def bounded(gen: Generator[Any, Any, R], connection: PGconn, patience: float) -> Generator[Any, Any, R]:
    """Return what psycopg waits for as ``gen``, which gives ``connection`` up after ``patience`` seconds.

    Raises:
        psycopg.OperationalError: at its turn, when that long nothing came.
    """
    end = time.monotonic() + patience
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > end:
                connection.finish()  # an answer that comes yet must not be taken for that to the next question
                raise psycopg.OperationalError(f"the server did not answer within {patience:g} s")
            wanted = gen.send(ready)
    except StopIteration as done:
        result: R = done.value
        return result


def connect(conninfo: str, settings: Mapping[str, str] = _SETTINGS, patience: float = _PATIENCE) -> BoundedConnection:
    """Open a connection whose every wait is bounded.

    Args:
        conninfo: for libpq. What it says itself, ``options`` too, prevails.
        settings: run-time parameters of the session.
        patience: see :class:`BoundedConnection`.

    Raises:
        psycopg.Error: there is none to be had.
    """
    given = conninfo_to_dict(conninfo)
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    fixed = {"options": f"{options} {given.get('options') or ''}".strip(), "client_encoding": "utf8"}
    parameters = make_conninfo("", **{**_CONNECTION, **given, **fixed})
    # What the server knows of prepared statements may not fit any more after another replica has changed the schema.
    connection = BoundedConnection.connect(parameters, prepare_threshold=None)
    connection.patience = patience
    return connection


class Postgres(Database):
    """A database on a PostgreSQL server, which any number of replicas use."""

    shared = True
    _reading: Mapping[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}

    def __init__(self, conninfo: str, settings: Mapping[str, str] | None = None, patience: float = _PATIENCE) -> None:
        """Get ready to connect; nothing is asked yet.

        Args:
            conninfo: for libpq, with the password. Kept, and never shown.
            settings: run-time parameters of the sessions other than the built-in ones.
            patience: seconds that any one answer may take.
        """
        self._conninfo = conninfo
        self._engine = create_engine(
            "postgresql+psycopg://",
            creator=partial(connect, conninfo, {**_SETTINGS, **(settings or {})}, patience),
            pool_size=3,
            max_overflow=5,
            pool_timeout=5,
            pool_pre_ping=True,  # the server may have been started anew
            use_native_hstore=False,
            hide_parameters=True,
        )

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """Begin a transaction that may change the schema, alone among all replicas. Raises as :meth:`writing`."""
        engine = create_engine(
            "postgresql+psycopg://",
            creator=partial(connect, self._conninfo, {**_SETTINGS, **_LONG}, _MIGRATION),
            poolclass=NullPool,
            use_native_hstore=False,
            hide_parameters=True,
        )
        try:
            with engine.begin() as connection:
                # Before anything is read, so that what the one before did is seen.
                connection.execute(select(func.pg_advisory_xact_lock(literal(MIGRATION_LOCK, BigInteger))))
                encoding = connection.execute(text("SHOW server_encoding")).scalar_one()
                if encoding != "UTF8":
                    raise StoreUnavailableError(
                        f"the metadata database has the encoding {encoding}; make one with CREATE DATABASE ... ENCODING 'UTF8'"
                    )
                yield connection
        except SQLAlchemyError as exc:
            raise StoreUnavailableError(f"the metadata database cannot be opened ({self._cause(exc)})") from exc
        finally:
            engine.dispose()

    @property
    def now(self) -> ColumnElement[float]:
        """The time of the server, not of the beginning of the transaction."""
        return cast(extract("epoch", func.clock_timestamp()), Double)

    def announce(self, connection: Connection, change: int) -> None:
        """NOTIFY, with the number of the change as payload."""
        connection.execute(select(func.pg_notify(CHANNEL, str(change))))

    def _is_full(self, exc: SQLAlchemyError) -> bool:
        return getattr(getattr(exc, "orig", None), "sqlstate", None) == "53100"
