"""Why a request is allowed or refused, grant by grant. It asks what the daemon asks, :mod:`keyd.core.policy`, and tells the steps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from keyd.core.errors import GrantError, KeydError
from keyd.core.grants import Grant
from keyd.core.policy import Policy, Rule, decide, rule_of_sessions
from keyd.core.principal import Principal
from keyd.core.sessions.grant import SessionKind
from keyd.core.signing_request import SigningRequest


@dataclass(frozen=True, slots=True)
class SessionAsked:
    """The session under whose key a base is to be signed. What is empty is not asked of a grant.

    Attributes:
        issuer_key: name of the key that signs its tokens.
    """

    kind: SessionKind
    issuer_key: str = ""
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of a grant, in words; ``met`` says whether the request meets it."""

    name: str
    met: bool
    words: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a request fares with one grant: the conditions up to the first that it does not meet."""

    grant: str
    conditions: tuple[Condition, ...]

    @property
    def allowed(self) -> bool:
        """Whether the grant allows it."""
        return all(condition.met for condition in self.conditions)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of all grants together: the name of the one that allows the request, or the error that the caller gets."""

    grant: str | None
    refusal: KeydError | None


def signature(
    policy: Policy, principal: Principal, key: str, request: SigningRequest | KeydError
) -> tuple[list[Explanation], Verdict]:
    """Explain a signature; ``request`` is why the input itself is refused, when it is."""
    told = [Explanation(rule.grant.name, tuple(_signing(rule, principal, key, request))) for rule in policy.rules]
    try:
        rules = policy.rights(principal).sign(key)
        if isinstance(request, KeydError):
            raise request
        return told, Verdict(decide(rules, request).name, None)
    except KeydError as error:
        return told, Verdict(None, error)


def session(
    policy: Policy, principal: Principal, asked: SessionAsked, request: SigningRequest | KeydError
) -> tuple[list[Explanation], Verdict]:
    """Explain a signature by the key of a session: the first grant that allows the session decides, and no other."""
    told = [Explanation(rule.grant.name, tuple(_in_session(rule.grant, principal, asked, request))) for rule in policy.rules]
    grants = (rule.grant for rule in policy.rights(principal).rules)
    grant = next((grant for grant in grants if all(met.met for met in _session_itself(grant, asked))), None)
    try:
        if grant is None:
            raise GrantError(f"no grant lets {principal.identity} have such a session")
        if isinstance(request, KeydError):
            raise request
        return told, Verdict(decide((rule_of_sessions(grant),), request).name, None)
    except KeydError as error:
        return told, Verdict(None, error)


def operation(policy: Policy, principal: Principal, key: str | None, name: str) -> tuple[list[Explanation], Verdict]:
    """Explain what operators call; ``key`` is None for a call that names none."""
    told = [Explanation(rule.grant.name, tuple(_operating(rule.grant, principal, key, name))) for rule in policy.rules]
    try:
        return told, Verdict(policy.rights(principal).operate(name, key).name, None)
    except KeydError as error:
        return told, Verdict(None, error)


def _signing(rule: Rule, principal: Principal, key: str, request: SigningRequest | KeydError) -> Iterable[Condition]:
    grant = rule.grant
    for condition in _who_and_which(grant, principal, key):
        yield condition
        if not condition.met:
            return
    if isinstance(request, KeydError):
        return
    yield from _steps(rule, request)


def _in_session(
    grant: Grant, principal: Principal, asked: SessionAsked, request: SigningRequest | KeydError
) -> Iterable[Condition]:
    for condition in (*_who_and_which(grant, principal, None), *_session_itself(grant, asked)):
        yield condition
        if not condition.met:
            return
    if not isinstance(request, KeydError):
        yield from _steps(rule_of_sessions(grant), request)


def _session_itself(grant: Grant, asked: SessionAsked) -> Iterable[Condition]:
    sessions = grant.sessions
    if sessions is None:
        yield Condition("sessions", False, "none")
        return
    yield Condition("kinds", asked.kind in sessions.kinds, _values(sessions.kinds))
    if asked.issuer_key:
        yield Condition("issuer_keys", sessions.has_issuer_key(asked.issuer_key), _values(sessions.issuer_keys))
    if asked.subject:
        yield Condition("subjects", sessions.has_subject(asked.subject), _values(sessions.subjects))


def _steps(rule: Rule, request: SigningRequest) -> Iterable[Condition]:
    for name, refusal in rule.steps(request):
        yield Condition(name, refusal is None, _values(getattr(rule.grant, name)) if refusal is None else str(refusal))


def _operating(grant: Grant, principal: Principal, key: str | None, operation: str) -> Iterable[Condition]:
    for condition in _who_and_which(grant, principal, key):
        yield condition
        if not condition.met:
            return
    yield Condition("operations", operation in grant.operations, _values(grant.operations) or "none")


def _who_and_which(grant: Grant, principal: Principal, key: str | None) -> Iterable[Condition]:
    if grant.has_principal(principal):
        yield Condition("principals", True, str(next(p for p in grant.principals if p.matches(principal))))
    else:
        unmet = (f"{pattern} is not met in {pattern.unmet(principal) or 'socket'}" for pattern in grant.principals)
        yield Condition("principals", False, "; ".join(unmet))
    if key is not None:
        yield Condition("keys", grant.has_key(key), _values(grant.keys))


def _values(value: object) -> str:
    if isinstance(value, frozenset | tuple):
        return ", ".join(sorted(str(getattr(item, "value", item)) for item in value))
    return str(value)
