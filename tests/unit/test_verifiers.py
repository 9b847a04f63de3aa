"""What follows from what verifiers cache: the default periods, and what operators are warned of."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from support import new_key

from keyd import config
from keyd.config.model import Defaults
from keyd.core import verifiers
from keyd.core.profile import BUILT_IN
from keyd.core.timeline import LifecyclePolicy

DAY = 86400.0
MAX_AGE = config.load(None).jwks.max_age


def test_the_default_periods_follow_from_the_table() -> None:
    defaults = Defaults()
    # No verifier needs to fetch anything out of turn: even the one that keeps a set longest has the next version when it signs.
    assert defaults.publish_lead == verifiers.LONGEST_KEPT
    assert defaults.publish_lead > max(verifier.unknown_for for verifier in verifiers.VERIFIERS)
    # What was signed last is verified by somebody with the oldest set, and by somebody who fetches a new one, until it expires.
    # Clusters keep a set for as long as keyd tells them (refresh_hint), which is shorter; see keyd.core.kubernetes.
    longest = max(profile.max_jwt_lifetime for name, profile in BUILT_IN.items() if name != "kubernetes")
    assert defaults.retention >= longest + verifiers.LONGEST_KEPT
    # Agents that learn of a rotation from a set of their own, at the age at which it is fetched again, are not refused.
    assert defaults.sign_grace >= MAX_AGE
    assert verifiers.most_published(new_key(lifecycle=defaults.lifecycle), MAX_AGE) <= verifiers.MOST_KEYS
    assert verifiers.advice(new_key(lifecycle=defaults.lifecycle), MAX_AGE) == ()
    policy = LifecyclePolicy()
    assert (policy.publish_lead, policy.sign_grace, policy.retention) == (
        defaults.publish_lead,
        defaults.sign_grace,
        defaults.retention,
    )


def test_an_emergency_names_those_that_fail_and_for_how_long() -> None:
    text = verifiers.not_yet_known(0, 300)
    assert "regent-httpsig (key directory) up to 12 min; wbauth-sdk up to 5 min; AAuth by its draft, aauth up to 1 min" in text
    assert "introspection-aauth, PyJWT up to 30 s" in text
    assert "max-age up to 5 min longer" in text
    assert "regent-httpsig," not in text  # it fetches again at once
    assert len(text) < 400


def test_the_longer_a_version_was_published_the_fewer_fail() -> None:
    text = verifiers.not_yet_known(301, 300)
    assert "regent-httpsig (key directory) up to 419 s" in text
    assert "wbauth-sdk" not in text
    text = verifiers.not_yet_known(DAY, 300)
    assert "know this version" in text and "fail until" not in text


def test_a_compromise_names_those_that_still_trust() -> None:
    text = verifiers.still_trusted("kid-1", 300)
    assert "'kid-1'" in text
    for part in ("AAuth by its draft up to 24 h", "aauth up to 1 h", "up to 10 min", "wbauth-sdk, PyJWT up to 5 min"):
        assert part in text


@pytest.mark.parametrize(
    ("lead", "max_age", "complaint"),
    [
        (DAY, 300, None),
        (DAY - 1, 300, "AAuth lets a verifier keep"),
        (721, 300, "AAuth lets a verifier keep"),
        (719, 300, "regent-httpsig (key directory) up to 12 min"),
        (200, 100, "wbauth-sdk up to 5 min"),
        (600, DAY / 2, None),  # a day, because that much is served
    ],
)
def test_a_short_publish_lead_is_warned_of(lead: float, max_age: float, complaint: str | None) -> None:
    found = verifiers.advice(new_key(lifecycle=LifecyclePolicy(publish_lead=lead)), max_age)
    assert (complaint is None) == (found == ())
    assert complaint is None or complaint in found[0]


def test_a_set_with_more_keys_than_some_read_is_warned_of() -> None:
    many = LifecyclePolicy(rotation_period=2 * DAY, retention=18 * DAY)
    [text] = verifiers.advice(new_key(lifecycle=many), 300)
    assert "up to 11 versions" in text and "first 10 (regent-httpsig" in text
    assert verifiers.advice(new_key(lifecycle=replace(many, retention=16 * DAY)), 300) == ()
    assert verifiers.advice(new_key(lifecycle=replace(many, rotation_period=inf)), 300) == ()


def test_a_key_in_no_set_needs_no_advice() -> None:
    assert verifiers.advice(new_key(publish=False, lifecycle=LifecyclePolicy(publish_lead=600)), 300) == ()
