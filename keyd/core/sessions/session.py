"""One session: a key in memory, the token that binds it, and who may use it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import secrets
from collections.abc import Callable
from math import inf

from backends.api import Algorithm
from backends.encoding import generate_private_key, sign_with
from keyd.core import jwk
from keyd.core.errors import InvalidArgumentError, SessionError
from keyd.core.policy import Policy
from keyd.core.principal import Principal
from keyd.core.sessions import tokens
from keyd.core.sessions.issuing import Allowed
from keyd.core.sessions.tokens import Bound, Token

#: What session keys may be for: what is made in an instant, and signs in one.
ALGORITHMS = frozenset({Algorithm.ED25519, Algorithm.ES256})
#: What operators call a session. An id is longer.
SESSION_NAME = re.compile(r"[A-Za-z0-9_\-]{12}")
#: A token is renewed when this much of it is over, give or take a tenth, so that not all sessions come at once.
_RENEW_AT, _JITTER = 0.75, 0.1
_RETRY, _LONGEST_RETRY = 1.0, 60.0
_AHEAD = 1.0  # seconds that a token may begin ahead of the time, which it does when a clock is slewed


class SessionKey:
    """A key pair that is never written down. It has no other name than its thumbprint."""

    def __init__(self, algorithm: Algorithm) -> None:
        """Make it. Raises InvalidArgumentError for an algorithm that session keys do not have."""
        if algorithm not in ALGORITHMS:
            raise InvalidArgumentError(f"a session key is for Ed25519 or ES256, not for {algorithm.value}")
        self._private = generate_private_key(algorithm, 0)
        self.algorithm = algorithm
        self.public_jwk, self.thumbprint = jwk.from_public_key(self._private.public_key())

    def __repr__(self) -> str:
        return f"<SessionKey {self.thumbprint}>"

    @property
    def bound(self) -> Bound:
        """What a token says of it."""
        return tokens.bound(json.loads(self.public_jwk), self.algorithm, self.thumbprint)

    def sign(self, message: bytes) -> bytes:
        """Return a raw signature of a whole message."""
        return sign_with(self._private, self.algorithm, message)


class Session:
    """A session. It changes in the event loop's thread only. Times in seconds since the epoch.

    Attributes:
        id: with which its owner signs; no log and no record has it.
        name: for operators and records; does not lead to the id.
        allowed: what was asked for, and the grant that allows it.
        policy: the one that says so; None: that is yet to be asked.
        renew_at: when the next token is to be made.
        watchers: streams that wait for the next token.
        unwatched_since: when there was none any more; ``inf`` while there is one.
        renewal_error: why the next token could not be made; empty: it could.
        changed: replaced and set at each new token, and at the end.
    """

    def __init__(
        self, principal: Principal, allowed: Allowed, key: SessionKey, now: float, *, parent: Session | None, watched: bool
    ) -> None:
        self.id = secrets.token_urlsafe(24)
        self.name = base64.urlsafe_b64encode(hashlib.sha256(self.id.encode()).digest())[:12].decode()
        self.principal = principal
        self.allowed = allowed
        self.policy: Policy | None = None
        self.key = key
        self.parent = parent
        self.children: list[Session] = []
        self.must_be_watched = watched
        #: What the call that opened it asked for, and the account and id by which it may ask again; None: it may not.
        self.asked: object = None
        self.request: tuple[str, str] | None = None
        self.created = self.last_used = now
        self.token: Token | None = None
        #: Those before, until they are over: what a revocation has to name.
        self.earlier: list[Token] = []
        self.tokens = self.signatures = self.watchers = self.failures = 0
        self.renew_at = inf
        self.unwatched_since = now
        self.renewal_error = ""
        self.closed = False
        self.changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Session {self.name}>"

    def current(self) -> Token:
        """Return the token that is good now. Raises SessionError when the session ended."""
        if self.closed or self.token is None:
            raise SessionError("this session has ended; open another one")
        return self.token

    def renewed(self, token: Token, random: Callable[[], float]) -> None:
        """Take the next token. ``random`` returns a number from 0 to 1."""
        if self.token is not None:
            self.earlier = [each for each in self.earlier if each.expires > token.issued] + [self.token]
        self.token, self.tokens = token, self.tokens + 1
        self.renewal_error, self.failures = "", 0
        share = _RENEW_AT - _JITTER * random()
        self.renew_at = token.issued + share * (token.expires - token.issued)
        self._tell()

    def not_renewed(self, why: str, now: float) -> None:
        """Note that the next token could not be made, and when to try again."""
        self.renewal_error = why
        self.renew_at = now + min(_LONGEST_RETRY, _RETRY * 2.0**self.failures)
        self.failures = min(self.failures + 1, 10)

    def set_back(self, now: float) -> None:
        """Take note that the clock was set back, to ``now``: nothing was used or tried later than that."""
        self.last_used = min(self.last_used, now)
        if not self.watchers:
            self.unwatched_since = min(self.unwatched_since, now)
        if self.failures:
            self.renew_at = min(self.renew_at, now + _LONGEST_RETRY)
        if self.token is not None and self.token.issued > now + _AHEAD:
            self.renew_at = min(self.renew_at, now)  # it begins in the future, and verifiers may refuse it until then

    def live_tokens(self, now: float) -> list[Token]:
        """Return those that are not over."""
        found = self.earlier if self.token is None else [*self.earlier, self.token]
        return [token for token in found if token.expires > now]

    def close(self) -> None:
        """End it and forget the key."""
        self.closed = True
        self.renew_at = inf
        del self.key
        self._tell()

    def watch(self) -> None:
        """Note that somebody waits for its tokens."""
        self.watchers += 1
        self.unwatched_since = inf

    def unwatch(self, now: float) -> None:
        """Note that somebody does not any more."""
        self.watchers -= 1
        if not self.watchers:
            self.unwatched_since = now

    def _tell(self) -> None:
        told, self.changed = self.changed, asyncio.Event()
        told.set()


def told(session: Session) -> str:
    """Return what records say of a session."""
    subject = session.allowed.wanted.subject
    return f"session {session.name}" + (f" of {subject}" if subject else "")
