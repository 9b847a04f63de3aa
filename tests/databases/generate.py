"""Makes a database with keys in every state, with the code of an older release, for the tests of migrations.

Run it where that release is checked out, with the libraries of this one:

    git worktree add --detach OLD COMMIT
    PYTHONPATH=OLD python tests/databases/generate.py tests/databases/REVISION

It writes ``database.sql`` (text, so that a review sees what is in it) and the key files, which are encrypted under :data:`KEK`.
Times are around :data:`NOW`, by which the states are those that the names of the keys say.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import sys
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from backends.api import Algorithm, BackendContext
from backends.errors import BackendError
from backends.file import FileBackend, FileConfig
from backends.secrets import SecretRef
from keyd.core.keyring import Keyring
from keyd.core.model import Key, KidFormat, Purpose
from keyd.core.profile import BUILT_IN
from keyd.core.runner import BackendRunner
from keyd.core.store import Intent, SqlStore
from keyd.core.timeline import LifecyclePolicy

#: The present of the tests, in seconds since the epoch.
NOW = 1_800_000_000.0
KEK = bytes(range(32))
DAY = 86400.0


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.time = NOW

    def now(self) -> float:
        """Return the time that it was set to."""
        return self.time


class World:
    """A keyring on a database and key files in a directory."""

    def __init__(self, directory: Path) -> None:
        self.clock = Clock()
        kek = directory / "kek"
        kek.touch(mode=0o600)
        kek.write_bytes(KEK)
        self.keys = directory / "keys"
        self.backend = FileBackend.open(
            FileConfig(directory=self.keys, kek=SecretRef(file=kek)), BackendContext("file", directory / "state")
        )
        self.store = SqlStore(directory / "keyd.db")
        self.runner = BackendRunner("file", self.backend)
        self.ring = Keyring(self.store, {"file": self.runner}, self.clock, served_max_age=300)
        self.ring.profiles = BUILT_IN

    async def create(self, name: str, ago: float, **changes: object) -> None:
        """Make a key some seconds before the present."""
        self.clock.time = NOW - ago
        key = Key(
            name=name,
            algorithm=Algorithm.ED25519,
            backend="file",
            purposes=frozenset({Purpose.HTTP}),
            profile="rfc9421",
            kid_format=KidFormat.THUMBPRINT,
            keyid_aliases=(),
            publish=True,
            lifecycle=LifecyclePolicy(),
            created_at=self.clock.time,
        )
        await self.ring.create(replace(key, **changes))  # type: ignore[arg-type]

    async def rotate(self, name: str, ago: float, *, at_once: bool = True) -> None:
        """Make the next version."""
        self.clock.time = NOW - ago
        await self.ring.rotate(name, at_once=at_once)

    async def destroy(self, name: str, ago: float) -> None:
        """Destroy the first version, also if it is still published."""
        self.clock.time = NOW - ago
        await self.ring.destroy(name, 1, force=True)

    def half_made(self, name: str) -> None:
        """Leave what a kill between the backend's work and the record of it leaves."""
        intent = Intent(name, self.store.next_version(name), "file")
        self.store.begin_version(intent)
        self.backend.create(name, intent.version, Algorithm.ED25519)

    def close(self) -> None:
        """Close everything."""
        self.store.close()
        self.runner.close()


async def fill(world: World) -> None:
    """Make keys in every state."""
    await world.ring.start()
    await world.create("active", 20 * DAY, algorithm=Algorithm.ES256, kid_format=KidFormat.NAME_VERSION, keyid_aliases=("alias",))
    await world.create("waiting", 20 * DAY)
    await world.rotate("waiting", 600, at_once=False)
    await world.create("grace", 20 * DAY)
    await world.rotate("grace", 100)
    await world.create("after-grace", 20 * DAY)
    await world.rotate("after-grace", 1000)
    await world.create("unpublished", 20 * DAY)
    await world.rotate("unpublished", 10 * DAY)
    await world.create("compromised", 20 * DAY)
    world.clock.time = NOW - DAY
    await world.ring.compromise("compromised", 1, "laptop stolen")
    await world.create("compromised-waiting", 20 * DAY)
    await world.rotate("compromised-waiting", 600, at_once=False)
    world.clock.time = NOW - 300
    await world.ring.compromise("compromised-waiting", 2, "copied")
    await world.create("destroyed", 20 * DAY)
    await world.rotate("destroyed", 10 * DAY)
    await world.destroy("destroyed", DAY)
    await world.create("being-destroyed", 20 * DAY)
    await world.rotate("being-destroyed", 10 * DAY)
    destroy, world.backend.destroy = world.backend.destroy, failing  # type: ignore[method-assign]
    await world.destroy("being-destroyed", DAY)
    world.backend.destroy = destroy  # type: ignore[method-assign]
    await world.create("disabled", 20 * DAY)
    world.clock.time = NOW - DAY
    await world.ring.set_enabled("disabled", enabled=False)
    await world.create("unlisted", 20 * DAY, publish=False, purposes=frozenset({Purpose.JWT}))
    world.half_made("active")
    world.half_made("never-made")
    await checkpoints(world)


async def checkpoints(world: World) -> None:
    """Note where an audit trail was signed, and its key, if the release keeps one."""
    try:
        from keyd.core.store import CheckpointRow
    except ImportError:
        return
    await world.create("keyd-audit", 20 * DAY, purposes=frozenset({Purpose.AUDIT}), publish=False)
    for number in (1, 2):
        world.store.add_checkpoint(CheckpointRow(10 * number, f"{number}" * 64, "/var/lib/keyd/audit", NOW - DAY + number))


def failing(handle: str) -> None:
    """Take the place of the backend's method for a while."""
    raise BackendError("it does not answer")


def main(directory: Path) -> None:
    """Write the database and the key files to a directory."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        world = World(Path(temporary))
        asyncio.run(fill(world))
        world.close()
        with closing(sqlite3.connect(Path(temporary) / "keyd.db")) as database:
            (directory / "database.sql").write_text("".join(f"{line}\n" for line in database.iterdump()))
        for file in sorted(world.keys.iterdir()):
            shutil.copyfile(file, directory / file.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
