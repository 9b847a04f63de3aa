"""Signing with session keys: what a named key's profile and grants are to it, the kind and the grant of a session are to its key."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from backends.api import Algorithm
from keyd.core.binding import Signing
from keyd.core.decision import Decision
from keyd.core.errors import KeyIdError, PurposeError
from keyd.core.guard import Guard, finish
from keyd.core.keyring import Keyring
from keyd.core.model import Purpose
from keyd.core.policy import decide
from keyd.core.principal import Principal
from keyd.core.profile import BUILT_IN, Profile, check_base, read_base
from keyd.core.sessions.book import SessionBook
from keyd.core.sessions.grant import SessionKind
from keyd.core.sessions.session import Session
from keyd.core.signature_base import DIRECTORY_TAG
from keyd.core.signing import InputKind, note_base
from keyd.core.signing_request import SigningRequest

#: The rules for what session keys sign. Those of a jkt-jwt differ from AAuth's in the token that is shown.
PROFILES: Mapping[SessionKind, Profile] = {
    SessionKind.AAUTH: BUILT_IN["aauth"],
    SessionKind.LUMOAUTH: BUILT_IN["lumoauth"],
    SessionKind.JKT_JWT: BUILT_IN["aauth-delegate"],
}


class SignedBySession(NamedTuple):
    """A signature in raw octets, and the key that made it."""

    signature: bytes
    algorithm: Algorithm
    thumbprint: str


class SessionSigner:
    """Signs with session keys, in this process and at once. Leaves one record of each request, signed or refused."""

    def __init__(self, keyring: Keyring, guard: Guard, book: SessionBook) -> None:
        self._keyring = keyring
        self._guard = guard
        self._book = book
        #: Raises ClockError while nothing may be signed.
        self.check_clock: Callable[[], None] = lambda: None

    async def sign(
        self, principal: Principal, session_id: str, kind: InputKind, data: bytes, kid: str | None = None
    ) -> SignedBySession:
        """Sign ``data`` with the key of a session.

        Raises:
            KeydError: a subclass says why it is not signed.
        """
        decision = self._guard.decision(principal, "sign")
        decision.digest = hashlib.sha256(data).digest()
        try:
            self.check_clock()
            session = self._book.get(principal, session_id)
            signed = self._sign(decision, session, kind, data, kid)
        except BaseException as exc:
            await self._guard.refuse(decision, exc)
            raise
        await finish(self._guard.record(decision))
        session.current()  # it may have been revoked while the record was written
        session.signatures += 1
        return signed

    def _sign(self, decision: Decision, session: Session, kind: InputKind, data: bytes, kid: str | None) -> SignedBySession:
        token, key = session.current(), session.key
        decision.key, decision.kid, decision.detail = session.allowed.wanted.issuer_key, key.thumbprint, f"session {session.name}"
        if kind is not InputKind.SIGNATURE_BASE:
            raise PurposeError(f"a session key signs signature bases of requests, not a {kind.value}")
        profile = PROFILES[session.allowed.wanted.kind]
        base = read_base(data, profile)
        if base.tag == DIRECTORY_TAG:
            raise PurposeError("a session key signs requests, not responses of a key directory")
        request = SigningRequest(Purpose.HTTP, profile.name, decision.at, base=base)
        note_base(decision, request, base)
        if kid not in (None, key.thumbprint) or base.keyid not in (None, key.thumbprint):
            raise KeyIdError("the input or the request names another key than this session's")
        signing = Signing(key.algorithm, key.thumbprint, key.thumbprint)
        check_base(base, profile, signing, now=decision.at, not_after=token.expires)
        rule = self._book.rule(session)
        decision.grant = decide((rule,), request, self._guard.taker(self._guard.share(decision.principal))).name
        return SignedBySession(key.sign(data), key.algorithm, key.thumbprint)
