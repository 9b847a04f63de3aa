"""Has agent tokens signed: who may have which is the grant's to say, what they may be is the profile's of the issuer key."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from keyd.core import jws, succession
from keyd.core.decision import Decision
from keyd.core.errors import FreshnessError, GrantError, InvalidArgumentError, KeyStateError, PurposeError
from keyd.core.grants import Grant
from keyd.core.guard import Guard
from keyd.core.keyring import Keyring
from keyd.core.model import Key, Purpose
from keyd.core.policy import over_rate, shown
from keyd.core.principal import Principal
from keyd.core.profile import check_jws
from keyd.core.publication import Publication
from keyd.core.sessions import tokens
from keyd.core.sessions.grant import SessionGrant, SessionKind
from keyd.core.sessions.tokens import Bound, Token, Wanted
from keyd.core.snapshot import VersionView

#: A token that would be good for less is of no use.
SHORTEST = 30.0
_MAX_CLAIMS = 4096


class Allowed(NamedTuple):
    """What was asked for, completed from the grant that allows it."""

    grant: Grant
    sessions: SessionGrant
    wanted: Wanted


class TokenIssuer:
    """Makes tokens with issuer keys."""

    def __init__(self, keyring: Keyring, publication: Publication, guard: Guard) -> None:
        self._keyring = keyring
        self._publication = publication
        self._guard = guard
        #: Raises ClockError while nothing may be signed.
        self.check_clock: Callable[[], None] = lambda: None

    def allowed(self, principal: Principal, wanted: Wanted) -> Allowed:
        """Return the first grant that allows what is asked for. Raises GrantError with what failed at the one that came nearest."""
        nearest: tuple[int, str] = (0, "")
        for rule in self._guard.policy.rights(principal).rules:
            sessions = rule.grant.sessions
            if sessions is None:
                continue
            completed = _completed(wanted, sessions)
            depth, wrong = _refusal(completed, sessions)
            if not wrong:
                tokens.check_subject(completed)
                return Allowed(rule.grant, sessions, completed)
            nearest = max(nearest, (depth, f"grant {rule.grant.name!r} {wrong}"))
        if nearest[0] > 1:  # who may not use the key at all learns nothing of it
            raise GrantError(f"{nearest[1]}; `keyd config show` has the grants")
        raise GrantError(f"no grant lets {principal.identity} have tokens of key {shown(wanted.issuer_key)}")

    def take_rate(self, principal: Principal, allowed: Allowed) -> None:
        """Take one from the rate of the grant: a token costs an operation of the backend. Raises RateError."""
        grant = allowed.grant
        if grant.rate is not None:
            wait = self._guard.taker(self._guard.share(principal))(grant)
            if wait:
                raise over_rate(wait, f"grant {grant.name!r}", grant=grant.name)

    def check_still(self, principal: Principal, allowed: Allowed) -> None:
        """Refuse what a reload has taken away, or grants in another way now. Raises GrantError."""
        if self.allowed(principal, allowed.wanted) != allowed:
            raise GrantError("the grants have changed meanwhile; ask again")

    async def issue_in_turn(self, decision: Decision, allowed: Allowed, key: Bound, within: float | None) -> Token:
        """Return a token as :meth:`issue` does, when it is the caller's turn: it has so many signatures under way, as with named keys."""
        turns, share = self._guard.turns, self._guard.share(decision.principal)
        began = time.monotonic()
        await turns.take(share, self._guard.policy.allowance.max_signatures, within)
        try:
            return await self.issue(decision, allowed, key, _left(within, began))
        finally:
            turns.give_back(share)

    async def issue(self, decision: Decision, allowed: Allowed, key: Bound, within: float | None) -> Token:
        """Return a token that binds ``key``. What is decided is noted in ``decision``; to record it is for the caller.

        The grants may have changed when it returns: see :meth:`check_still`.

        Args:
            within: how long the caller waits, in seconds; None: as long as the backend may take.

        Raises:
            KeydError: a subclass says why there is none.
        """
        self.check_clock()
        wanted, sessions = allowed.wanted, allowed.sessions
        name = wanted.issuer_key
        began = time.monotonic()
        if await succession.wait(self._keyring, name, within):
            self.check_clock()
            within = _left(within, began)
        now = self._keyring.clock.now()
        snapshot = self._keyring.snapshot
        view = snapshot.get(name)
        _check_key(view.key, wanted.kind)
        version = view.signer(None, now)
        issuer = self._issuer(view.key, version, wanted.kind)
        # The document that verifiers look the kid up in has to have it until the token is over.
        last = version.record.timeline.publication_ends(now, view.key.lifecycle)
        lifetime = min(sessions.max_token_lifetime, wanted.lifetime or sessions.max_token_lifetime)
        issued = int(now)  # as the token says
        expires = int(min(issued + lifetime, last))
        if expires < issued + SHORTEST:
            raise FreshnessError(f"the publication of key {name!r} ends too soon for a token; rotate it")
        token_id = secrets.token_urlsafe(16)
        claims = {
            **dict(sessions.claims),
            **tokens.claims(
                wanted, key, issuer=issuer, token_id=token_id, now=now, expires=expires, person_server=sessions.person_server
            ),
        }
        data = tokens.signing_input(
            wanted.kind,
            claims,
            algorithm=view.key.algorithm,
            kid=version.record.kid,
            public_jwk=json.loads(version.record.public_jwk),
        )
        decision.key, decision.kid, decision.version = name, version.record.kid, version.record.version
        decision.grant, decision.purpose, decision.typ = allowed.grant.name, Purpose.JWT.value, tokens.TYPES[wanted.kind]
        decision.issuer, decision.digest = issuer, hashlib.sha256(data).digest()
        self._check_token(data, view.key, wanted.kind, now, last)
        signature = await self._keyring.runner(view.key).sign(version, view.key.algorithm, data, within)
        if self._keyring.snapshot is not snapshot:  # as for any signature: what was stopped meanwhile is withheld
            self._keyring.snapshot.get(name).signer(version.record.kid, self._keyring.clock.now())
        text = f"{data.decode()}.{jws.b64url(signature)}"
        return Token(text, token_id, issuer, version.record.kid, version.record.version, issued, expires, wanted.kind)

    def bound_key(self, principal: Principal, name: str) -> Bound:
        """Return the binding of a key that the caller may sign requests with. Raises GrantError, KeyStateError and NotFoundError."""
        rules = self._guard.policy.rights(principal).sign(name)
        if not any(Purpose.HTTP in rule.grant.purposes for rule in rules):
            raise GrantError(f"no grant lets {principal.identity} sign requests with key {shown(name)}")
        view = self._keyring.snapshot.get(name)
        if Purpose.HTTP not in view.key.purposes:
            raise PurposeError(f"key {name!r} does not sign requests, so a token that binds it is of no use")
        version = view.signer(None, self._keyring.clock.now())
        return tokens.bound(json.loads(version.record.public_jwk), view.key.algorithm, version.record.thumbprint)

    def _issuer(self, key: Key, version: VersionView, kind: SessionKind) -> str:
        """Return ``iss``."""
        if kind is SessionKind.JKT_JWT:
            return f"urn:jkt:sha-256:{version.record.thumbprint}"
        return self.origin(key)

    def origin(self, key: Key) -> str:
        """Return the origin of the issuer that a key belongs to. Raises KeyStateError when it is not exactly one."""
        origins = {i.origin for i in self._publication.rules.issuers.values() if i.origin is not None and i.has(key.name)}
        if len(origins) != 1:
            found = "more than one issuer" if origins else "no issuer"
            raise KeyStateError(
                f"key {key.name!r} belongs to {found} with an origin, so it is not known whose tokens it signs; "
                "see [issuers.NAME] in the configuration"
            )
        return str(origins.pop())

    def _check_token(self, data: bytes, key: Key, kind: SessionKind, now: float, last: float) -> None:
        """Hold the token to the profile of the key, like any other that it signs."""
        if kind is SessionKind.JKT_JWT:
            if len(data) > jws.MAX_BYTES:
                raise InvalidArgumentError("the claims are too long")
            return  # its header brings a key along, which no profile lets callers do; keyd wrote all of it
        profile = self._keyring.profiles.get(key.profile)
        if profile is None:
            raise KeyStateError(f"the profile {key.profile!r} of key {key.name!r} is not configured any more")
        check_jws(jws.parse(data), profile, algorithm=key.algorithm, now=now, not_after=last)


