"""What verifiers do with a JWK Set: for how long they keep it, and what they do about a kid that is not in it.

Read in their sources and measured on them: aauth 0.5.0, regent-httpsig 0.7.3, introspection-aauth 0.1.0, wbauth-sdk 0.4.0, PyJWT
2.15.1, AAUTH-11. None of them heeds ``Cache-Control``, so no period here depends on what keyd serves.
The default periods of a key, and what operators are warned of, follow from this table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keyd.core.model import Key


@dataclass(frozen=True, slots=True)
class Verifier:
    """What one verifier does. Periods in seconds.

    Attributes:
        name: of the library.
        keeps: for how long it uses a set that it fetched.
        refetches: how soon after a fetch it fetches again for a kid that it does not know; None: not before ``keeps`` is over.
        forgets: for how long it remembers that a kid was unknown.
        reads: how many keys of a set it reads; None: all.
    """

    name: str
    keeps: float
    refetches: float | None
    forgets: float = 0.0
    reads: int | None = None

    @property
    def unknown_for(self) -> float:
        """For how long at most it refuses a key that is in the set."""
        return (self.keeps if self.refetches is None else self.refetches) + self.forgets


VERIFIERS = (
    Verifier("AAuth by its draft", keeps=24 * 3600.0, refetches=60.0),
    Verifier("aauth", keeps=3600.0, refetches=60.0),
    Verifier("regent-httpsig", keeps=600.0, refetches=0.0, reads=10),
    Verifier("regent-httpsig (key directory)", keeps=600.0, refetches=None, forgets=120.0, reads=10),
    Verifier("introspection-aauth", keeps=300.0, refetches=30.0),
    Verifier("wbauth-sdk", keeps=300.0, refetches=None),
    Verifier("PyJWT", keeps=300.0, refetches=30.0),
)
#: The longest that a set is used. Whoever is published for as long is known everywhere.
LONGEST_KEPT = max(verifier.keeps for verifier in VERIFIERS)
#: How many keys a set may have for every verifier to read them all.
MOST_KEYS = min(verifier.reads for verifier in VERIFIERS if verifier.reads is not None)


def not_yet_known(published_for: float, served_max_age: float) -> str:
    """Say which verifiers refuse a version that signs after it was published for so many seconds, and for how long."""
    failing = [(v.name, v.unknown_for - published_for) for v in VERIFIERS if v.unknown_for > published_for]
    if not failing:
        return (
            f"verifiers that cached the JWK Set know this version, for it was published {_span(published_for)} before; "
            "only one that keeps a set for longer than that fails"
        )
    return (
        f"verifiers that cached the JWK Set fail until they fetch it again: {_listed(failing)}; others for their own cache time, "
        f"and behind a cache that heeds max-age up to {_span(served_max_age)} longer"
    )


def still_trusted(kid: str, served_max_age: float) -> str:
    """Say which verifiers go on to trust a kid that left the set, and for how long."""
    trusting = [(verifier.name, verifier.keeps) for verifier in VERIFIERS]
    return (
        f"verifiers trust kid {kid!r} until they fetch the JWK Set again: {_listed(trusting)}; others for their own cache time, "
        f"and behind a cache that heeds max-age up to {_span(served_max_age)} longer"
    )


def advice(key: Key, served_max_age: float) -> tuple[str, ...]:
    """Return what an operator should know about the periods of a key, for people. All of it is allowed."""
    if not key.publish:
        return ()
    lifecycle, found = key.lifecycle, []
    lead = max(lifecycle.publish_lead, 2 * served_max_age)
    failing = [(v.name, v.unknown_for) for v in VERIFIERS if v.unknown_for > lead]
    if failing:
        found.append(f"publish_lead is shorter than some verifiers go without fetching the JWK Set again: {_listed(failing)}")
    elif lead < LONGEST_KEPT:
        found.append(
            f"publish_lead is shorter than the {_span(LONGEST_KEPT)} for which AAuth lets a verifier keep a JWK Set; one that does not "
            "fetch it again for a kid that it does not know fails after a rotation"
        )
    count = most_published(key, served_max_age)
    if count > MOST_KEYS:
        names = ", ".join(verifier.name for verifier in VERIFIERS if verifier.reads is not None)
        found.append(
            f"up to {count} versions are published at one time, and some verifiers read only the first {MOST_KEYS} ({names}): "
            "make rotation_period longer, or retention shorter"
        )
    return tuple(found)


def most_published(key: Key, served_max_age: float) -> int:
    """Return how many versions of a key are published at one time at most, if it rotates by itself alone."""
    lifecycle = key.lifecycle
    if not key.publish or math.isinf(lifecycle.rotation_period):
        return 0 if not key.publish else 1
    lead = max(lifecycle.publish_lead, 2 * served_max_age)
    return 1 + math.ceil((lead + lifecycle.sign_grace + lifecycle.retention) / max(lifecycle.rotation_period, 2 * lead))


def _listed(found: list[tuple[str, float]]) -> str:
    """Return names and durations, the longest first; those with the same duration together."""
    by_duration: dict[float, list[str]] = {}
    for name, seconds in sorted(found, key=lambda each: -each[1]):
        by_duration.setdefault(seconds, []).append(name)
    return "; ".join(f"{', '.join(names)} up to {_span(seconds)}" for seconds, names in by_duration.items())


def _span(seconds: float) -> str:
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f} {unit}"
    return f"{math.ceil(seconds / 60)} min" if seconds > 600 else f"{math.ceil(seconds)} s"
