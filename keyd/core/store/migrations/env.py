"""Run by Alembic; the connection comes from :mod:`keyd.core.store.migrate`."""

from alembic import context

from keyd.core.store import tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.metadata,
    transaction_per_migration=False,
)
context.run_migrations()
