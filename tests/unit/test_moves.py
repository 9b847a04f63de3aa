"""What each move does to a key, as an operator expects it. That no invariant breaks is for the state machine to show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf

import pytest
from support import START, new_key

from keyd.core import moves
from keyd.core.errors import KeyStateError
from keyd.core.model import KeyVersion
from keyd.core.moves import Moved
from keyd.core.snapshot import KeyView, VersionView
from keyd.core.timeline import KeyState, LifecyclePolicy, Timeline, first

LIFECYCLE = LifecyclePolicy(publish_lead=600, sign_grace=60, retention=900)


def key_of(*lines: Timeline, **changes: object) -> KeyView:
    key = new_key(lifecycle=LIFECYCLE, **changes)
    records = [KeyVersion("agent", n, f"kid-{n}", f"kid-{n}", "{}", f"h{n}", line) for n, line in enumerate(lines, 1)]
    return KeyView(key, tuple(VersionView(record) for record in records))


def after(view: KeyView, moved: Moved) -> KeyView:
    changed = {record.version: VersionView(record) for record in moved.changed}
    return KeyView(moved.key or view.key, tuple(changed.get(v.record.version, v) for v in view.versions))


def waiting(publish_at: float = START, activate_at: float = START + 600) -> KeyView:
    """Return a key whose second version waits."""
    old = first(START - 10_000).replaced(activate_at, LIFECYCLE)
    return key_of(old, Timeline(START, publish_at, activate_at))


def rotated(at: float = START) -> KeyView:
    """Return a key whose second version has taken over ``at`` that moment."""
    return key_of(first(START - 10_000).replaced(at, LIFECYCLE), Timeline(START - 9000, START - 9000, at))


def states(view: KeyView, now: float) -> list[KeyState]:
    return [version.record.timeline.state(now) for version in view.versions]


def test_a_version_made_ahead_of_time_is_brought_forward() -> None:
    view = waiting(publish_at=START + 5000, activate_at=START + 5600)
    view = after(view, moves.brought_forward(view, START + 10, 600))
    old, new = (version.record.timeline for version in view.versions)
    assert (new.publish_at, new.activate_at) == (START + 10, START + 610)
    assert (old.deactivate_at, old.sign_until, old.unpublish_at) == (START + 610, START + 670, START + 1570)


def test_what_is_published_already_is_not_brought_forward() -> None:
    with pytest.raises(KeyStateError, match="version 2 of key 'agent' is waiting already"):
        moves.brought_forward(waiting(), START + 10, 600)


def test_a_planned_version_is_published_a_lead_before_its_time_and_no_sooner() -> None:
    view = key_of(first(START - 10_000))
    line, (old,) = moves.planned(view, START, 600, START + 7000)
    assert (line.created_at, line.publish_at, line.activate_at) == (START, START + 6400, START + 7000)
    assert old.timeline.deactivate_at == START + 7000


def test_a_version_that_is_made_too_late_is_active_later_than_planned() -> None:
    line, _ = moves.planned(key_of(first(START - 10_000)), START, 600, START + 599)
    assert (line.publish_at, line.activate_at) == (START, START + 600)


@pytest.mark.parametrize("addition", [moves.at_once, lambda view, now: moves.planned(view, now, 600)], ids=["at once", "planned"])
def test_a_disabled_key_gets_no_version(addition: Callable[[KeyView, float], object]) -> None:
    with pytest.raises(KeyStateError, match="is disabled"):
        addition(key_of(first(START), disabled_at=START), START)


def test_a_held_key_rotates_at_once_only() -> None:
    view = key_of(first(START - 10_000), paused_at=START)
    with pytest.raises(KeyStateError, match="`keyd key resume agent`"):
        moves.planned(view, START, 600)
    assert moves.at_once(view, START)[0].activate_at == START


def test_a_rotation_is_rolled_back_while_the_old_version_may_sign() -> None:
    view = after(rotated(), moves.rolled_back(rotated(), START + 59))
    assert states(view, START + 59) == [KeyState.ACTIVE, KeyState.DEACTIVATED]
    back, away = (version.record.timeline for version in view.versions)
    assert (back.activate_at, back.deactivate_at, back.unpublish_at) == (START + 59, inf, inf)
    assert (away.sign_until, away.unpublish_at) == (START + 119, START + 1019)


def test_a_rollback_is_itself_rolled_back() -> None:
    view = after(rotated(), moves.rolled_back(rotated(), START + 20))
    view = after(view, moves.rolled_back(view, START + 40))
    assert states(view, START + 40) == [KeyState.DEACTIVATED, KeyState.ACTIVE]


@pytest.mark.parametrize("now", [START + 60, START + 3000])
def test_no_version_is_rolled_back_to_that_may_not_sign_any_more(now: float) -> None:
    with pytest.raises(KeyStateError, match="no version of key 'agent' that was active before may still sign"):
        moves.rolled_back(rotated(), now)


def test_no_version_is_rolled_back_to_that_is_compromised() -> None:
    view = after(rotated(), moves.compromised(rotated(), START + 1, 1, "stolen"))
    with pytest.raises(KeyStateError):
        moves.rolled_back(view, START + 2)


def test_a_rollback_keeps_the_next_plan() -> None:
    view = key_of(
        first(START - 10_000).replaced(START, LIFECYCLE),
        Timeline(START - 9000, START - 9000, START).replaced(START + 700, LIFECYCLE),
        Timeline(START, START + 100, START + 700),
    )
    view = after(view, moves.rolled_back(view, START + 30))
    assert states(view, START + 30) == [KeyState.ACTIVE, KeyState.DEACTIVATED, KeyState.PRE_ACTIVATION]
    assert view.versions[0].record.timeline.deactivate_at == START + 700
    assert states(view, START + 700) == [KeyState.DEACTIVATED, KeyState.DEACTIVATED, KeyState.ACTIVE]


def test_what_waits_is_held_and_let_go() -> None:
    view = after(waiting(), moves.paused(waiting(), START + 100))
    assert states(view, START + 10_000) == [KeyState.ACTIVE, KeyState.PRE_ACTIVATION]
    early, late = (after(view, moves.resumed(view, START + now, 600)) for now in (200, 5000))
    assert early.versions[1].record.timeline.activate_at == START + 600
    assert late.versions[1].record.timeline.activate_at == START + 5000
    assert [v.record.timeline.deactivate_at for v in (early.versions[0], late.versions[0])] == [START + 600, START + 5000]
    assert early.key.paused_at is late.key.paused_at is None


def test_a_held_version_takes_over_from_one_that_is_compromised() -> None:
    view = after(waiting(), moves.paused(waiting(), START + 100))
    view = after(view, moves.compromised(view, START + 200, 1, "stolen"))
    assert states(view, START + 200) == [KeyState.COMPROMISED, KeyState.ACTIVE]


def test_a_version_that_waits_and_is_compromised_leaves_the_active_one_as_it_was() -> None:
    view = after(waiting(), moves.compromised(waiting(), START + 1, 2, "stolen"))
    assert states(view, START + 5000) == [KeyState.ACTIVE, KeyState.COMPROMISED]


def test_a_shorter_retention_keeps_the_promise_of_the_longer() -> None:
    view = key_of(first(START - 10_000))
    view = after(view, moves.with_lifecycle(view, START, replace(LIFECYCLE, retention=400)))
    assert view.key.promised_until == START + 900
    _, (old,) = moves.at_once(view, START + 1)
    assert old.timeline.unpublish_at == START + 900
    _, (older,) = moves.at_once(view, START + 1000)
    assert older.timeline.unpublish_at == START + 1460


def test_a_longer_retention_promises_nothing_more() -> None:
    view = key_of(first(START - 10_000))
    assert after(view, moves.with_lifecycle(view, START, replace(LIFECYCLE, retention=4000))).key.promised_until == 0


@pytest.mark.parametrize(
    "move",
    [
        moves.activated,
        moves.paused,
        lambda view, now: moves.resumed(view, now, 600),
        lambda view, now: moves.enabled(view, now, True),
        lambda view, now: moves.with_lifecycle(view, now, LIFECYCLE),
    ],
)
def test_what_is_so_already_changes_nothing(move: Callable[[KeyView, float], Moved]) -> None:
    view = key_of(first(START), paused_at=START if move is moves.paused else None)
    assert move(view, START + 1) == Moved()
