"""Which replicas use a database, by the database's own clock: theirs may differ."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from keyd.core.store import tables

#: Seconds after which a replica that was not seen is taken for dead, and what it was making is mended by the others.
ALIVE_FOR = 30.0
#: Seconds after which nobody wants to know of it any more.
_FORGOTTEN_AFTER = 86400.0


def enter(connection: Connection, replica: str, name: str, now: ColumnElement[float]) -> float:
    """Note that a replica is alive, and forget those that are long dead. Returns the time."""
    table = tables.replicas
    at: float = connection.execute(select(now)).scalar_one()
    connection.execute(delete(table).where((table.c.id == replica) | (table.c.seen_at < at - _FORGOTTEN_AFTER)))
    connection.execute(insert(table).values(id=replica, name=name, started_at=at, seen_at=at))
    return at


def see(connection: Connection, replica: str, name: str, now: ColumnElement[float]) -> float:
    """Note that a replica is still alive; also one that was forgotten meanwhile. Returns the time."""
    table = tables.replicas
    at: float = connection.execute(select(now)).scalar_one()
    if not connection.execute(update(table).where(table.c.id == replica).values(seen_at=at)).rowcount:
        return enter(connection, replica, name, now)
    return at


def leave(connection: Connection, replica: str) -> None:
    """Note that a replica ends. What it leaves half made is for the others to mend, at once."""
    connection.execute(delete(tables.replicas).where(tables.replicas.c.id == replica))


def forget(connection: Connection, name: str | None) -> None:
    """Note that the replicas of this name, or all of them, have ended."""
    table = tables.replicas
    connection.execute(delete(table) if name is None else delete(table).where(table.c.name == name))


def alive(connection: Connection, now: ColumnElement[float], within: float) -> frozenset[str]:
    """Return the ids of the replicas that were seen ``within`` so many seconds."""
    table = tables.replicas
    return frozenset(connection.execute(select(table.c.id).where(table.c.seen_at > now - within)).scalars())
