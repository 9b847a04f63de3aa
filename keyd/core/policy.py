"""The policy: which grant lets a principal do what it asks for, or the reason why none does.

A request is allowed when one grant allows all of it. The daemon and ``keyd policy explain`` go through the same checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from keyd.core.errors import GrantError, KeydError, PurposeError, RateError
from keyd.core.grants import Grant, OwnerGrant
from keyd.core.limits import CHECKS, Check
from keyd.core.model import NAME, Purpose
from keyd.core.principal import Principal
from keyd.core.rates import Rate
from keyd.core.signing_request import SigningRequest

_MAX_CACHED = 4096
#: Names of keys for each of those: few callers use more, and there may be as many callers as above.
_MAX_KEYS = 64


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one principal may use up, whatever its grants are.

    Attributes:
        rate: of all its calls.
        max_calls: calls and streams under way.
        max_signatures: signatures under way; those beyond wait.
    """

    rate: Rate = field(default_factory=lambda: Rate(1000.0, 1000))
    max_calls: int = 256
    max_signatures: int = 8


class Step(NamedTuple):
    """One condition of a grant: its name, and why it is not met; None: it is."""

    condition: str
    refusal: KeydError | None


class Rule:
    """A grant, made ready to be asked."""

    def __init__(self, grant: Grant) -> None:
        self.grant = grant
        self._checks: Mapping[Purpose, tuple[tuple[int, str, Check], ...]] = {
            purpose: tuple(
                (rank, field, check)
                for rank, (field, purposes, check) in enumerate(CHECKS)
                if purpose in purposes and getattr(grant, field) is not None
            )
            for purpose in grant.purposes
        }

    def refusal(self, request: SigningRequest) -> tuple[int, KeydError] | None:
        """Return how far the request got and what it failed at; None: the grant allows it."""
        checks = self._checks.get(request.purpose)
        if checks is None:
            return -1, self._other_purpose(request)
        for rank, _, check in checks:
            error = check(self.grant, request)
            if error is not None:
                return rank, error
        return None

    def steps(self, request: SigningRequest) -> Iterable[Step]:
        """Tell the same as :meth:`refusal` one by one, up to the first that refuses."""
        if request.purpose not in self._checks:
            yield Step("purposes", self._other_purpose(request))
            return
        yield Step("purposes", None)
        for _, limit, check in self._checks[request.purpose]:
            error = check(self.grant, request)
            yield Step(limit, error)
            if error is not None:
                return

    def _other_purpose(self, request: SigningRequest) -> KeydError:
        has = ", ".join(sorted(purpose.value for purpose in self.grant.purposes)) or "none"
        return PurposeError(
            f"grant {self.grant.name!r} is not for purpose {request.purpose.value} (it is for: {has})", grant=self.grant.name
        )


def rule_of_sessions(grant: Grant) -> Rule:
    """Return the rule that the keys of a grant's sessions are held to: they sign requests, by the profile of their kind."""
    return Rule(replace(grant, purposes=frozenset({Purpose.HTTP}), profiles=None))


