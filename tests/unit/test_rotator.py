"""Rotation by itself: in time, at its pace, in spite of outages, and with a warning long before it is late."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from math import inf
from pathlib import Path
from types import SimpleNamespace

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from structlog.testing import capture_logs
from support import START, FakeClock, keyring, memory_backend, new_key, until
from unit.test_planner import views

from backends import errors as backend_errors
from backends.memory import MemoryBackend
from keyd.core import moves
from keyd.core.keyring import Keyring
from keyd.core.planner import Rules, StepKind, due, lead_of, plan
from keyd.core.rotator import Rotator
from keyd.core.runner import BackendRunner, Limits
from keyd.core.snapshot import KeyView, Snapshot
from keyd.core.store import SqlStore
from keyd.core.timeline import KeyState, LifecyclePolicy

DAY = 86400.0
POLICY = LifecyclePolicy(rotation_period=30 * DAY, destroy_after=30 * DAY)
EXACT = Rules(jitter=0)
AWAY = backend_errors.BackendUnavailableError("away")


class World:
    """Two backends, a keyring and a rotator, in a time that the test moves."""

    def __init__(self, path: Path, rules: Rules = EXACT) -> None:
        self.clock = FakeClock()
        self.backends = {"mem": memory_backend(), "other": memory_backend()}
        self.runners = {name: BackendRunner(name, backend, Limits(threads=1)) for name, backend in self.backends.items()}
        self.store = SqlStore(path)
        self.ring: Keyring = keyring(self.store, self.runners, self.clock)
        self.leads = True
        self.rotator = Rotator(self.ring, rules, lambda: self.leads)

    def close(self) -> None:
        for runner in self.runners.values():
            runner.close()
        self.store.close()

    async def key(self, name: str = "agent", **changes: object) -> None:
        await self.ring.create(new_key(name, created_at=self.clock.time, **{"lifecycle": POLICY, **changes}))

    async def until(self, at: float, *, pause: float = 0.0) -> None:
        """Let time pass as a daemon sees it that looks when it said it would, but for ``pause`` seconds between, and once a day."""
        while self.clock.time < at:
            again = await self.rotator.step()
            assert again > self.clock.time, "it would look again and again"
            self.clock.time = min(max(again, self.clock.time + pause), at, self.clock.time + DAY)

    def states(self, name: str = "agent") -> list[str]:
        return [v.record.timeline.state(self.clock.time).value for v in self.ring.snapshot.get(name).versions]

    def fail(self, name: str = "mem", error: Exception = AWAY, only: str | None = None) -> None:
        backend = self.backends[name]

        def create(key: str, *arguments: object) -> str:
            if only is None or key == only:
                raise error
            return MemoryBackend.create(backend, key, *arguments)  # type: ignore[arg-type]

        backend.create = create  # type: ignore[method-assign]

    def mend(self, name: str = "mem") -> None:
        del self.backends[name].create
        self.runners[name].breaker.succeeded()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path / "keyd.db")
    await world.ring.start()
    yield world
    world.close()


async def test_a_year_goes_by(world: World) -> None:
    await world.key()
    await world.until(START + 365 * DAY)
    assert Counter(world.states()) == {"active": 1, "deactivated": 1, "destroyed": 11}
    lines = [version.record.timeline for version in world.ring.snapshot.get("agent").versions]
    for number, line in enumerate(lines):
        assert line.activate_at == START + number * 30 * DAY
    for line in lines[1:]:
        assert line.created_at == line.publish_at - EXACT.create_ahead == line.activate_at - DAY - EXACT.create_ahead
    assert world.rotator.done == {StepKind.CREATE: 12, StepKind.DESTROY: 11}


async def test_what_is_not_to_rotate_does_not(world: World) -> None:
    await world.key("by-hand", lifecycle=LifecyclePolicy())
    await world.key("paused")
    await world.key("disabled")
    await world.ring.set_paused("paused", True)
    await world.ring.set_enabled("disabled", False)
    await world.until(START + 100 * DAY)
    assert [world.states(name) for name in ("by-hand", "paused", "disabled")] == [["active"]] * 3
    await world.ring.set_paused("paused", False)
    await world.rotator.step()
    assert world.states("paused") == ["active", "pre-activation"]


async def test_a_backend_that_is_away_on_rotation_day_does_not_matter(world: World) -> None:
    await world.key()
    await world.until(START + 28.5 * DAY)
    world.fail()
    await world.until(START + 29 * DAY)
    assert world.states() == ["active", "pre-activation"]
    world.clock.time = START + 30 * DAY
    assert world.states() == ["deactivated", "active"]
    assert world.rotator.failed == {}


async def test_an_outage_of_days_before_it_does_not_matter_either(world: World) -> None:
    await world.key()
    world.fail(error=backend_errors.BackendAccessError("quota"))
    await world.until(START + 28.9 * DAY)
    assert world.states() == ["active"]
    world.mend()
    await world.until(START + 30 * DAY)
    line = world.ring.snapshot.get("agent").versions[1].record.timeline
    assert (line.publish_at, line.activate_at) == (START + 29 * DAY, START + 30 * DAY)


async def test_a_version_that_is_made_too_late_is_still_published_before_it_signs(world: World) -> None:
    await world.key()
    world.fail(error=backend_errors.BackendAccessError("quota"))
    await world.until(START + 35 * DAY)
    assert (world.rotator.figures().overdue, world.rotator.figures().waiting) == (1, 1)
    world.mend()
    await world.until(START + 36 * DAY)
    line = world.ring.snapshot.get("agent").versions[1].record.timeline
    assert START + 35 * DAY <= line.publish_at == line.activate_at - DAY <= START + 35 * DAY + 3600
    assert world.rotator.figures().overdue == 0


async def test_warnings_come_long_before_the_deadline_and_no_more_than_needed(world: World) -> None:
    await world.key()
    world.fail(error=backend_errors.BackendAccessError("quota"))
    with capture_logs() as logs:
        await world.until(START + 29.5 * DAY)
    told = [log for log in logs if log["event"].startswith("the next version")]
    assert [log["log_level"] for log in told] == ["warning", "warning", "warning", "error"]
    assert told[0]["seconds_left"] == 3 * DAY
    assert 1.4 * DAY < told[1]["seconds_left"] <= 1.5 * DAY
    assert 0.25 * DAY < told[2]["seconds_left"] <= 0.3 * DAY
    assert told[3]["seconds_left"] <= 0
    for log in told:
        assert (log["key"], log["version"], log["backend"], log["deadline"]) == ("agent", 2, "mem", START + 29 * DAY)
        assert "quota" in log["error"]
    assert "quota" in (world.rotator.trouble("agent") or "")
    world.mend()
    with capture_logs() as logs:
        await world.until(START + 31 * DAY)
    assert not [log for log in logs if log["log_level"] in ("warning", "error")]
    assert world.rotator.trouble("agent") is None


async def test_failures_are_tried_again_later_and_later(world: World) -> None:
    await world.key()
    world.clock.time = START + 26 * DAY
    world.fail(error=backend_errors.BackendAccessError("quota"))
    waits = []
    for _ in range(9):
        before = world.clock.time
        world.clock.time = await world.rotator.step()
        if world.rotator.failed["mem"] == len(waits):  # the end of the pause between two acts
            world.clock.time = await world.rotator.step()
        waits.append(world.clock.time - before)
    assert waits == sorted(waits) and waits[0] <= 61 and waits[-1] <= 3600
    assert max(waits) == 3600


async def test_the_last_attempt_before_a_deadline_is_not_after_it(world: World) -> None:
    await world.key(lifecycle=replace(POLICY, rotation_period=4 * DAY))
    world.rotator.rules = replace(EXACT, create_ahead=3600)
    world.fail(error=backend_errors.BackendAccessError("quota"))
    await world.until(START + 3 * DAY - 90)
    attempts = world.rotator.failed["mem"]
    assert attempts > 5
    await world.until(START + 3 * DAY)
    assert world.rotator.failed["mem"] > attempts


async def test_one_key_that_fails_holds_up_no_other(world: World) -> None:
    await world.key("a")
    await world.key("b")
    world.clock.time = START + 26.5 * DAY
    world.fail(error=backend_errors.BackendAccessError("no"), only="a")
    await world.until(world.clock.time + 10)
    assert (world.states("a"), world.states("b")) == (["active"], ["active", "pre-activation"])


async def test_a_backend_that_is_away_holds_up_no_other_and_is_left_alone(world: World) -> None:
    await world.key("a")
    await world.key("b", backend="other")
    world.clock.time = START + 26.5 * DAY
    world.runners["mem"].breaker._reason = "down"  # as after five failures
    with capture_logs() as logs:
        await world.until(world.clock.time + 30)
    assert (world.states("a"), world.states("b")) == (["active"], ["active", "pre-activation"])
    assert world.rotator.failed == {}
    assert [log["error"] for log in logs if log["log_level"] == "warning"] == ["down"]
    world.runners["mem"].breaker._reason = None
    await world.until(world.clock.time + 30)
    assert world.states("a") == ["active", "pre-activation"]


async def test_a_call_that_hangs_holds_up_no_other_backend(world: World) -> None:
    await world.key("a")
    await world.key("b", backend="other")
    world.clock.time = START + 26.5 * DAY
    release = asyncio.get_running_loop().create_future()
    prepare = world.ring.prepare

    async def hanging(name: str, activate_at: float, newest: int) -> object:
        if name == "a":
            await release
        return await prepare(name, activate_at, newest=newest)

    world.ring.prepare = hanging  # type: ignore[assignment,method-assign]
    running = asyncio.create_task(world.rotator.run())
    await until(lambda: len(world.states("b")) == 2)
    assert world.states("a") == ["active"]
    release.set_result(None)
    await until(lambda: len(world.states("a")) == 2)
    running.cancel()
    await asyncio.wait([running])


async def test_a_month_off_is_made_up_for_at_a_pace_and_oldest_first(world: World) -> None:
    # Keys that were made over two days, in two backends.
    count = 150
    for number in range(count):
        world.clock.time = START + number * 2 * DAY / count
        await world.key(f"k{number:04}", backend=("mem", "other")[number % 2])
    world.clock.time = START + 75 * DAY
    made: list[tuple[float, str]] = []
    prepare = world.ring.prepare

    async def noted(name: str, activate_at: float, newest: int) -> object:
        made.append((world.clock.time, name))
        return await prepare(name, activate_at, newest=newest)

    world.ring.prepare = noted  # type: ignore[assignment,method-assign]
    world.rotator.rules = replace(EXACT, per_minute=30)
    with capture_logs() as logs:
        await world.until(START + 75 * DAY + count + 10)
    assert len(made) == count
    assert [name for _, name in made] == sorted(name for _, name in made)
    for second in range(0, count, 50):  # in no minute more than its share, for each of the backends
        begin = START + 75 * DAY + second
        assert sum(begin <= at < begin + 60 for at, _ in made) <= 2 * 30
    taken_over = [world.ring.snapshot.get(f"k{n:04}").versions[1].record.timeline.activate_at for n in range(count)]
    assert max(Counter(int(at // 60) for at in taken_over).values()) <= 2 * 31, "they all take over at once"
    assert not [log for log in logs if log["log_level"] == "error"]


async def test_two_in_a_row_are_a_pause_apart_whatever_happens(world: World) -> None:
    await world.key("a")
    await world.key("b")
    world.clock.time = START + 26.5 * DAY
    world.rotator.rules = replace(EXACT, per_minute=1)
    again = await world.rotator.step()
    assert again == world.clock.time + 60
    world.clock.time += 59
    assert await world.rotator.step() == again
    assert world.rotator.done[StepKind.CREATE] == 1
    world.clock.time = again
    await world.rotator.step()
    assert world.rotator.done[StepKind.CREATE] == 2


async def test_a_clock_that_is_set_back_does_not_stop_it(world: World) -> None:
    await world.key("a")
    await world.key("b", lifecycle=replace(POLICY, rotation_period=10 * DAY))
    world.clock.time = START + 200 * DAY
    await world.rotator.step()
    world.clock.time = START + 29 * DAY
    for _ in range(4):
        world.clock.time = min(await world.rotator.step(), world.clock.time + 60)
    assert len(world.states("a")) == len(world.states("b")) == 2


async def test_who_does_not_lead_does_nothing(world: World) -> None:
    await world.key()
    world.leads = False
    await world.until(START + 35 * DAY, pause=3600)
    assert world.states() == ["active"]
    assert world.rotator.figures().overdue == 1  # every replica sees it
    world.leads = True
    await world.rotator.step()
    assert world.states() == ["active", "pre-activation"]


async def test_rules_and_served_max_age_can_be_replaced_while_it_runs(world: World) -> None:
    await world.key()
    world.rotator.rules = Rules(enabled=False)
    await world.until(START + 27 * DAY, pause=3600)
    assert world.states() == ["active"]
    world.ring.served_max_age = 2 * DAY  # so the lead is four days
    world.rotator.rules = replace(EXACT, create_ahead=0)
    await world.rotator.step()
    line = world.ring.snapshot.get("agent").versions[1].record.timeline
    assert (line.publish_at, line.activate_at) == (START + 27 * DAY, START + 31 * DAY)


async def test_a_reload_wakes_it(world: World) -> None:
    await world.key()
    world.clock.time = START + 26.5 * DAY
    world.rotator.rules = Rules(enabled=False)
    running = asyncio.create_task(world.rotator.run())
    await asyncio.sleep(0)
    world.rotator.rules = EXACT
    world.ring.wake()
    await until(lambda: len(world.states()) == 2)
    running.cancel()
    await asyncio.wait([running])


async def test_somebody_else_who_is_faster_is_no_failure(world: World) -> None:
    await world.key()
    world.clock.time = START + 26.5 * DAY
    prepare = world.ring.prepare

    async def beaten(name: str, activate_at: float, newest: int) -> object:
        await prepare(name, activate_at, newest=newest)
        return await prepare(name, activate_at, newest=newest)

    world.ring.prepare = beaten  # type: ignore[assignment,method-assign]
    with capture_logs() as logs:
        await world.rotator.step()
        await world.until(world.clock.time + 300)
    assert not [log for log in logs if log["log_level"] in ("warning", "error")]
    assert (world.states(), world.rotator.failed) == (["active", "pre-activation"], {})


async def test_what_an_operator_did_meanwhile_is_not_done_again(world: World) -> None:
    await world.key()
    world.clock.time = START + 26.5 * DAY
    prepare = world.ring.prepare

    async def beaten(name: str, activate_at: float, newest: int) -> object:
        await world.ring.rotate(name, at_once=True)
        return await prepare(name, activate_at, newest=newest)

    world.ring.prepare = beaten  # type: ignore[assignment,method-assign]
    await world.rotator.step()
    assert world.states() == ["deactivated", "active"]
    assert (world.rotator.done, world.rotator.failed) == ({}, {})
    await world.until(world.clock.time + DAY)
    assert world.states() == ["deactivated", "active"]


async def test_a_lost_active_version_is_replaced_when_the_backend_is_back(world: World) -> None:
    await world.key(lifecycle=LifecyclePolicy())
    world.fail(error=backend_errors.BackendAccessError("no"))
    await world.ring.compromise("agent", 1, "leak")
    await world.until(world.clock.time + 100)
    assert world.states() == ["compromised"]
    assert world.rotator.figures().overdue == 1
    world.mend()
    await world.until(world.clock.time + 300)
    assert world.states() == ["compromised", "active"]


@pytest.mark.parametrize("away", [False, True])
async def test_a_key_that_the_database_lost_while_it_waited_holds_up_no_other(world: World, away: bool) -> None:
    for name, backend in (("a", "mem"), ("b", "mem"), ("c", "other")):
        await world.key(name, backend=backend)
    world.clock.time = START + 26.5 * DAY
    world.fail(error=backend_errors.BackendAccessError("no"), only="a")
    await world.rotator.step("mem")
    assert world.rotator.trouble("a") is not None
    if away:
        world.runners["mem"].breaker._reason = "down"  # as after five failures
        await world.rotator.step("mem")
        world.runners["mem"].breaker._reason = None
    world.ring._on_record.snapshot = Snapshot({name: view for name, view in world.ring.snapshot.keys.items() if name != "a"})
    await world.until(world.clock.time + 30)
    assert world.states("b") == world.states("c") == ["active", "pre-activation"]
    assert world.rotator.trouble("a") is None


async def test_a_compromise_by_a_replica_whose_clock_is_ahead_gets_its_successor(world: World) -> None:
    await world.key(lifecycle=LifecyclePolicy())
    view = world.ring.snapshot.get("agent")
    stopped = moves.compromised(view, world.clock.time + 3, 1, "leak")
    await asyncio.to_thread(world.store.update, view.key, stopped.changed)
    await world.ring.refresh()
    assert await world.rotator.step() == world.clock.time + 3
    assert world.states() == ["active"]
    world.clock.time += 3
    await world.rotator.step()
    assert world.states() == ["compromised", "active"]


@st.composite
def pasts(draw: st.DrawFn) -> KeyView:
    """A key as an operator, a replica with another clock, or a backend that was away can leave it."""
    view = draw(views())
    held = draw(st.sampled_from(({}, {}, {"paused_at": START}, {"disabled_at": START})))
    versions = []
    for version in view.versions:
        line, gone = version.record.timeline, draw(st.sampled_from((inf, inf, START + draw(st.floats(0, 100 * DAY)))))
        handle = draw(st.sampled_from((version.record.handle, None)))
        versions.append(
            replace(version, record=replace(version.record, handle=handle, timeline=replace(line, destroyed_at=gone)))
        )
    return KeyView(replace(view.key, **held, backend=draw(st.sampled_from(("mem", "other")))), tuple(versions))


@given(st.lists(st.tuples(pasts(), st.floats(-20 * DAY, 60 * DAY), st.floats(0, 3 * DAY)), min_size=1, max_size=8))
@settings(max_examples=60)
def test_nothing_that_a_look_at_every_key_finds_due_is_missed(history: list[tuple[KeyView, float, float]]) -> None:
    clock = FakeClock()
    ring = SimpleNamespace(snapshot=Snapshot(), clock=clock, served_max_age=300.0, backends=dict.fromkeys(("mem", "other")))
    rotator = Rotator(ring, EXACT)  # type: ignore[arg-type]
    for view, passed, later in history:
        ring.snapshot = ring.snapshot.with_keys(view)
        for wait in (passed, later, 0.001):
            clock.time += wait
            for name in ring.backends:
                keys = [each for each in ring.snapshot.keys.values() if each.key.backend == name]
                scan = [step for key in keys for step in due(key, clock.time, lead=lead_of(key.key, 300), rules=EXACT)[0]]
                assert sorted(rotator._due(name, clock.time), key=repr) == sorted(scan, key=repr)


async def test_a_store_that_destroys_in_order_is_no_failure(world: World) -> None:
    def later(handle: str) -> None:
        raise backend_errors.DestructionPendingError("an older one is there")

    await world.key()
    await world.ring.rotate("agent", at_once=True)
    world.backends["mem"].destroy = later  # type: ignore[method-assign]
    world.clock.time = START + 33 * DAY
    for _ in range(5):
        world.clock.time = await world.rotator.step()
    assert world.rotator.done[StepKind.DESTROY] == 1
    assert world.states()[0] == "destroyed"
    assert world.rotator.failed == {}


async def test_a_defect_is_logged_and_ends_nothing(world: World) -> None:
    await world.key("a")
    await world.key("b")
    world.clock.time = START + 26.5 * DAY
    prepare = world.ring.prepare

    async def broken(name: str, activate_at: float, newest: int) -> object:
        if name == "a":
            raise RuntimeError("secret")
        return await prepare(name, activate_at, newest=newest)

    world.ring.prepare = broken  # type: ignore[assignment,method-assign]
    with capture_logs() as logs:
        await world.until(world.clock.time + 5)
    assert len(world.states("b")) == 2
    assert world.rotator.trouble("a") == "unexpected RuntimeError"
    assert "secret" not in str([{k: v for k, v in log.items() if k != "exc_info"} for log in logs])


async def test_figures_of_a_key_that_waits(world: World) -> None:
    await world.key()
    assert world.rotator.figures().next_deadline == inf
    world.clock.time = START + 28 * DAY
    figures = world.rotator.figures()
    assert (figures.waiting, figures.overdue, figures.next_deadline) == (1, 0, DAY)
    await world.rotator.step()
    assert world.rotator.figures().waiting == 0


periods = st.builds(
    LifecyclePolicy,
    publish_lead=st.floats(600, 2 * DAY),
    sign_grace=st.floats(0, DAY),
    retention=st.floats(300, 5 * DAY),
    rotation_period=st.floats(4 * DAY, 60 * DAY) | st.just(inf),
    destroy_after=st.floats(0, 30 * DAY) | st.just(inf),
)


@pytest.mark.parametrize("late", [0.0, 50 * DAY])
@settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(policy=periods, jitter=st.floats(0, 0.5), ahead=st.floats(0, 10 * DAY))
def test_what_is_planned_is_what_is_done(
    tmp_path_factory: pytest.TempPathFactory, late: float, policy: LifecyclePolicy, jitter: float, ahead: float
) -> None:
    asyncio.run(_follow(tmp_path_factory.mktemp("store"), Rules(jitter=jitter, create_ahead=ahead), policy, late))


async def _follow(directory: Path, rules: Rules, policy: LifecyclePolicy, late: float) -> None:
    world = World(directory / "keyd.db", rules)
    try:
        await world.ring.start()
        await world.key(lifecycle=policy)
        world.clock.time += late
        view = world.ring.snapshot.get("agent")
        lead = lead_of(view.key, world.ring.served_max_age)
        end = world.clock.time + 100 * DAY
        planned = plan(view, world.clock.time, end - 600, lead=lead, rules=rules)
        await world.until(end)
        done = {
            (v.record.version, kind): at(v.record.timeline)
            for v in world.ring.snapshot.get("agent").versions
            for kind, at in _TIMES
        }
        for step in planned:
            # Two acts at one moment are a second apart, and so is all that follows.
            assert -0.001 <= done[step.version, step.kind] - step.at <= 2 * step.version, step
            assert step.kind is not StepKind.ACTIVATE or world.ring.snapshot.get("agent").active(end) is not None
        made = [step for step in planned if step.kind is StepKind.CREATE]
        assert abs(len(made) - world.rotator.done[StepKind.CREATE]) <= 1, "it made what was not planned"
        assert sum(v.record.timeline.state(end) is KeyState.ACTIVE for v in world.ring.snapshot.get("agent").versions) == 1
    finally:
        world.close()


_TIMES: tuple[tuple[StepKind, Callable[..., float]], ...] = (
    (StepKind.CREATE, lambda line: line.created_at),
    (StepKind.PUBLISH, lambda line: line.publish_at),
    (StepKind.ACTIVATE, lambda line: line.activate_at),
    (StepKind.STOP_SIGNING, lambda line: line.sign_until),
    (StepKind.UNPUBLISH, lambda line: line.unpublish_at),
    (StepKind.DESTROY, lambda line: line.destroyed_at),
)
