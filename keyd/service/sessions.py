"""SessionService: what agents call for sessions and agent tokens; and SessionAdminService, what operators do with them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from google.protobuf.duration_pb2 import Duration

from backends.api import Algorithm
from keyd.core.clock import Clock
from keyd.core.errors import InvalidArgumentError
from keyd.core.publication import Publication
from keyd.core.sessions import issuing, tokens
from keyd.core.sessions.book import SessionBook
from keyd.core.sessions.grant import SessionKind
from keyd.core.sessions.revocations import Revocations, Revoked
from keyd.core.sessions.session import Session
from keyd.core.sessions.signing import PROFILES
from keyd.core.sessions.tokens import Wanted
from keyd.service import convert
from keyd.service.call import Call
from keyd.v1 import session_service_pb2 as pb

KINDS = {
    SessionKind.AAUTH: pb.SESSION_KIND_AAUTH,
    SessionKind.LUMOAUTH: pb.SESSION_KIND_LUMOAUTH,
    SessionKind.JKT_JWT: pb.SESSION_KIND_JKT_JWT,
}
#: How far ahead a token that is revoked may end: no agent token is good for longer.
_LONGEST_TOKEN = 86400.0 + 60
_REQUEST_ID = re.compile(r"[!-~]{1,64}")
#: As long as either database takes.
_LONGEST_ID = 255
#: As long as those of AAuth can be: ``aauth:``, 255 characters, ``@``, and a domain.
_LONGEST_SUBJECT = 6 + 255 + 1 + 255
_MOST_AUDIENCES = 64


class SessionService:
    """Opens sessions, tells of them, and ends them; each caller its own."""

    def __init__(self, book: SessionBook) -> None:
        self._book = book

    async def open_session(self, request: pb.OpenSessionRequest, call: Call) -> pb.OpenSessionResponse:
        """Open a session."""
        wanted = _wanted(request, request.token_lifetime if request.HasField("token_lifetime") else None)
        if request.request_id and not _REQUEST_ID.fullmatch(request.request_id):
            raise InvalidArgumentError("request_id has 1 to 64 visible ASCII characters")
        session = await self._book.open(
            call.principal,
            wanted,
            algorithm=convert.from_enum(convert.ALGORITHMS, request.algorithm, "algorithm") or Algorithm.ED25519,
            parent=request.parent,
            watched=request.close_on_disconnect,
            request_id=request.request_id,
            within=call.seconds_left(),
        )
        return pb.OpenSessionResponse(session=_session(session))

    async def get_session(self, request: pb.GetSessionRequest, call: Call) -> pb.GetSessionResponse:
        """Return a session as it is now."""
        return pb.GetSessionResponse(session=_session(self._book.get(call.principal, request.id)))

    async def watch_session(self, request: pb.WatchSessionRequest, call: Call) -> AsyncIterator[pb.WatchSessionResponse]:
        """Send a session now and at each new token. Ends with SessionError when it does."""
        session = self._book.get(call.principal, request.id)
        session.watch()
        try:
            while True:
                changed = session.changed
                yield pb.WatchSessionResponse(session=_session(session))
                await changed.wait()
                self._book.get(call.principal, request.id)
        finally:
            self._book.unwatch(session)

    async def close_session(self, request: pb.CloseSessionRequest, call: Call) -> pb.CloseSessionResponse:
        """End a session."""
        await self._book.close(call.principal, request.id)
        return pb.CloseSessionResponse()

    async def issue_agent_token(self, request: pb.IssueAgentTokenRequest, call: Call) -> pb.IssueAgentTokenResponse:
        """Issue a token for a key that is no session's."""
        wanted = _wanted(request, request.lifetime if request.HasField("lifetime") else None)
        if wanted.kind is SessionKind.JKT_JWT:
            raise InvalidArgumentError(
                "a jkt-jwt token is part of a session; ask for SESSION_KIND_AAUTH or SESSION_KIND_LUMOAUTH"
            )
        which = request.WhichOneof("bound")
        if which is None:
            raise InvalidArgumentError("set one of key and public_jwk: what the token shall bind")
        key = tokens.foreign(request.public_jwk) if which == "public_jwk" else request.key
        token, bound = await self._book.issue(call.principal, wanted, key, within=call.seconds_left())
        return pb.IssueAgentTokenResponse(
            token=token.text,
            token_id=token.token_id,
            kid=token.kid,
            expire_time=convert.timestamp(token.expires),
            thumbprint=bound.thumbprint,
            signature_key=token.signature_key,
        )


