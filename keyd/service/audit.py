"""AuditService: where the audit trail is."""

from __future__ import annotations

import asyncio
from typing import Protocol

from keyd.core.audit.key import AuditKey
from keyd.core.audit.trail import AuditTrail
from keyd.core.store import SqlStore
from keyd.service.call import Call
from keyd.v1 import audit_service_pb2 as pb


class Kept(Protocol):
    """A trail that is kept, and what belongs to it."""

    @property
    def trail(self) -> AuditTrail:
        """The trail."""
        ...

    @property
    def key(self) -> AuditKey:
        """What signs it."""
        ...

    @property
    def store(self) -> SqlStore:
        """Where its checkpoints are."""
        ...


class AuditService:
    """Answers what a reader of the trail compares it with."""

    def __init__(self, kept: Kept | None) -> None:
        """Take the trail; None when none is kept."""
        self._kept = kept

    async def get_head(self, request: pb.GetHeadRequest, call: Call) -> pb.GetHeadResponse:
        """Return the newest record."""
        if self._kept is None:
            return pb.GetHeadResponse(enabled=False)
        rows = await asyncio.to_thread(self._kept.store.checkpoints)
        trail = self._kept.trail
        return pb.GetHeadResponse(
            enabled=True,
            seq=trail.head.seq,
            digest=trail.head.digest,
            synced=trail.synced,
            directory=str(trail.directory or ""),
            failure=trail.failure or "",
            public_jwks=self._kept.key.public_jwks(),
            checkpoints=[pb.AuditCheckpoint(seq=row.seq, digest=row.head) for row in rows],
        )
