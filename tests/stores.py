"""Stores on either database, and what the tests put there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.postgres import Database, fresh_database
from sqlalchemy import text
from support import START, new_key

from keyd.core.model import Key, KeyVersion
from keyd.core.store import Intent, SqlStore
from keyd.core.timeline import Timeline, first

KINDS = ("sqlite", "postgres")


class Stores:
    """One database, and the stores that are open on it."""

    def __init__(self, kind: str, directory: Path, stack: ExitStack) -> None:
        self.postgres: Database | None = stack.enter_context(fresh_database()) if kind == "postgres" else None
        self.path = directory / "keyd.db"
        self._stack = stack

    def open(self, name: str = "one") -> SqlStore:
        store = SqlStore(self.path) if self.postgres is None else SqlStore.on_postgres(self.postgres.conninfo, replica_name=name)
        return self._stack.enter_context(closing(store))


def opened(kind: str, directory: Path) -> Iterator[Stores]:
    """For a fixture."""
    with ExitStack() as stack:
        yield Stores(kind, directory, stack)


def version(key: str = "agent", number: int = 1, kid: str = "", **changes: Any) -> KeyVersion:
    kid = kid or f"{key}/{number}"
    made = KeyVersion(key, number, kid, f"thumbprint of {kid}", f'{{"kty":"{kid}"}}', f"{key}.{number}", first(START))
    return replace(made, **changes)


def add(store: SqlStore, key: Key | None = None, number: int = 1, **changes: Any) -> Key:
    """Record a version as the keyring does, and return its key as it is on record."""
    key = key or new_key()
    intent = Intent(key.name, number, key.backend, store.replica)
    store.begin_version(intent)
    return store.finish_version(intent, version(key.name, number, **changes), key, ())


def run(store: SqlStore, statement: str, **values: Any) -> list[Any]:
    """Run a statement as keyd's own user."""
    with store._database.writing() as connection:
        result = connection.execute(text(statement), values)
        return list(result) if result.returns_rows else []


ALL_TIMES_SET = Timeline(*(START + 0.125 * number for number in range(1, 9)))
