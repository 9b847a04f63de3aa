"""All sessions of this process: opened, renewed ahead of time, and ended."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

import structlog

from backends.api import Algorithm
from keyd.core.decision import Decision
from keyd.core.errors import AuditError, GrantError, InvalidArgumentError, KeydError, KeyStateError, OverloadedError, SessionError
from keyd.core.guard import Guard, finish
from keyd.core.keyring import Keyring
from keyd.core.policy import Policy, Rule, rule_of_sessions
from keyd.core.principal import Principal
from keyd.core.sessions.grant import SessionKind
from keyd.core.sessions.issuing import Allowed, TokenIssuer
from keyd.core.sessions.renewals import Renewals
from keyd.core.sessions.revocations import Revocations, Revoked
from keyd.core.sessions.session import Session, SessionKey
from keyd.core.sessions.tokens import Bound, Token, Wanted
from keyd.core.snapshot import Snapshot

#: How long a session that must be watched goes on without: for the first watch to come, and for one that was cut off to come again.
UNWATCHED = 10.0
INTERVAL = 1.0
_AT_ONCE = 20
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
    """Holds every session of this process. Sessions are nowhere else: when the process ends, so do they.

    Attributes:
        limits: a reload replaces them.
    """

    def __init__(self, keyring: Keyring, guard: Guard, issuer: TokenIssuer, revocations: Revocations) -> None:
        self.limits = Limits()
        self.issuer = issuer
        self.revocations = revocations
        self._keyring = keyring
        self._guard = guard
        self._sessions: dict[str, Session] = {}
        #: How many each principal has, those that are being opened among them.
        self._counts: Counter[tuple[str, str]] = Counter()
        self._opening = 0
        #: By account and request id.
        self._requests: dict[tuple[str, str], Session] = {}
        self._rules = _Rules(Policy(), {})
        self._seen = Snapshot()
        self._renewals = Renewals(self._renew)
        self._tended = 0.0
        #: Tokens that are to be revoked, by the name of their session, until the store has taken them.
        self._owed: dict[str, list[Revoked]] = {}
        self._random: Callable[[], float] = random.random

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._sessions)

    def all(self) -> list[Session]:
        """Return the open ones, oldest first."""
        return list(self._sessions.values())

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
        if request is not None and request in self._requests:
            return self._opened_before(principal, self._requests[request], asked)
        decision = self._guard.decision(principal, "open_session", wanted.issuer_key)
        try:
            session = await self._opened(decision, principal, wanted, algorithm, parent, watched=watched, within=within)
        except BaseException as exc:
            if not isinstance(exc, AuditError):
                await self._guard.refuse(decision, exc)
            raise
        session.asked, session.request = asked, request
        if request is not None:
            self._requests[request] = session
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
        self._adopt(session)
        rule = None if session.closed else self._rules.by_grant.get(session.allowed.grant.name)
        if rule is None:
            raise GrantError("the grant of this session is no more, so it has ended")
        return rule

    async def close(self, principal: Principal, session_id: str) -> None:
        """End a session of the caller's. Raises SessionError."""
        session = self.get(principal, session_id)
        decision = self._guard.decision(principal, "close_session", session.allowed.wanted.issuer_key)
        decision.kid, decision.detail = session.key.thumbprint, _told(session)
        self._end(session)
        await finish(self._guard.record(decision))

    async def revoke(self, name: str) -> list[Revoked]:
        """End a session that operators know as ``name``, and put its tokens on the list.

        Raises:
            SessionError: there is none.
            StoreUnavailableError: its tokens are not on the list; it has ended all the same. To ask again puts them there.
        """
        now = self._keyring.clock.now()
        self._owed = {each: tokens for each, tokens in self._owed.items() if any(token.expires > now for token in tokens)}
        session = next((each for each in self._sessions.values() if each.name == name), None)
        if session is not None:
            ended = [session, *session.children]
            self._owed[name] = [Revoked(t.issuer, t.token_id, t.expires, now) for each in ended for t in each.live_tokens(now)]
            self._end(session)
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
                await self._adopt_policy()
                self.tend()
            except Exception:  # noqa: BLE001 - a defect must not end it: every session would end with its token
                _log.exception("tending the sessions failed, the next round goes on")
            await asyncio.sleep(INTERVAL)

    def tend(self) -> set[asyncio.Task[None]]:
        """End what has to end now, and begin to renew what is due. Returns the work on these, which is under way."""
        for session in self.all():
            self._adopt(session)
        now = self._keyring.clock.now()
        if now < self._tended:
            for session in self._sessions.values():
                session.set_back(now)
        self._tended = now
        for session in self.all():
            if not session.closed and self._is_over(session, now):
                _log.info("session ended: nobody uses it", session=session.name)
                self._end(session)
        if self._keyring.snapshot is not self._seen:
            self._seen = self._keyring.snapshot
            for session in self._sessions.values():
                if self._is_distrusted(session, now):
                    session.renew_at = min(session.renew_at, now)
        due = sorted((s for s in self._sessions.values() if s.renew_at <= now), key=lambda s: s.renew_at)
        return self._renewals.begin((self._backend(session), session) for session in due)

    def close_all(self) -> None:
        """Forget every key."""
        for session in self.all():
            self._end(session)

    def _take(self, session: Session, token: Token) -> None:
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

    def _is_over(self, session: Session, now: float) -> bool:
        if session.must_be_watched and now > session.unwatched_since + UNWATCHED:
            return True
        family = (session, *session.children)  # who uses a sub-agent uses its parent as well
        return now > max(each.last_used for each in family) + self.limits.idle_timeout and not any(s.watchers for s in family)

    def _backend(self, session: Session) -> str:
        view = self._keyring.snapshot.keys.get(session.allowed.wanted.issuer_key)
        return "" if view is None else view.key.backend

    async def _renew(self, session: Session) -> None:
        decision = self._guard.decision(session.principal, "renew_session", session.allowed.wanted.issuer_key)
        try:
            allowed = self.issuer.allowed(session.principal, session.allowed.wanted)
            token = await self.issuer.issue(decision, allowed, session.key.bound, None)
            decision.detail = _told(session)
            await finish(self._guard.record(decision))
            if session.closed:
                return
            if self.issuer.allowed(session.principal, allowed.wanted) == allowed:
                self._allow(session, allowed)
                self._take(session, token)
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
            self._end(session)
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
        place = self._take_place(principal, allowed.grant.name, allowed.sessions.max_sessions)
        self._opening += 1
        try:
            session = Session(principal, allowed, SessionKey(algorithm), self._keyring.clock.now(), parent=above, watched=watched)
            token = await self.issuer.issue_in_turn(decision, allowed, session.key.bound, within)
            decision.detail = _told(session)
            await finish(self._guard.record(decision))
            self.issuer.check_still(principal, allowed)
            if above is not None:
                above.current()
        except BaseException:
            self._give_back(place)
            raise
        finally:
            self._opening -= 1
        session.policy = self._guard.policy
        self._take(session, token)
        self._sessions[session.id] = session
        if above is not None:
            above.children.append(session)
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

    def _take_place(self, principal: Principal, grant: str, most: int) -> tuple[str, str]:
        place = (principal.account, grant)
        if self._counts[place] >= most:
            raise OverloadedError(f"grant {grant!r} has {most} sessions open for this caller, as many as it may; close one first")
        if len(self._sessions) + self._opening >= self.limits.max_sessions:
            raise OverloadedError("this keyd has as many sessions open as it may (sessions.max_sessions)")
        self._counts[place] += 1
        return place

    def _give_back(self, place: tuple[str, str]) -> None:
        self._counts[place] -= 1
        if not self._counts[place]:
            del self._counts[place]

    def _allow(self, session: Session, allowed: Allowed) -> None:
        """Note what allows the session now, which may be another grant than before."""
        account = session.principal.account
        self._give_back((account, session.allowed.grant.name))
        session.allowed, session.policy = allowed, self._guard.policy
        self._counts[account, allowed.grant.name] += 1

    def _end(self, session: Session) -> None:
        for each in (session, *session.children):
            if self._sessions.pop(each.id, None) is not None:
                self._give_back((each.principal.account, each.allowed.grant.name))
                if each.request is not None:
                    self._requests.pop(each.request, None)
                each.close()
        if session.parent is not None and session in session.parent.children:
            session.parent.children.remove(session)

    def _adopt(self, session: Session) -> None:
        """Have a session under the policy that a reload brought, or end it when that does not allow it any more."""
        if session.closed or session.policy is self._guard.policy:
            return
        try:
            self._allow(session, self.issuer.allowed(session.principal, session.allowed.wanted))
        except KeydError as exc:
            _log.warning("session ended: no grant allows it any more", session=session.name, error=str(exc))
            self._end(session)

    async def _adopt_policy(self) -> None:
        """Do so with all, some at a time, so that calls go on meanwhile. Who is called for sooner is adopted then."""
        for number, session in enumerate(self.all()):
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
            self._adopt(session)


def _told(session: Session) -> str:
    subject = session.allowed.wanted.subject
    return f"session {session.name}" + (f" of {subject}" if subject else "")