def _left(within: float | None, began: float) -> float | None:
    """Return what is left of ``within`` seconds. ``began`` is on the monotonic clock."""
    return None if within is None else max(0.001, within - (time.monotonic() - began))


def _check_key(key: Key, kind: SessionKind) -> None:
    if Purpose.JWT not in key.purposes:
        raise PurposeError(f"key {key.name!r} signs no tokens (needs purpose jwt)")
    if kind is not SessionKind.JKT_JWT and not key.publish:
        raise KeyStateError(f"key {key.name!r} is not published, so nobody could verify its tokens")


def _completed(wanted: Wanted, sessions: SessionGrant) -> Wanted:
    """Return the request with the one agent that the grant has, where it names none."""
    only = sessions.subjects[0] if len(sessions.subjects) == 1 and not {"*", "?"} & set(sessions.subjects[0]) else None
    if wanted.subject or only is None or wanted.kind is SessionKind.JKT_JWT or wanted.parent_agent:
        return wanted
    return replace(wanted, subject=only)


def _refusal(wanted: Wanted, sessions: SessionGrant) -> tuple[int, str]:
    """Return how far a request gets with a grant, and why not further; an empty text: it is allowed."""
    checks = (
        (sessions.has_issuer_key(wanted.issuer_key), "does not have the issuer key"),
        (wanted.kind in sessions.kinds, f"does not have tokens of kind {wanted.kind.value}"),
        (
            wanted.kind is SessionKind.JKT_JWT or not wanted.subject or sessions.has_subject(wanted.subject),
            "does not have this agent",
        ),
        (sessions.sub_agents or not wanted.parent_agent, "does not allow sub-agents"),
        (wanted.claims.keys() <= sessions.caller_claims, "does not let the caller choose one of the claims"),
        (
            sessions.audiences is None or (bool(wanted.audiences) and sessions.audiences.issuperset(wanted.audiences)),
            "does not have every audience, or wants one to be named",
        )
        if wanted.kind is SessionKind.LUMOAUTH
        else (not wanted.audiences, f"has no audiences for tokens of kind {wanted.kind.value}"),
    )
    for depth, (good, wrong) in enumerate(checks, 1):
        if not good:
            return depth, wrong
    return len(checks) + 1, ""


def caller_claims(text: str) -> dict[str, object]:
    """Return the claims that a caller adds, from the JSON object that it sent; empty: none. Raises MalformedError."""
    if not text:
        return {}
    if len(text) > _MAX_CLAIMS:
        raise InvalidArgumentError(f"claims have at most {_MAX_CLAIMS} characters")
    return dict(jws.json_object(text, "claims"))
