"""The planner: when a version is replaced, made and destroyed, for any key at any time."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import hypothesis.strategies as st
from hypothesis import assume, given
from support import START, new_key

from keyd.core.model import Key, KeyVersion
from keyd.core.planner import Rules, Step, StepKind, due, lead_of, plan, replaced_at
from keyd.core.snapshot import KeyView, VersionView
from keyd.core.timeline import LifecyclePolicy, Timeline, first

DAY = 86400.0
POLICY = LifecyclePolicy(rotation_period=30 * DAY, destroy_after=30 * DAY)
LEAD = POLICY.publish_lead
RULES = Rules()


def version(number: int, line: Timeline, name: str = "agent") -> KeyVersion:
    return KeyVersion(name, number, f"{name}-{number}", f"{name}-{number}", "{}", f"handle {number}", line)


def view_of(key: Key, *lines: Timeline) -> KeyView:
    return KeyView(key, tuple(VersionView(version(number, line, key.name)) for number, line in enumerate(lines, 1)))


def one(**changes: object) -> KeyView:
    return view_of(new_key(**{"lifecycle": POLICY, **changes}), first(START))


def moments(view: KeyView, now: float = START, days: float = 60, rules: Rules = RULES) -> list[Step]:
    return plan(view, now, now + days * DAY, lead=lead_of(view.key, 300), rules=rules)


def test_a_version_is_replaced_within_the_jitter_before_its_period_is_over() -> None:
    fractions = set()
    for number in range(200):
        at = replaced_at(new_key(f"k{number}", lifecycle=POLICY), 1, START, lead=LEAD, rules=RULES)
        assert START + 27 * DAY < at <= START + 30 * DAY
        fractions.add(round((at - START) / DAY, 1))
    assert len(fractions) > 25, "keys made on one day rotate on one day"


def test_it_is_the_same_on_every_replica() -> None:
    at = replaced_at(new_key(lifecycle=POLICY), 1, START, lead=LEAD, rules=RULES)
    assert round(at - START) == 2362923  # another hash in another release would make two replicas disagree
    assert at != replaced_at(new_key(lifecycle=POLICY), 2, START, lead=LEAD, rules=RULES)


def test_the_successor_is_made_days_before_it_is_published_and_published_a_lead_before_it_signs() -> None:
    steps = moments(one(), days=28)
    create, publish, activate, stop = steps[:4]
    assert [step.kind for step in steps] == [StepKind.CREATE, StepKind.PUBLISH, StepKind.ACTIVATE, StepKind.STOP_SIGNING]
    assert (create.version, publish.version, activate.version, stop.version) == (2, 2, 2, 1)
    assert create.at == publish.at - RULES.create_ahead
    assert create.deadline == publish.at == activate.at - LEAD
    assert create.activate_at == activate.at
    assert stop.at == activate.at + POLICY.sign_grace


def test_nothing_is_made_while_the_key_is_held_disabled_or_not_to_rotate() -> None:
    ours = {StepKind.CREATE, StepKind.DESTROY}
    old = first(START).replaced(START + 1, POLICY)
    for held in (
        one(paused_at=START),
        one(disabled_at=START),
        view_of(new_key(lifecycle=POLICY, paused_at=START), old, Timeline(START, START, START + 1)),
    ):
        now = START + 400 * DAY
        assert not ours & {step.kind for step in moments(held, days=400)}
        assert due(held, now, lead=LEAD, rules=RULES) == ([], inf)
        assert due(held, START, lead=LEAD, rules=RULES) == ([], inf)
    assert moments(one(lifecycle=LifecyclePolicy()), days=4000) == []
    assert moments(one(), days=4000, rules=Rules(enabled=False)) == []
    assert ours <= {step.kind for step in moments(one(), days=400)}


def test_a_key_without_an_active_version_gets_one_at_once() -> None:
    view = view_of(new_key(), replace(first(START), compromised_at=START + 5))
    [step], _ = due(view, START + 9, lead=LEAD, rules=RULES)
    assert (step.kind, step.version, step.deadline) == (StepKind.CREATE, 2, START + 5)
    create, publish, activate = moments(view, START + 9)
    assert create.at == publish.at == activate.at == START + 9
    assert "no version is active" in create.delay


def test_what_is_late_becomes_active_later_and_says_so() -> None:
    now = START + 40 * DAY
    create, publish, activate = moments(one(), now)[:3]
    assert (create.at, publish.at, activate.at) == (now, now, now + LEAD)
    assert "late" in create.delay
    assert moments(one(), START)[0].delay == ""


def test_a_compromised_private_key_is_kept_for_as_long_as_one_that_left_the_set() -> None:
    line = replace(first(START).replaced(START + 1, POLICY), compromised_at=START + 9)
    view = view_of(new_key(lifecycle=POLICY), line, Timeline(START, START, START + 1))
    destroy = next(step for step in moments(view, START + 10) if step.kind is StepKind.DESTROY)
    assert (destroy.version, destroy.at) == (1, START + 9 + POLICY.destroy_after)
    assert not [step for step in moments(view, START + 10) if step.version == 1 and step.kind is not StepKind.DESTROY]


def test_the_set_of_an_unpublished_key_is_not_planned() -> None:
    kinds = {step.kind for step in moments(one(publish=False), days=400)}
    assert kinds == {StepKind.CREATE, StepKind.ACTIVATE, StepKind.STOP_SIGNING, StepKind.DESTROY}


periods = st.builds(
    LifecyclePolicy,
    publish_lead=st.floats(600, 3 * DAY),
    sign_grace=st.floats(0, DAY),
    retention=st.floats(300, 10 * DAY),
    rotation_period=st.floats(6 * DAY, 100 * DAY),
    destroy_after=st.floats(0, 50 * DAY) | st.just(inf),
)
rules = st.builds(Rules, jitter=st.floats(0, 0.5), create_ahead=st.floats(0, 30 * DAY))


@st.composite
def views(draw: st.DrawFn) -> KeyView:
    """Keys with a past: versions one after the other, the last one active, waiting, or compromised."""
    policy = draw(periods)
    key = new_key(draw(st.sampled_from("abcdef")), lifecycle=policy, promised_until=draw(st.floats(0, START + 20 * DAY)))
    lines, at = [first(START)], START
    for _ in range(draw(st.integers(0, 3))):
        at += draw(st.floats(policy.publish_lead, 40 * DAY))
        lines[-1] = lines[-1].replaced(at, policy)
        lines.append(Timeline(at - policy.publish_lead, at - policy.publish_lead, at))
    if draw(st.booleans()):
        lines[-1] = replace(lines[-1], compromised_at=at + draw(st.floats(0, DAY)))
    return view_of(key, *lines)


def is_past(view: KeyView, now: float) -> bool:
    lines = [version.record.timeline for version in view.versions]
    return all(line.created_at <= now and not now < line.compromised_at < inf for line in lines)


@given(views(), rules, st.floats(0, 300 * DAY))
def test_every_step_of_every_plan_is_in_bounds(view: KeyView, rules: Rules, ago: float) -> None:
    now, lead = START + ago, lead_of(view.key, 300)
    assume(is_past(view, now))
    steps = plan(view, now, now + 200 * DAY, lead=lead, rules=rules)
    assert steps == sorted(steps, key=lambda step: step.at)
    assert all(now <= step.at <= now + 200 * DAY for step in steps)
    active = {v.record.version: v.record.timeline.activate_at for v in view.versions}
    published = {v.record.version: v.record.timeline.publish_at for v in view.versions}
    head = view.pending(now) or view.active(now)
    for step in steps:
        if step.kind is StepKind.PUBLISH:
            published[step.version] = step.at
        if step.kind is StepKind.ACTIVATE:
            active[step.version] = step.at
            if step.version - 1 in active and head is not None:
                assert step.at - published[step.version] >= lead - 0.001
    for step in steps:
        if step.kind is not StepKind.CREATE:
            continue
        before = step.version - 1
        if before in active and head is not None:
            half = active[before] + (step.activate_at - active[before]) / 2
            assert step.at >= min(half, step.deadline) - 0.001, "made before its predecessor has had half of its time"
            assert half <= step.deadline + 0.001
            assert step.activate_at <= active[before] + max(view.key.lifecycle.rotation_period, 2 * lead) + 0.001
    assert len({(step.version, step.kind) for step in steps}) == len(steps), "a step is planned twice"


@given(views(), rules, st.floats(0, 300 * DAY))
def test_what_is_due_is_what_the_plan_begins_with(view: KeyView, rules: Rules, ago: float) -> None:
    now, lead = START + ago, lead_of(view.key, 300)
    assume(is_past(view, now))
    ours = (StepKind.CREATE, StepKind.DESTROY)
    owed, following = due(view, now, lead=lead, rules=rules)
    steps = [step for step in plan(view, now, now + 500 * DAY, lead=lead, rules=rules) if step.kind in ours]
    assert {(s.kind, s.version) for s in owed} == {(s.kind, s.version) for s in steps if s.at == now}
    assert following == next((step.at for step in steps if step.at > now), inf) or following > now + 500 * DAY
    assert all(step.at <= now for step in owed)
