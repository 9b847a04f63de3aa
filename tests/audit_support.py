"""What the tests of the audit trail need."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support import START, FakeClock

from backends.api import Algorithm
from keyd.core.audit import files
from keyd.core.audit.checkpoints import TYPE, Checkpointer, compact
from keyd.core.audit.sinks import Sink
from keyd.core.audit.trail import AuditTrail, Head, Rules
from keyd.core.audit.trail_file import TrailFile
from keyd.core.audit.verify import Expected, Report, Verifier
from keyd.core.decision import Decision
from keyd.core.jws import b64url
from keyd.core.principal import Principal
from keyd.core.store import CheckpointRow

PRINCIPAL = Principal(uid=1000, gid=1000, pid=77, executable="/usr/bin/agent", unit="shop.service")


def decision(number: int = 0, **changes: object) -> Decision:
    """Return an allowed signature."""
    made = Decision(
        PRINCIPAL,
        "sign",
        START + number,
        key="agent",
        kid="kid-1",
        version=1,
        purpose="http",
        grant="shop",
        method="GET",
        authority="api.example",
        path=f"/{number}",
        created=int(START),
        digest=hashlib.sha256(b"%d" % number).digest(),
        latency=0.0001,
    )
    for name, value in changes.items():
        setattr(made, name, value)
    return made


class LocalSigner:
    """An audit key in memory, that can be told to fail."""

    def __init__(self) -> None:
        self.private = Ed25519PrivateKey.generate()
        self.failure: Exception | None = None

    @property
    def keys(self) -> dict[str, tuple[object, Algorithm]]:
        return {"audit-kid": (self.private.public_key(), Algorithm.ED25519)}

    async def sign(self, payload: bytes) -> str:
        if self.failure is not None:
            raise self.failure
        data = compact({"alg": "Ed25519", "typ": TYPE, "kid": "audit-kid"}, payload)
        return f"{data.decode()}.{b64url(self.private.sign(data))}"


class Rows:
    """The database, as far as checkpoints need one."""

    def __init__(self) -> None:
        self.rows: list[CheckpointRow] = []

    def add_checkpoint(self, checkpoint: CheckpointRow) -> None:
        self.rows.append(checkpoint)


class World:
    """A trail in a directory, and what belongs to it; may be started again and again."""

    def __init__(self, directory: Path, rules: Rules | None = None, sinks: Iterable[Sink] = ()) -> None:
        self.directory = directory
        self.rules = rules or Rules(sync_interval=0.001)
        self.sinks = list(sinks)
        self.clock = FakeClock()
        self.signer = LocalSigner()
        self.store = Rows()
        self.fileless = False

    async def start(self) -> AuditTrail:
        file = None if self.fileless else TrailFile(self.directory)
        self.trail = AuditTrail(file, self.sinks, self.rules, self.clock)
        self.checkpointer = Checkpointer(self.trail, self.signer, self.store, self.clock, 3600)
        row = self.store.rows[-1] if self.store.rows else None
        await self.trail.start("1.0", Head(row.seq, row.head) if row else None)
        return self.trail

    async def stop(self) -> None:
        await self.checkpointer.stop(5)
        await self.trail.stop()

    async def crash(self) -> None:
        """End without the last words."""
        await self.trail.stop()

    def verify(self, *, database: bool = True, begins: int | None = 1) -> Report:
        expected = [Expected(row.seq, row.head, "the database") for row in self.store.rows] if database else []
        verifier = Verifier(keys=self.signer.keys, expected=expected, begins=begins)  # type: ignore[arg-type]
        return verifier.run(files.in_directory(self.directory))

    @property
    def path(self) -> Path:
        return self.directory / files.CURRENT

    def lines(self) -> list[bytes]:
        return self.path.read_bytes().splitlines(keepends=True)
