"""Brings a database to the newest schema, whichever released schema it has."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection


def upgrade(connection: Connection) -> None:
    """Run every migration that the database has not seen, in the transaction of ``connection``."""
    config = Config()
    config.set_main_option("script_location", "keyd.core.store:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
