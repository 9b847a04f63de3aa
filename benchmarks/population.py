"""Many keys, made fast: with files and rows like those that the daemon makes, but without waiting for the disk, in a daemon that does not run."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from unittest import mock

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from backends.api import Algorithm, BackendContext
from backends.file import FileBackend, FileConfig
from backends.secrets import SecretRef
from keyd.core import jwk


def name_of(number: int) -> str:
    """Return the name of one of them."""
    return f"key-{number:06}"


def populate(state: Path, kek: Path, template: str, count: int) -> None:
    """Add keys named as :func:`name_of` says.

    Args:
        state: the daemon's ``state_dir``, with SQLite.
        kek: of its backend ``file``.
        template: name of a key with one version, of which the others are copies but for their key pair.
    """
    directory = next(path for path in state.rglob("keys") if path.is_dir())
    made = []
    # Without waiting for the disk, and without reading back and decrypting what was just written.
    with mock.patch("os.fsync", lambda _: None), mock.patch("backends.file.generate_private_key") as generate:
        backend = FileBackend.open(
            FileConfig(directory=directory, kek=SecretRef(file=kek)), BackendContext("file", directory.parent)
        )
        for number in range(count):
            private = generate.return_value = Ed25519PrivateKey.generate()
            name = name_of(number)
            handle = backend.create(name, 1, Algorithm.ED25519)
            made.append((name, handle, *jwk.from_public_key(private.public_key())))
        assert jwk.from_public_key(backend.public_key(made[-1][1])) == made[-1][2:]
        backend.close()
    with sqlite3.connect(state / "keyd.db", isolation_level=None) as database:
        database.row_factory = sqlite3.Row
        database.execute("BEGIN")
        _copy(database, "keys", "name", template, [{"name": name} for name, *_ in made])
        fields = ("key", "handle", "public_jwk", "thumbprint", "kid")
        versions = [dict(zip(fields, (*each, each[-1]), strict=True)) for each in made]
        _copy(database, "versions", "key", template, versions)
        for version in versions:
            del version["handle"], version["thumbprint"]
        _copy(database, "archive", "key", template, versions)
        _copy(database, "version_numbers", "key", template, [{"key": name} for name, *_ in made])
        database.execute("COMMIT")
    database.close()
    os.sync()


def _copy(database: sqlite3.Connection, table: str, column: str, template: str, changes: list[dict[str, str]]) -> None:
    row = dict(database.execute(f"SELECT * FROM {table} WHERE {column} = ?", (template,)).fetchone())
    names = ", ".join(f'"{name}"' for name in row)
    marks = ", ".join(f":{name}" for name in row)
    database.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", (row | change for change in changes))
