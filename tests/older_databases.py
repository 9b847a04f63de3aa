"""The databases in ``tests/databases``: one of each older schema, with keys in every state; see ``generate.py`` there."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

DATABASES = Path(__file__).parent / "databases"
SCHEMAS = sorted(path.name for path in DATABASES.iterdir() if (path / "database.sql").is_file())
KEK = bytes(range(32))

#: The state of each version at the present of the databases, which is ``support.START``.
STATES = {
    "active": ["active"],
    "waiting": ["active", "pre-activation"],
    "grace": ["deactivated", "active"],
    "after-grace": ["deactivated", "active"],
    "unpublished": ["deactivated", "active"],
    "compromised": ["compromised", "active"],
    "compromised-waiting": ["active", "compromised"],
    "destroyed": ["destroyed", "active"],
    "being-destroyed": ["destroyed", "active"],
    "disabled": ["active"],
    "unlisted": ["active"],
    "keyd-audit": ["active"],
}
#: Deactivated versions that still sign what names them.
IN_GRACE = {("grace", 1)}
#: Private keys that are there and that nobody recorded, or that are to be destroyed.
LEFT_OVER = {"active.2.key", "never-made.1.key", "being-destroyed.1.key"}


def lay_out(schema: str, directory: Path) -> None:
    """Make the state directory of a daemon of that schema in a directory, with its key-encryption key beside it."""
    keys = directory / "state/backends/file/keys"
    for each in (directory / "state", directory / "state/backends", directory / "state/backends/file", keys):
        each.mkdir(mode=0o700)
    with closing(sqlite3.connect(directory / "state/keyd.db")) as database:
        database.executescript((DATABASES / schema / "database.sql").read_text())
    for file in (DATABASES / schema).glob("*.key"):
        shutil.copyfile(file, keys / file.name)
        (keys / file.name).chmod(0o400)
    (directory / "kek").write_bytes(KEK)
    (directory / "kek").chmod(0o400)
