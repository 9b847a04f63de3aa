"""What becomes of open sessions in the course of time: their tokens are renewed ahead of it, and what nobody uses ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress

import structlog

from keyd.core.decision import Decision
from keyd.core.errors import AuditError, GrantError, KeydError
from keyd.core.guard import Guard, finish
from keyd.core.keyring import Keyring
from keyd.core.sessions.issuing import TokenIssuer
from keyd.core.sessions.open_sessions import OpenSessions
from keyd.core.sessions.renewals import Renewals
from keyd.core.sessions.session import Session, told
from keyd.core.sessions.tokens import Token
from keyd.core.snapshot import Snapshot

#: How long a session that must be watched goes on without: for the first watch to come, and for one that was cut off to come again.
UNWATCHED = 10.0
_log = structlog.get_logger("keyd.sessions")


class Tending:
    """Looks after open sessions, whenever it is told to."""

    def __init__(self, keyring: Keyring, guard: Guard, issuer: TokenIssuer, sessions: OpenSessions) -> None:
        self._keyring = keyring
        self._guard = guard
        self._issuer = issuer
        self._sessions = sessions
        self._seen = Snapshot()
        self._renewals = Renewals(self._renew)
        self._tended = 0.0
        self._random: Callable[[], float] = random.random

    def tend(self, idle_timeout: float) -> set[asyncio.Task[None]]:
        """End what has to end now, and begin to renew what is due. Returns the work on these, which is under way.

        Args:
            idle_timeout: seconds without any use after which a session ends.
        """
        for session in self._sessions.all():
            self._sessions.adopt(session)
        now = self._keyring.clock.now()
        if now < self._tended:
            for session in self._sessions.all():
                session.set_back(now)
        self._tended = now
        for session in self._sessions.all():
            if not session.closed and self._is_over(session, now, idle_timeout):
                _log.info("session ended: nobody uses it", session=session.name)
                self._sessions.end(session)
        if self._keyring.snapshot is not self._seen:
            self._seen = self._keyring.snapshot
            for session in self._sessions.all():
                if self._is_distrusted(session, now):
                    session.renew_at = min(session.renew_at, now)
        due = sorted((s for s in self._sessions.all() if s.renew_at <= now), key=lambda s: s.renew_at)
        return self._renewals.begin((self._backend(session), session) for session in due)

    def take(self, session: Session, token: Token) -> None:
        """Have a session show a token from now on. When its version was compromised meanwhile, the next one is due at once."""
        session.renewed(token, self._random)
        now = self._keyring.clock.now()
        if self._is_distrusted(session, now):
            session.renew_at = now

    def _is_distrusted(self, session: Session, now: float) -> bool:
        """Say whether the version that signed the token is compromised, so that verifiers soon take the token for a forgery."""
        view = self._keyring.snapshot.keys.get(session.allowed.wanted.issuer_key)
        if view is None or session.token is None:
            return False
        number = session.token.number
        return any(v.record.version == number and v.record.timeline.compromised_at <= now for v in view.versions)

    def _is_over(self, session: Session, now: float, idle_timeout: float) -> bool:
        if session.must_be_watched and now > session.unwatched_since + UNWATCHED:
            return True
        family = (session, *session.children)  # who uses a sub-agent uses its parent as well
        return now > max(each.last_used for each in family) + idle_timeout and not any(s.watchers for s in family)

    def _backend(self, session: Session) -> str:
        view = self._keyring.snapshot.keys.get(session.allowed.wanted.issuer_key)
        return "" if view is None else view.key.backend

    async def _renew(self, session: Session) -> None:
        decision = self._guard.decision(session.principal, "renew_session", session.allowed.wanted.issuer_key)
        try:
            allowed = self._issuer.allowed(session.principal, session.allowed.wanted)
            token = await self._issuer.issue(decision, allowed, session.key.bound, None)
            decision.detail = told(session)
            await finish(self._guard.record(decision))
            if session.closed:
                return
            if self._issuer.allowed(session.principal, allowed.wanted) == allowed:
                self._sessions.allow(session, allowed)
                self.take(session, token)
            else:  # a reload meanwhile: what the grant before said is handed out no more, and the next round makes another one
                session.renew_at = self._keyring.clock.now()
        except Exception as exc:  # noqa: BLE001 - the token is good until its end, and the next attempt may go better
            await self._not_renewed(session, decision, exc)

    async def _not_renewed(self, session: Session, decision: Decision, exc: Exception) -> None:
        if session.closed:
            return
        why = f"{exc.reason}: {exc}"[:512] if isinstance(exc, KeydError) else "unexpected error"
        again = session.renewal_error.partition(":")[0] == why.partition(":")[0]
        session.not_renewed(why, self._keyring.clock.now())
        if isinstance(exc, GrantError):
            _log.warning("session ended: no grant allows it any more", session=session.name, error=why)
            self._sessions.end(session)
        elif not again:
            unexpected = None if isinstance(exc, KeydError) else exc
            _log.warning(
                "the token of a session cannot be renewed, it is tried again",
                session=session.name,
                error=why,
                exc_info=unexpected,
            )
        # Once for each reason: while a backend is away, thousands of sessions try again each minute.
        if not again and not isinstance(exc, AuditError):
            with suppress(AuditError):
                await self._guard.refuse(decision, exc)
