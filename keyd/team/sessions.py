"""What operators do with sessions, whichever worker has them: each is in the memory of one."""

from __future__ import annotations

from keyd.core.errors import SessionError, StoreUnavailableError
from keyd.core.principal import Principal
from keyd.service.call import Call, Caller
from keyd.service.sessions import SessionAdminService
from keyd.team.member import Member
from keyd.v1 import session_service_pb2 as pb

_LIST, _REVOKE = "list_sessions", "revoke_session"
_DONE, _FAILED, _NONE = b"+", b"!", b""
#: Whoever asks was let in by the worker that was called; here nothing more is asked.
_CALL = Call(Caller(Principal()))


class SessionsOfAll:
    """SessionAdminService of all workers together."""

    def __init__(self, own: SessionAdminService, team: Member) -> None:
        """``own`` is that of this worker."""
        self._own = own
        self._team = team
        self.revoke_token, self.list_revoked_tokens = own.revoke_token, own.list_revoked_tokens
        team.takes_part({_LIST: self._listed, _REVOKE: self._revoked})

    async def list_sessions(self, request: pb.ListSessionsRequest, call: Call) -> pb.ListSessionsResponse:
        """List the open sessions of all workers."""
        found = await self._own.list_sessions(request, call)
        for _, answer in await self._team.others(_LIST, request.SerializeToString()):
            found.MergeFromString(answer)
        return found

    async def revoke_session(self, request: pb.RevokeSessionRequest, call: Call) -> pb.RevokeSessionResponse:
        """End a session, wherever it is, and revoke its tokens."""
        try:
            return await self._own.revoke_session(request, call)
        except SessionError:
            for _, answer in await self._team.others(_REVOKE, request.SerializeToString()):
                if answer[:1] == _FAILED:
                    raise StoreUnavailableError(answer[1:].decode()) from None
                if answer[:1] == _DONE:
                    return pb.RevokeSessionResponse.FromString(answer[1:])
            raise

    async def _listed(self, payload: bytes) -> bytes:
        return (await self._own.list_sessions(pb.ListSessionsRequest.FromString(payload), _CALL)).SerializeToString()

    async def _revoked(self, payload: bytes) -> bytes:
        try:
            done = await self._own.revoke_session(pb.RevokeSessionRequest.FromString(payload), _CALL)
        except SessionError:
            return _NONE
        except StoreUnavailableError as exc:
            return _FAILED + str(exc).encode()
        return _DONE + done.SerializeToString()
