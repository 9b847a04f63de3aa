"""A connection to PostgreSQL beside those of the store: for what only a session can do, to listen and to hold a lock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from typing import Any, LiteralString, TypeVar

import psycopg

from keyd.core.store.postgres import bounded

#: What is raised when the database is away, or does not answer in time.
AWAY = (psycopg.OperationalError, psycopg.InterfaceError, OSError, TimeoutError)
_PATIENCE = 5.0  # seconds for one answer

R = TypeVar("R")


class _Connection(psycopg.AsyncConnection[Any]):
    """Gives itself up when the server does not answer.

    To cancel psycopg's own wait instead would ask the server to stop what it does, and wait for that: ten seconds more.
    """

    async def wait(self, gen: Generator[Any, Any, R], *args: Any, **kwargs: Any) -> R:
        return await super().wait(bounded(gen, self.pgconn, _PATIENCE), *args, **kwargs)


class Session:
    """One connection, each of whose statements is a transaction of its own."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection

    async def run(self, statement: LiteralString, *values: int) -> Any:
        """Run a statement and return the first column of its first row; None without rows. Raises as :data:`AWAY` has it."""
        cursor = await self._connection.execute(statement, values or None)
        row = await cursor.fetchone() if cursor.description is not None else None
        return None if row is None else row[0]

    async def notified(self, within: float) -> None:
        """Return at the next notification, or after ``within`` seconds."""
        async for _ in self._connection.notifies(timeout=within, stop_after=1):
            pass


@asynccontextmanager
async def session(conninfo: str) -> AsyncIterator[Session]:
    """Open a connection; closed at the end. ``conninfo`` is as libpq takes it. Raises as :data:`AWAY` has it."""
    async with asyncio.timeout(_PATIENCE):
        connection = await _Connection.connect(conninfo, autocommit=True)
    try:
        yield Session(connection)
    finally:
        await connection.close()


def cause(exc: BaseException) -> str:
    """Return what is wrong in one line. The driver's messages have host, port and user, and no password."""
    return " ".join(str(exc).split()) or type(exc).__name__
