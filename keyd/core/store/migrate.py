"""Brings a database to the newest schema, whichever released schema it has. One that a newer keyd upgraded stays as it is."""

from __future__ import annotations

from functools import cache

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, select

from keyd.core.errors import StoreUnavailableError
from keyd.core.store import tables


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Run every migration up to ``revision`` that the database has not seen, in the transaction of ``connection``.

    Raises:
        StoreUnavailableError: a newer keyd upgraded it, so that this one cannot use it.
    """
    found = current(connection)
    if found is not None and found not in known():
        check(connection)
        return
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def current(connection: Connection) -> str | None:
    """Return the revision of the schema that a database has; None where it has none yet."""
    return MigrationContext.configure(connection).get_current_revision()


def check(connection: Connection) -> None:
    """See whether this keyd can use the database as it is now. Raises StoreUnavailableError."""
    table = tables.compatibility
    oldest = connection.execute(select(table.c.oldest).where(table.c.id == 1)).scalar_one_or_none()
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
    """Return the revisions that this keyd can upgrade from."""
    return frozenset(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "keyd.core.store:migrations")
    return config