class SessionAdminService:
    """Shows operators what sessions there are, and takes tokens back."""

    def __init__(self, book: SessionBook, revocations: Revocations, clock: Clock, publication: Publication) -> None:
        self._book = book
        self._revocations = revocations
        self._clock = clock
        self._publication = publication

    async def list_sessions(self, request: pb.ListSessionsRequest, call: Call) -> pb.ListSessionsResponse:
        """List the open sessions."""
        wanted = request.issuer_key
        return pb.ListSessionsResponse(
            sessions=[_info(each) for each in self._book.all() if wanted in ("", each.allowed.wanted.issuer_key)]
        )

    async def revoke_session(self, request: pb.RevokeSessionRequest, call: Call) -> pb.RevokeSessionResponse:
        """End a session and revoke its tokens."""
        return pb.RevokeSessionResponse(tokens=map(_revoked, await self._book.revoke(request.session)))

    async def revoke_token(self, request: pb.RevokeTokenRequest, call: Call) -> pb.RevokeTokenResponse:
        """Revoke a token."""
        for name in ("issuer", "token_id"):
            value = getattr(request, name)
            if not value or len(value) > _LONGEST_ID or not value.isprintable():
                raise InvalidArgumentError(f"{name} has 1 to {_LONGEST_ID} printable characters")
        now, expires = self._clock.now(), request.expire_time.seconds + request.expire_time.nanos / 1e9
        if not now < expires <= now + _LONGEST_TOKEN:
            raise InvalidArgumentError("expire_time is the exp of the token: in the future, at most a day and a minute ahead")
        token = Revoked(request.issuer, request.token_id, expires, now)
        (listed,) = await self._revocations.revoke([token])
        origins = {issuer.origin for issuer in self._publication.rules.issuers.values()}
        unknown = f"no [issuers.NAME] here has the origin {token.issuer!r}, so its list is published nowhere; see to the spelling"
        return pb.RevokeTokenResponse(token=_revoked(listed), warnings=[] if token.issuer in origins else [unknown])

    async def list_revoked_tokens(self, request: pb.ListRevokedTokensRequest, call: Call) -> pb.ListRevokedTokensResponse:
        """List the revoked tokens that are not over."""
        return pb.ListRevokedTokensResponse(tokens=map(_revoked, self._revocations.listed(request.issuer or None)))


def _wanted(request: pb.OpenSessionRequest | pb.IssueAgentTokenRequest, lifetime: Duration | None) -> Wanted:
    kind = convert.from_enum(KINDS, request.kind, "kind") or SessionKind.AAUTH
    asked = None if lifetime is None else convert.seconds(lifetime, "the lifetime of the token")
    if asked is not None and asked < issuing.SHORTEST:
        raise InvalidArgumentError(f"a token is good for at least {issuing.SHORTEST:g} s")
    # Before any grant is asked, which takes as long as they are.
    if len(request.subject) > _LONGEST_SUBJECT:
        raise InvalidArgumentError(f"subject has at most {_LONGEST_SUBJECT} characters")
    if len(request.audiences) > _MOST_AUDIENCES:
        raise InvalidArgumentError(f"a token has at most {_MOST_AUDIENCES} audiences")
    return Wanted(
        issuer_key=request.issuer_key,
        kind=kind,
        subject=request.subject,
        lifetime=asked,
        claims=issuing.caller_claims(request.claims),
        audiences=tuple(request.audiences),
    )


def _session(session: Session) -> pb.Session:
    token, wanted, key = session.current(), session.allowed.wanted, session.key
    return pb.Session(
        id=session.id,
        kind=KINDS[wanted.kind],
        issuer_key=wanted.issuer_key,
        issuer=token.issuer,
        subject=wanted.subject,
        algorithm=convert.ALGORITHMS[key.algorithm],
        http_algorithm=key.algorithm.http_name,
        jose_algorithm=key.algorithm.value,
        public_jwk=key.public_jwk,
        thumbprint=key.thumbprint,
        token=token.text,
        token_id=token.token_id,
        token_kid=token.kid,
        token_expire_time=convert.timestamp(token.expires),
        renew_time=convert.timestamp(session.renew_at),
        signature_key=token.signature_key,
        agent_auth=token.agent_auth,
        profile=PROFILES[wanted.kind].name,
        create_time=convert.timestamp(session.created),
        parent_agent=wanted.parent_agent,
    )


def _info(session: Session) -> pb.SessionInfo:
    token, wanted = session.current(), session.allowed.wanted
    return pb.SessionInfo(
        name=session.name,
        kind=KINDS[wanted.kind],
        issuer_key=wanted.issuer_key,
        issuer=token.issuer,
        subject=wanted.subject,
        thumbprint=session.key.thumbprint,
        grant=session.allowed.grant.name,
        principal=str(session.principal),
        create_time=convert.timestamp(session.created),
        last_use_time=convert.timestamp(session.last_used),
        token_expire_time=convert.timestamp(token.expires),
        signatures=session.signatures,
        tokens=session.tokens,
        parent_agent=wanted.parent_agent,
        renewal_error=session.renewal_error,
    )


def _revoked(token: Revoked) -> pb.RevokedToken:
    return pb.RevokedToken(
        issuer=token.issuer,
        token_id=token.token_id,
        expire_time=convert.timestamp(token.expires),
        revoke_time=convert.timestamp(token.revoked_at),
    )
