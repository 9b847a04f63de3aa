"""Which sessions are open, and which grant each counts for: as many as it may, and none that no grant allows any more."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from keyd.core.errors import KeydError, OverloadedError
from keyd.core.guard import Guard
from keyd.core.principal import Principal
from keyd.core.sessions.issuing import Allowed, TokenIssuer
from keyd.core.sessions.session import Session

_AT_ONCE = 20
_log = structlog.get_logger("keyd.sessions")


class OpenSessions:
    """Holds every session of this process, oldest first. Sessions are nowhere else: when the process ends, so do they."""

    def __init__(self, guard: Guard, issuer: TokenIssuer) -> None:
        self._guard = guard
        self._issuer = issuer
        self._sessions: dict[str, Session] = {}
        #: How many each principal has, those that are being opened among them.
        self._counts: Counter[tuple[str, str]] = Counter()
        self._opening = 0
        #: By account and request id.
        self._requests: dict[tuple[str, str], Session] = {}

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._sessions)

    def all(self) -> list[Session]:
        """Return the open ones, oldest first."""
        return list(self._sessions.values())

    def get(self, session_id: str) -> Session | None:
        """Return the session of this id; None: there is none."""
        return self._sessions.get(session_id)

    def named(self, name: str) -> Session | None:
        """Return the session that operators know as ``name``; None: there is none."""
        return next((each for each in self._sessions.values() if each.name == name), None)

    def opened_for(self, request: tuple[str, str] | None) -> Session | None:
        """Return the session that is open for this account and request id; None: there is none."""
        return None if request is None else self._requests.get(request)

    @contextmanager
    def place(self, principal: Principal, allowed: Allowed, most: int) -> Iterator[None]:
        """Keep a place for a session that is opened within. When that fails, it is free again; else it is the session's.

        Args:
            most: open at once, of all callers.

        Raises:
            OverloadedError: there is no place.
        """
        place = self._take_place(principal, allowed.grant.name, allowed.sessions.max_sessions, most)
        self._opening += 1
        try:
            yield
        except BaseException:
            self._give_back(place)
            raise
        finally:
            self._opening -= 1

    def add(self, session: Session) -> None:
        """Have a session open, in the place that was kept for it."""
        self._sessions[session.id] = session
        if session.parent is not None:
            session.parent.children.append(session)

    def note_request(self, session: Session, request: tuple[str, str] | None, asked: object) -> None:
        """Note what a session was opened for, so that whoever asks again for the same gets this one."""
        session.asked, session.request = asked, request
        if request is not None:
            self._requests[request] = session

    def allow(self, session: Session, allowed: Allowed) -> None:
        """Note what allows the session now, which may be another grant than before."""
        account = session.principal.account
        self._give_back((account, session.allowed.grant.name))
        session.allowed, session.policy = allowed, self._guard.policy
        self._counts[account, allowed.grant.name] += 1

    def end(self, session: Session) -> None:
        """End a session and its sub-agents, and free their places."""
        for each in (session, *session.children):
            if self._sessions.pop(each.id, None) is not None:
                self._give_back((each.principal.account, each.allowed.grant.name))
                if each.request is not None:
                    self._requests.pop(each.request, None)
                each.close()
        if session.parent is not None and session in session.parent.children:
            session.parent.children.remove(session)

    def adopt(self, session: Session) -> None:
        """Have a session under the policy that a reload brought, or end it when that does not allow it any more."""
        if session.closed or session.policy is self._guard.policy:
            return
        try:
            self.allow(session, self._issuer.allowed(session.principal, session.allowed.wanted))
        except KeydError as exc:
            _log.warning("session ended: no grant allows it any more", session=session.name, error=str(exc))
            self.end(session)

    async def adopt_policy(self) -> None:
        """Do so with all, some at a time, so that calls go on meanwhile. Who is called for sooner is adopted then."""
        for number, session in enumerate(self.all()):
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
            self.adopt(session)

    def _take_place(self, principal: Principal, grant: str, most: int, of_all: int) -> tuple[str, str]:
        place = (principal.account, grant)
        if self._counts[place] >= most:
            raise OverloadedError(f"grant {grant!r} has {most} sessions open for this caller, as many as it may; close one first")
        if len(self._sessions) + self._opening >= of_all:
            raise OverloadedError("this keyd has as many sessions open as it may (sessions.max_sessions)")
        self._counts[place] += 1
        return place

    def _give_back(self, place: tuple[str, str]) -> None:
        self._counts[place] -= 1
        if not self._counts[place]:
            del self._counts[place]
