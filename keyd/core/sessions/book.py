"""What callers and operators do with sessions: open one, use it, end it, revoke it.

:mod:`keyd.core.sessions.open_sessions` has those that there are; :mod:`keyd.core.sessions.tending` renews them ahead of time, and ends
those that nobody uses.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import NamedTuple

import structlog

from backends.api import Algorithm
from keyd.core.decision import Decision
from keyd.core.errors import AuditError, GrantError, InvalidArgumentError, KeyStateError, SessionError
from keyd.core.guard import Guard, finish
from keyd.core.keyring import Keyring
from keyd.core.policy import Policy, Rule, rule_of_sessions
from keyd.core.principal import Principal
from keyd.core.sessions.grant import SessionKind
from keyd.core.sessions.issuing import TokenIssuer
from keyd.core.sessions.open_sessions import OpenSessions
from keyd.core.sessions.revocations import Revocations, Revoked
from keyd.core.sessions.session import Session, SessionKey, told
from keyd.core.sessions.tending import Tending
from keyd.core.sessions.tokens import Bound, Token, Wanted

INTERVAL = 1.0
_log = structlog.get_logger("keyd.sessions")


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds them.

    Attributes:
        max_sessions: open at once, of all callers.
        idle_timeout: seconds without any use after which one ends.
    """

    max_sessions: int = 10_000
    idle_timeout: float = 7200.0


class _Rules(NamedTuple):
    """The rules of one policy that hold for session keys, by name of their grant."""

    policy: Policy
    by_grant: dict[str, Rule]