class Rights:
    """What one principal may do.

    Attributes:
        share: names who uses up the same rate: callers of one account that the grants do not tell apart. Were it each program, whoever
            copies a file would have another rate.
    """

    def __init__(self, principal: Principal, rules: tuple[Rule, ...]) -> None:
        self.rules = rules
        self.share = " ".join([principal.account, *(rule.grant.name for rule in rules)])
        self._identity = principal.identity
        self._by_key: dict[str, tuple[Rule, ...]] = {}

    def know(self, key: str) -> bool:
        """Say whether any grant has the key."""
        return bool(self._for(key))

    def need(self, key: str) -> None:
        """Refuse who has no grant for the key. Raises GrantError."""
        if not self._for(key):
            raise self._no_grant(f"use key {shown(key)}")

    def sign(self, key: str) -> tuple[Rule, ...]:
        """Return the rules that have the key. Raises GrantError when none of them signs anything."""
        rules = self._for(key)
        if not any(rule.grant.purposes for rule in rules):
            raise self._no_grant(f"use key {shown(key)}")
        return rules

    def operate(self, operation: str, key: str | None) -> Grant:
        """Return the grant of an operators' call. Raises GrantError.

        Args:
            key: the key that the call names; None when it names none.
        """
        found = self._operating(operation, key)
        if found is None:
            raise self._no_grant(f"call {operation}" + ("" if key is None else f" for key {shown(key)}"))
        return found

    def may(self, operation: str, key: str | None) -> bool:
        """Say whether :meth:`operate` would return a grant."""
        return self._operating(operation, key) is not None

    def _operating(self, operation: str, key: str | None) -> Grant | None:
        rules = self.rules if key is None else self._for(key)
        return next((rule.grant for rule in rules if operation in rule.grant.operations), None)

    def _for(self, key: str) -> tuple[Rule, ...]:
        found = self._by_key.get(key)
        if found is None:
            found = tuple(rule for rule in self.rules if rule.grant.has_key(key))
            if len(self._by_key) >= _MAX_KEYS:
                self._by_key.clear()
            if len(key) <= 63:
                self._by_key[key] = found
        return found

    def _no_grant(self, what: str) -> GrantError:
        return GrantError(f"no grant lets {self._identity} {what}; `keyd policy explain` says which rule is missing")


class Policy:
    """All grants at one moment, immutable: a reload replaces it whole."""

    def __init__(
        self,
        grants: Iterable[Grant] = (),
        *,
        owners: Iterable[int] = (),
        allowance: Allowance | None = None,
        dual_control: frozenset[str] = frozenset(),
        approval_window: float = 900.0,
    ) -> None:
        """Take the grants and the uids that may do what no grant says.

        Args:
            owners: who may sign while there is no grant, and call what operators call while no grant has ``operations``.
            dual_control: operators' calls that need a second operator.
            approval_window: how long the first waits for the second, in seconds.
        """
        grants = tuple(grants)
        if not any(grant.operations for grant in grants):
            grants = (*grants, OwnerGrant.of(owners, signs=not grants))
        self.rules = tuple(Rule(grant) for grant in grants)
        self.allowance = allowance or Allowance()
        self.dual_control = dual_control
        self.approval_window = approval_window
        # By identity of the object, of which each connection has one: to hash a principal takes as long as all of the rest.
        self._rights: dict[int, tuple[Principal, Rights]] = {}

    def rights(self, principal: Principal) -> Rights:
        """Return what a principal may do."""
        found = self._rights.get(id(principal))
        if found is not None:
            return found[1]
        rights = Rights(principal, tuple(rule for rule in self.rules if rule.grant.has_principal(principal)))
        if len(self._rights) >= _MAX_CACHED:
            self._rights.clear()
        self._rights[id(principal)] = principal, rights  # it keeps the principal, so that its identity is not given to another
        return rights


def decide(rules: Iterable[Rule], request: SigningRequest, take: Callable[[Grant], float] = lambda _: 0.0) -> Grant:
    """Return the first grant that allows the request and has a token left for it.

    Args:
        take: takes a token of a grant that has a rate and returns 0, or returns the seconds until there is one.

    Raises:
        RefusedError: no grant allows it; says what failed at the one that came nearest. Metadata has ``grant``.
        RateError: the grants that do are used up.
    """
    furthest: tuple[float, KeydError] | None = None
    for rule in rules:
        refusal: tuple[float, KeydError] | None = rule.refusal(request)
        if refusal is None:
            wait = take(rule.grant) if rule.grant.rate is not None else 0.0
            if not wait:
                return rule.grant
            refusal = len(CHECKS), over_rate(wait, f"grant {rule.grant.name!r}", grant=rule.grant.name)
        if furthest is None or refusal[0] > furthest[0]:
            furthest = refusal
    if furthest is None:
        raise GrantError("no grant has this key")
    raise furthest[1]


def over_rate(wait: float, whose: str, **metadata: str) -> RateError:
    """Return the error for who is over a rate; ``wait`` is in seconds."""
    return RateError(f"over the rate of {whose}; wait {wait:.3g} s", retry_after=f"{wait:.3f}", **metadata)


def shown(key: str) -> str:
    """Return the name of a key as messages have it: what cannot be a name is not repeated."""
    return repr(key) if NAME.fullmatch(key) else "of that name"
