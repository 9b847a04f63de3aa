"""Where the audit trails of all workers are: each keeps one of its own."""

from __future__ import annotations

from keyd.core.principal import Principal
from keyd.service.audit import AuditService
from keyd.service.call import Call, Caller
from keyd.team.member import Member
from keyd.v1 import audit_service_pb2 as pb

_PART = "audit_head"
#: Whoever asks was let in by the worker that was called; here nothing more is asked.
_CALL = Call(Caller(Principal()))


class HeadsOfAll:
    """AuditService of all workers together."""

    def __init__(self, own: AuditService, team: Member) -> None:
        """``own`` is that of this worker."""
        self._own = own
        self._team = team
        team.takes_part({_PART: self._part})

    async def get_head(self, request: pb.GetHeadRequest, call: Call) -> pb.GetHeadResponse:
        """Return the newest record of each trail."""
        head = await self._own.get_head(request, call)
        for _, answer in await self._team.others(_PART):
            other = head.others.add()
            other.ParseFromString(answer)
            other.ClearField("public_jwks")
        return head

    async def _part(self, _: bytes) -> bytes:
        return (await self._own.get_head(pb.GetHeadRequest(), _CALL)).SerializeToString()
