"""The lifecycle as a pure function."""

from __future__ import annotations

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from keyd.core.timeline import KeyState, LifecyclePolicy, Timeline, first, successor

POLICY = LifecyclePolicy(publish_lead=600, sign_grace=300, retention=3600)


def test_first_version_is_active_and_published_at_once() -> None:
    line = first(100)
    assert (line.state(100), line.published(100), line.signs(100)) == (KeyState.ACTIVE, True, True)
    assert (line.published(99), line.signs(99)) == (False, False)


def test_a_planned_rotation_step_by_step() -> None:
    new = successor(1000, POLICY)
    old = first(0).replaced(new.activate_at, POLICY)
    seen = [
        (old.state(t).value, old.signs(t), old.published(t), new.state(t).value, new.signs(t), new.published(t))
        for t in (1000, 1599.9, 1600, 1899.9, 1900, 5499.9, 5500)
    ]
    assert seen == [
        ("active", True, True, "pre-activation", False, True),
        ("active", True, True, "pre-activation", False, True),
        ("deactivated", True, True, "active", True, True),
        ("deactivated", True, True, "active", True, True),
        ("deactivated", False, True, "active", True, True),
        ("deactivated", False, True, "active", True, True),
        ("deactivated", False, False, "active", True, True),
    ]


def test_compromise_and_destruction_end_everything_at_that_instant() -> None:
    for line, state in (
        (Timeline(0, 0, 0, compromised_at=50), KeyState.COMPROMISED),
        (Timeline(0, 0, 0, destroyed_at=50), KeyState.DESTROYED),
        (Timeline(0, 0, 0, compromised_at=20, destroyed_at=50), KeyState.DESTROYED),
    ):
        assert (line.state(50), line.published(50), line.signs(50)) == (state, False, False)


def test_taking_a_successor_back_restores_the_timeline() -> None:
    line = first(7)
    assert line.replaced(100, POLICY).not_replaced() == line


times = st.floats(0, 1000, allow_nan=False)


@given(st.builds(Timeline, times, times, times, *[st.one_of(times, st.just(inf))] * 5), times)
def test_nothing_changes_before_the_next_change(line: Timeline, now: float) -> None:
    answers = (line.state(now), line.published(now), line.signs(now))
    change = line.next_change(now)
    just_before = now if change == inf else (now + change) / 2
    if just_before < change:
        assert (line.state(just_before), line.published(just_before), line.signs(just_before)) == answers


@given(times, st.floats(0, 500), st.floats(0, 500), st.floats(0, 500))
def test_what_was_signed_expires_before_publication_ends(now: float, lead: float, grace: float, retention: float) -> None:
    policy = LifecyclePolicy(lead, grace, retention)
    line = first(0)
    longest = line.publication_ends(now, policy)
    assert line.replaced(now, policy).unpublish_at >= longest  # even when an emergency rotation comes this instant


@given(times, st.floats(0, 1))
def test_a_rotation_does_not_shorten_what_an_agent_may_ask_for(now: float, share: float) -> None:
    line = first(0).replaced(now, POLICY)
    later = now + share * POLICY.sign_grace * 0.999
    assert line.signs(later)
    assert abs(line.publication_ends(later, POLICY) - later - POLICY.retention) < 1e-6
