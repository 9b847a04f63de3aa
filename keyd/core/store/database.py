"""A database as the store uses it: transactions that read or write, and failures in words. SQLite is here; see also postgres.py."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import URL, ColumnElement, Connection, Engine, create_engine, event, literal
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from keyd.core.errors import InvalidArgumentError, KeydError, StorageFullError, StoreUnavailableError


class Database(ABC):
    """Makes transactions. In each, every statement sees the same moment or, where it writes, is alone.

    Attributes:
        shared: whether other processes use it.
    """

    shared: bool
    _engine: Engine
    #: The options of a connection that only reads.
    _reading: Mapping[str, Any]

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Begin a transaction that sees one moment and changes nothing. Raises StoreUnavailableError."""
        try:
            with self._engine.connect() as plain:
                connection = plain.execution_options(**self._reading)
                with connection.begin():
                    yield connection
        except SQLAlchemyError as exc:
            raise StoreUnavailableError(f"the metadata database does not answer ({self._cause(exc)})") from exc

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Begin a transaction that may write.

        Raises:
            InvalidArgumentError: a text is too long for the database, or not one.
            StorageFullError: it has no room.
            StoreUnavailableError: it does not answer. The message says when the change may have been made all the same.
        """
        committing = False
        try:
            with self._engine.begin() as connection:
                yield connection
                committing = True
        except IntegrityError:
            raise
        except SQLAlchemyError as exc:
            raise self._failure(exc, committing) from exc

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """Begin a transaction that may change the schema. Others who migrate wait. Raises as :meth:`writing`."""
        with self.writing() as connection:
            yield connection

    @property
    @abstractmethod
    def now(self) -> ColumnElement[float]:
        """The time by the database's own clock, in seconds since the epoch, as an expression."""

    @abstractmethod
    def announce(self, connection: Connection, change: int) -> None:
        """Tell the other replicas of a change once the transaction is committed."""

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _failure(self, exc: SQLAlchemyError, committing: bool) -> KeydError:
        cause = self._cause(exc)
        if isinstance(exc, DataError):
            return InvalidArgumentError(f"the metadata database cannot hold this ({cause}); nothing was changed")
        failed = f"the metadata database does not take the change ({cause})"
        if self._is_full(exc):
            return StorageFullError(f"{failed}; make room on its disk, then try again")
        if committing:
            return StoreUnavailableError(f"{failed}; it may have been made all the same, look before you repeat it")
        return StoreUnavailableError(f"{failed}; nothing was changed")

    @staticmethod
    def _cause(exc: SQLAlchemyError) -> str:
        """Return what the driver says, without the statement and its values, on one line."""
        driver = getattr(exc, "orig", None)
        primary = getattr(getattr(driver, "diag", None), "message_primary", None)
        return " ".join((primary or str(driver or type(exc).__name__)).split())

    @abstractmethod
    def _is_full(self, exc: SQLAlchemyError) -> bool: ...


class Sqlite(Database):
    """A file that belongs to one daemon: to this process, or to the workers on this machine."""

    _reading: Mapping[str, Any] = {"keyd_reads": True}

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        """Open the database at ``path``, made when there is none; ``shared`` says whether other workers use it."""
        self.shared = shared
        # What is JSON here are a few lists of words, the same for most keys.
        url, words = URL.create("sqlite", database=str(path)), lru_cache(maxsize=1024)(json.loads)
        self._engine = create_engine(url, connect_args={"timeout": 5}, json_deserializer=words)
        event.listen(self._engine, "connect", _configure)
        event.listen(self._engine, "begin", _begin)

    @property
    def now(self) -> ColumnElement[float]:
        """The time of this machine: there is no other."""
        return literal(time.time())

    def announce(self, connection: Connection, change: int) -> None:
        """There is nobody else, or whoever supervises the workers tells them."""

    def _is_full(self, exc: SQLAlchemyError) -> bool:
        cause = self._cause(exc)
        return "full" in cause or "disk I/O error" in cause


def _configure(connection: Any, _: object) -> None:
    connection.isolation_level = None  # the driver's own BEGIN leaves schema changes outside of the transaction
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # a version that was announced must survive a power cut
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin(connection: Connection) -> None:
    # A reader sees one moment with a plain BEGIN, and waits for nobody. A writer is alone from the start, because what began as a
    # reader is refused when it writes after somebody else.
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get("keyd_reads") else "BEGIN IMMEDIATE")
