"""The table of revoked tokens: what is added is read by the number of its change, and leaves once it is over."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, delete, insert, select, update

from keyd.core.sessions.revocations import Revoked
from keyd.core.store import tables


def add(connection: Connection, tokens: Iterable[Revoked], ended: float, change: int) -> None:
    """Put tokens on the list, and take those off that were over ``ended``. Of one that is on it, the later end counts.

    The transaction has the number of the next change, so nobody else adds one meanwhile.
    """
    table = tables.revoked_tokens
    connection.execute(delete(table).where(table.c.expires_at <= ended))
    for token in tokens:
        row: dict[str, str | float] = {"issuer": token.issuer, "token_id": token.token_id}
        where = [table.c[name] == value for name, value in row.items()]
        known = connection.execute(select(table.c.expires_at).where(*where)).first()
        if known is None:
            row |= {"expires_at": token.expires, "revoked_at": token.revoked_at, "change": change}
            connection.execute(insert(table).values(row))
        elif known.expires_at < token.expires:
            connection.execute(update(table).where(*where).values(expires_at=token.expires, change=change))


def load(connection: Connection, after: int) -> list[Revoked]:
    """Return those that were added, or got a later end, after a change of that number."""
    table = tables.revoked_tokens
    found = connection.execute(select(table).where(table.c.change > after))
    return [Revoked(row.issuer, row.token_id, row.expires_at, row.revoked_at) for row in found]
