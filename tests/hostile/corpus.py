"""The corpus: an endless, seeded row of cases, each with what it breaks and the reasons that keyd may give for refusing it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hostile import bases, binding, foreign, grants, tokens
from hostile.draft import STYLES, Draft, Target

BASE, TOKEN, MESSAGE = "signature_base", "jws_signing_input", "message"


@dataclass(frozen=True)
class Case:
    """One request.

    Attributes:
        label: what was broken; of a control, which key's valid input it is.
        field: of the request, for the input; empty for a request without one.
        reasons: that keyd may answer; empty for a control, which must be signed.
    """

    label: str
    key: str
    field: str
    data: bytes
    reasons: frozenset[str] = frozenset()
    kid: str = ""


class Corpus:
    """Makes cases. The same seed makes the same ones, but for the times in them."""

    def __init__(self, targets: Sequence[Target], clock: Callable[[], float], seed: int) -> None:
        self._targets = targets
        self._clock = clock
        self._rng = random.Random(seed)

    def cases(self) -> Iterator[Case]:
        """Yield rounds of all mutations for all keys, with a control before each eight of them."""
        while True:
            round_ = [case for target in self._targets for case in self._of(target)]
            for number, make in enumerate(round_):
                if number % 8 == 0:
                    yield self._control(self._rng.choice(self._targets))
                case = make()
                if case is not None:
                    yield case

    def _now(self) -> int:
        return int(self._clock())

    def _others(self, target: Target) -> list[str]:
        return sorted({name for other in self._targets if other is not target for name in (other.kid, other.thumbprint)})

    def _draft(self, target: Target) -> Draft:
        if target.style == "granted":
            return grants.valid(target, self._rng, self._now())
        return STYLES[target.style](target, self._rng, self._now())

    def _control(self, target: Target) -> Case:
        if target.style in ("jwt", "issuer"):
            parts = tokens.valid(target, self._rng, self._now())
            return Case(target.style, target.name, TOKEN, tokens.encode(parts))
        return Case(target.style, target.name, BASE, self._draft(target).render())

    def _of(self, target: Target) -> Iterator[Callable[[], Case | None]]:
        """Return what makes the cases of one round for one key; each draws when its turn comes, so that times are fresh."""
        if target.style in ("jwt", "issuer"):
            yield from self._tokens(target)
        elif target.style == "granted":
            for label in grants.MUTATIONS:
                yield lambda label=label: self._outside_the_grant(target, label)  # type: ignore[misc]
        else:
            for label in bases.BASES:
                yield lambda label=label: self._base(target, label)  # type: ignore[misc]
            for label, values in binding.BINDINGS.get(target.style, {}).items():
                for _ in range(3):
                    yield lambda label=label, values=values: self._binding(target, label, values)  # type: ignore[misc]
        for _ in range(3):
            yield lambda: self._foreign(target)
        for number in range(len(_REQUESTS)):
            yield lambda number=number: _REQUESTS[number](self, target)  # type: ignore[misc]

    def _base(self, target: Target, label: str) -> Case | None:
        reasons, mutate = bases.BASES[label]
        context = bases.Context(self._rng, target, self._draft(target), self._now(), self._others(target))
        broken = mutate(context)
        if broken is None:
            return None
        if target.style == "lumoauth-legacy":  # whose values may swallow the next line, so that a component is missing
            reasons |= bases.COVERAGE
        data = broken.render() if isinstance(broken, Draft) else broken
        return Case(label, target.name, BASE, data, reasons)

    def _binding(self, target: Target, label: str, values: binding.Values) -> Case:
        value = binding.draw(self._rng, values, target, self._now(), self._others(target))
        draft = self._draft(target).set_value('"signature-key"', value)
        return Case(label, target.name, BASE, draft.render(), frozenset({"BINDING"}))

    def _tokens(self, target: Target) -> Iterator[Callable[[], Case | None]]:
        classes = {**tokens.TOKENS, **(tokens.ISSUER_TOKENS if target.style == "issuer" else {})}
        for label, (reasons, values) in classes.items():
            for _ in range(8):
                yield lambda label=label, reasons=reasons, values=values: self._token(target, label, reasons, values)  # type: ignore[misc]

    def _token(self, target: Target, label: str, reasons: frozenset[str], values: tokens.Values) -> Case | None:
        now = self._now()
        parts = tokens.valid(target, self._rng, now)
        choices = values(target, parts, now, self._others(target), self._rng)
        return Case(label, target.name, TOKEN, self._rng.choice(choices), reasons) if choices else None

    def _outside_the_grant(self, target: Target, label: str) -> Case:
        reasons, data = grants.broken(label, target, self._rng, self._now())
        return Case(label, target.name, BASE, data, reasons)

    def _foreign(self, target: Target) -> Case:
        _, data = self._rng.choice(foreign.inputs(self._rng))
        field = self._rng.choice([BASE, TOKEN, MESSAGE])
        # For kinds that the key does not have the purpose comes first or the grammar: neither signs.
        return Case("another protocol's input", target.name, field, data, frozenset({"MALFORMED", "PURPOSE"}))

    def _another_kind(self, target: Target) -> Case | None:
        """Return a valid input of this key, sent as what it is not."""
        control = self._control(target)
        field = self._rng.choice([kind for kind in (BASE, TOKEN, MESSAGE) if kind != control.field])
        return Case("a valid input, sent as another kind", target.name, field, control.data, frozenset({"MALFORMED", "PURPOSE"}))

    def _another_keys(self, target: Target) -> Case | None:
        """Return a valid input of a key with another profile or purpose."""
        other = self._rng.choice([t for t in self._targets if t.style != target.style])
        if target.style in ("rfc9421", "granted") or {target.style, other.style} <= {"jwt", "issuer"}:
            return None  # their rules may be met by what is meant for others, as far as the profile goes
        control = self._control(other)
        reasons = frozenset({"MALFORMED", "PURPOSE", "COVERAGE", "KEYID", "TAG", "BINDING", "ALGORITHM", "FRESHNESS"})
        return Case("a valid input of another profile", target.name, control.field, control.data, reasons)

    def _another_kid(self, target: Target) -> Case:
        control = self._control(target)
        kid = self._rng.choice(
            [*self._others(target), "key-1", target.kid + "=", "*", "..", target.kid.swapcase(), "\u0430" + target.kid[1:]]
        )
        return Case(
            "request: the kid of another key", target.name, control.field, control.data, frozenset({"NOT_FOUND", "KEYID"}), kid
        )

    def _no_such_key(self, target: Target) -> Case:
        control = self._control(target)
        name = self._rng.choice(
            [
                target.name.upper(),
                target.name + " ",
                target.name + "\0",
                "../" + target.name,
                "",
                "*",
                target.name + "/1",
                "\u0430gent",
            ]
        )
        return Case("request: a key that there is not", name, control.field, control.data, frozenset({"NOT_FOUND", "GRANT"}))

    def _no_input(self, target: Target) -> Case:
        return Case("request: without an input", target.name, "", b"", frozenset({"INVALID_ARGUMENT"}))


_REQUESTS: list[Callable[[Corpus, Target], Case | None]] = [
    Corpus._another_kind,
    Corpus._another_keys,
    Corpus._another_kid,
    Corpus._no_such_key,
    Corpus._no_input,
]