class SessionBook:
    """All sessions of this process, and all calls on them.

    Attributes:
        limits: a reload replaces them.
    """

    def __init__(self, keyring: Keyring, guard: Guard, issuer: TokenIssuer, revocations: Revocations) -> None:
        self.limits = Limits()
        self.issuer = issuer
        self.revocations = revocations
        self._keyring = keyring
        self._guard = guard
        self._sessions = OpenSessions(guard, issuer)
        self._tending = Tending(keyring, guard, issuer, self._sessions)
        self._rules = _Rules(Policy(), {})
        #: Tokens that are to be revoked, by the name of their session, until the store has taken them.
        self._owed: dict[str, list[Revoked]] = {}

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._sessions)

    def all(self) -> list[Session]:
        """Return the open ones, oldest first."""
        return self._sessions.all()

    async def open(
        self,
        principal: Principal,
        wanted: Wanted,
        *,
        algorithm: Algorithm = Algorithm.ED25519,
        parent: str = "",
        watched: bool = False,
        request_id: str = "",
        within: float | None = None,
    ) -> Session:
        """Make a key, have a token signed that binds it, and return the session.

        Args:
            parent: id of a session of the same caller's of which this one is a sub-agent's.
            watched: the session ends when nobody watches it any more.
            request_id: the session that is open for it is returned, if there is one; empty: always a new one.
            within: how long the caller waits, in seconds.

        Raises:
            KeydError: a subclass says why there is none.
        """
        asked = (wanted, algorithm, parent, watched)
        request = (principal.account, request_id) if request_id else None
        before = self._sessions.opened_for(request)
        if before is not None:
            return self._opened_before(principal, before, asked)
        decision = self._guard.decision(principal, "open_session", wanted.issuer_key)
        try:
            session = await self._opened(decision, principal, wanted, algorithm, parent, watched=watched, within=within)
        except BaseException as exc:
            if not isinstance(exc, AuditError):
                await self._guard.refuse(decision, exc)
            raise
        self._sessions.note_request(session, request, asked)
        return session

    def get(self, principal: Principal, session_id: str) -> Session:
        """Return a session of the caller's, which counts as a use of it.

        Raises:
            SessionError: there is none, or it is another caller's.
            GrantError: its grant is no more; the session has ended with it.
        """
        session = self._sessions.get(session_id)
        share = self._guard.share
        # Callers of one account that no grant tells apart are one caller, as they are for rates: workers of one program.
        if session is None or (session.principal is not principal and share(session.principal) != share(principal)):
            raise SessionError("there is no such session here; it ended, or keyd was started anew: open another one")
        self.rule(session)
        session.last_used = self._keyring.clock.now()
        return session

    def unwatch(self, session: Session) -> None:
        """Note that a stream that watched it has ended."""
        session.unwatch(self._keyring.clock.now())

    def rule(self, session: Session) -> Rule:
        """Return the rule that what the session signs is held to.

        Raises:
            GrantError: its grant is no more, or does not allow it any more; the session has ended with it.
        """
        policy = self._guard.policy
        if self._rules.policy is not policy:
            grants = (rule.grant for rule in policy.rules if rule.grant.sessions is not None)
            self._rules = _Rules(policy, {grant.name: rule_of_sessions(grant) for grant in grants})
        self._sessions.adopt(session)
        rule = None if session.closed else self._rules.by_grant.get(session.allowed.grant.name)
        if rule is None:
            raise GrantError("the grant of this session is no more, so it has ended")
        return rule

    async def close(self, principal: Principal, session_id: str) -> None:
        """End a session of the caller's. Raises SessionError."""
        session = self.get(principal, session_id)
        decision = self._guard.decision(principal, "close_session", session.allowed.wanted.issuer_key)
        decision.kid, decision.detail = session.key.thumbprint, told(session)
        self._sessions.end(session)
        await finish(self._guard.record(decision))

    async def revoke(self, name: str) -> list[Revoked]:
        """End a session that operators know as ``name``, and put its tokens on the list.

        Raises:
            SessionError: there is none.
            StoreUnavailableError: its tokens are not on the list; it has ended all the same. To ask again puts them there.
        """
        now = self._keyring.clock.now()
        self._owed = {each: tokens for each, tokens in self._owed.items() if any(token.expires > now for token in tokens)}
        session = self._sessions.named(name)
        if session is not None:
            ended = [session, *session.children]
            self._owed[name] = [Revoked(t.issuer, t.token_id, t.expires, now) for each in ended for t in each.live_tokens(now)]
            self._sessions.end(session)
        elif name not in self._owed:
            raise SessionError("there is no session of that name here; `keyd session list` shows those that there are")
        found = self._owed[name]
        await self.revocations.revoke(found)
        self._owed.pop(name, None)
        return found

    async def issue(
        self, principal: Principal, wanted: Wanted, key: str | Bound, *, within: float | None = None
    ) -> tuple[Token, Bound]:
        """Return a token for a key that is no session's, and what it binds. Raises KeydError.

        Args:
            key: name of a key that the caller may sign requests with; or one that is not in keyd.
        """
        decision = self._guard.decision(principal, "issue_agent_token", wanted.issuer_key)
        try:
            allowed = self.issuer.allowed(principal, wanted)
            if isinstance(key, Bound) and not allowed.sessions.foreign_keys:
                raise GrantError(f"grant {allowed.grant.name!r} has no tokens for keys that are not in keyd (foreign_keys)")
            bound = key if isinstance(key, Bound) else self.issuer.bound_key(principal, key)
            self.issuer.take_rate(principal, allowed)
            token = await self.issuer.issue_in_turn(decision, allowed, bound, within)
            self.issuer.check_still(principal, allowed)
            if isinstance(key, str) and self.issuer.bound_key(principal, key) != bound:
                raise KeyStateError(f"another version of key {key!r} signs now; ask again")
            decision.detail = f"{allowed.wanted.subject}, binds {bound.thumbprint}"
        except BaseException as exc:
            await self._guard.refuse(decision, exc)
            raise
        await finish(self._guard.record(decision))
        return token, bound

    async def run(self) -> None:
        """Renew and end sessions for ever."""
        while True:
            try:
                await self._sessions.adopt_policy()
                self.tend()
            except Exception:  # noqa: BLE001 - a defect must not end it: every session would end with its token
                _log.exception("tending the sessions failed, the next round goes on")
            await asyncio.sleep(INTERVAL)

    def tend(self) -> set[asyncio.Task[None]]:
        """End what has to end now, and begin to renew what is due. Returns the work on these, which is under way."""
        return self._tending.tend(self.limits.idle_timeout)

    def close_all(self) -> None:
        """Forget every key."""
        for session in self.all():
            self._sessions.end(session)

    def _opened_before(self, principal: Principal, session: Session, asked: object) -> Session:
        """Return the session whose answer got lost."""
        self.get(principal, session.id)
        if session.asked != asked:
            raise InvalidArgumentError("this request_id has opened a session for something else; take a new one for each session")
        return session

    async def _opened(
        self,
        decision: Decision,
        principal: Principal,
        wanted: Wanted,
        algorithm: Algorithm,
        parent: str,
        *,
        watched: bool,
        within: float | None,
    ) -> Session:
        above = self._parent(principal, parent) if parent else None
        if above is not None:
            wanted = replace(wanted, parent_agent=above.allowed.wanted.subject)
        allowed = self.issuer.allowed(principal, wanted)
        if above is not None:
            self._check_issuer(above, wanted.issuer_key)
        self.issuer.take_rate(principal, allowed)
        with self._sessions.place(principal, allowed, self.limits.max_sessions):
            session = Session(principal, allowed, SessionKey(algorithm), self._keyring.clock.now(), parent=above, watched=watched)
            token = await self.issuer.issue_in_turn(decision, allowed, session.key.bound, within)
            decision.detail = told(session)
            await finish(self._guard.record(decision))
            self.issuer.check_still(principal, allowed)
            if above is not None:
                above.current()
        session.policy = self._guard.policy
        self._tending.take(session, token)
        self._sessions.add(session)
        return session

    def _parent(self, principal: Principal, session_id: str) -> Session:
        session = self.get(principal, session_id)
        if session.parent is not None:
            raise SessionError("a sub-agent has no sub-agents of its own; open the session with the parent of this one")
        if session.allowed.wanted.kind is not SessionKind.AAUTH:
            raise InvalidArgumentError("parent is a session of another kind; sub-agents are of AAuth")
        return session

    def _check_issuer(self, parent: Session, issuer_key: str) -> None:
        """Refuse a sub-agent of another issuer than its parent's, which person servers refuse (AAuth draft -11 section 10.2.1)."""
        if self.issuer.origin(self._keyring.snapshot.get(issuer_key).key) != parent.current().issuer:
            raise InvalidArgumentError(f"key {issuer_key!r} belongs to another issuer than the tokens of the parent")
