"""Brings a database to the newest schema, whichever released schema it has. One that a newer keyd upgraded stays as it is.

Alembic does it, and is imported only where there is something to do: to import it is a tenth of the start of a daemon with few keys.
"""

from __future__ import annotations

import pkgutil
from functools import cache

from sqlalchemy import Connection, column, inspect, select, table

from keyd.core.errors import StoreUnavailableError
from keyd.core.store import tables
from keyd.core.store.migrations import versions

#: Where Alembic notes the revision.
_version = table("alembic_version", column("version_num"))


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Run every migration up to ``revision`` that the database has not seen, in the transaction of ``connection``.

    Raises:
        StoreUnavailableError: a newer keyd upgraded it, so that this one cannot use it.
    """
    found = current(connection)
    if found == (newest() if revision == "head" else revision):
        return
    if found is not None and found not in known():
        check(connection)
        return
    # Here, because most starts need it no more: see above.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "keyd.core.store:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def current(connection: Connection) -> str | None:
    """Return the revision of the schema that a database has; None where it has none yet."""
    if not inspect(connection).has_table(_version.name):
        return None
    return connection.execute(select(_version.c.version_num)).scalar_one_or_none()


def check(connection: Connection) -> None:
    """See whether this keyd can use the database as it is now. Raises StoreUnavailableError."""
    row = tables.compatibility
    oldest = connection.execute(select(row.c.oldest).where(row.c.id == 1)).scalar_one_or_none()
    if oldest is None or oldest > newest():
        raise StoreUnavailableError(
            f"the metadata database was upgraded by a newer keyd; it needs one that knows schema {oldest}, and this one "
            f"knows those up to {newest()}; upgrade keyd"
        )


def newest() -> str:
    """Return the newest schema that this keyd knows. Revisions are numbers of four digits, so that they compare as text."""
    return max(known())


@cache
def known() -> frozenset[str]:
    """Return the revisions that this keyd can upgrade from: each has a module, whose name begins with it."""
    return frozenset(module.name.partition("_")[0] for module in pkgutil.iter_modules(versions.__path__))
