"""The time of a fleet is the database's, and no clock of keyd goes back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from support import START, FakeClock, memory_backend, new_key
from support import keyring as make_keyring

from keyd.core.errors import ClockError
from keyd.core.fleet.clock import MOST_SKEW, FleetClock, SteadyClock, newest_moment, since_boot
from keyd.core.runner import BackendRunner
from keyd.core.snapshot import Snapshot
from keyd.core.store import SqlStore


class Machine:
    """A machine with two clocks, and a database some way off."""

    def __init__(self) -> None:
        self.boot = 1000.0
        self.wall = FakeClock()
        self.database_ahead = 0.0
        self.clock = FleetClock(boottime=lambda: self.boot, wall=self.wall)

    @property
    def database(self) -> float:
        """The database's clock, which runs as the machine's do."""
        return START + self.boot - 1000 + self.database_ahead

    def advance(self, seconds: float) -> None:
        self.boot += seconds
        self.wall.advance(seconds)

    def ask(self, out: float, back: float) -> Callable[[], float]:
        def answer() -> float:
            self.advance(out)
            shown = self.database
            self.advance(back)
            return shown

        return answer

    def look(self, out: float = 0.001, back: float = 0.001) -> None:
        self.clock.look(self.ask(out, back))

    @property
    def error(self) -> float:
        return self.clock.now() - self.database


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_the_time_is_the_databases(machine: Machine) -> None:
    machine.database_ahead = 20
    machine.look()
    assert machine.error == pytest.approx(0, abs=1e-6)
    assert machine.clock.skew == pytest.approx(-20)
    machine.advance(3600)
    assert machine.error == pytest.approx(0, abs=1e-6)


def test_a_step_of_this_machines_clock_changes_nothing(machine: Machine) -> None:
    machine.look()
    machine.wall.advance(29)
    assert machine.error == pytest.approx(0, abs=1e-6)
    machine.look()
    assert machine.error == pytest.approx(0, abs=1e-6)
    machine.clock.check()


def test_the_fastest_look_counts(machine: Machine) -> None:
    machine.look(0.001, 0.001)
    machine.look(0.4, 0.002)
    assert machine.error == pytest.approx(0, abs=1e-6)


def test_a_slow_look_counts_when_there_is_no_better(machine: Machine) -> None:
    machine.look(0.4, 0.002)
    assert machine.error == pytest.approx(0.199)


@given(st.lists(st.tuples(st.floats(0.0001, 2), st.floats(0.0001, 2)), min_size=1, max_size=12))
def test_the_error_is_half_of_the_fastest_way_at_most(ways: list[tuple[float, float]]) -> None:
    machine = Machine()
    for out, back in ways:
        machine.look(out, back)
    assert abs(machine.error) <= min(sum(way) for way in ways[-8:]) / 2 + 1e-6


def test_a_database_that_was_set_is_followed_at_once(machine: Machine) -> None:
    machine.look()
    machine.database_ahead = 5
    machine.look(0.01, 0.01)
    assert machine.error == pytest.approx(0, abs=1e-6)
    machine.database_ahead = -5
    machine.look(0.01, 0.01)
    assert machine.error == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("ahead", "word"), [(31, "behind"), (-31, "ahead of"), (86400, "behind")])
def test_too_far_apart_is_refused_and_not_believed(machine: Machine, ahead: float, word: str) -> None:
    machine.look()
    before = machine.clock.now()
    machine.database_ahead = ahead
    with structlog.testing.capture_logs() as logs:
        machine.look(0, 0)
        machine.look(0, 0)
    with pytest.raises(ClockError, match=rf"clock of this machine is {abs(ahead)} s {word} the database's.*set the one"):
        machine.clock.check()
    assert machine.clock.now() == pytest.approx(before)
    assert [entry["event"] for entry in logs] == ["clock wrong, nothing is signed or changed"]


def test_no_further_apart_than_allowed_is_not_refused(machine: Machine) -> None:
    machine.database_ahead = MOST_SKEW - 0.5
    machine.look()
    machine.clock.check()


def test_it_is_right_again_with_a_margin(machine: Machine) -> None:
    machine.look()
    machine.wall.advance(40)
    machine.look()
    machine.wall.advance(-12)
    machine.look()
    with pytest.raises(ClockError, match="28 s ahead of"):
        machine.clock.check()
    machine.wall.advance(-5)
    with structlog.testing.capture_logs() as logs:
        machine.look()
    machine.clock.check()
    assert [entry["event"] for entry in logs] == ["clock right again"]
    assert machine.error == pytest.approx(0, abs=1e-6)


def test_a_wrong_clock_is_noticed_without_the_database(machine: Machine) -> None:
    machine.look()
    machine.wall.advance(-100)
    machine.clock.check()
    machine.clock.carry_on()
    with pytest.raises(ClockError):
        machine.clock.check()


def test_what_the_database_raises_is_raised(machine: Machine) -> None:
    def away() -> float:
        raise OSError("away")

    with pytest.raises(OSError, match="away"):
        machine.clock.look(away)
    machine.clock.check()


def test_the_clock_since_boot_goes_on() -> None:
    assert since_boot() <= since_boot()


def test_time_stands_still_while_the_clock_beneath_is_behind() -> None:
    beneath = FakeClock()
    clock = SteadyClock(beneath)
    assert clock.now() == START
    beneath.advance(-10)
    assert clock.now() == START
    clock.check()
    beneath.advance(11)
    assert clock.now() == START + 1


def test_far_behind_is_refused_and_told_once() -> None:
    beneath = FakeClock()
    clock = SteadyClock(beneath, "the database")
    clock.not_before(START + 31)
    assert clock.now() == START + 31
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            with pytest.raises(ClockError, match=r"clock of the database went back: it is 31 s behind.*restart keyd if"):
                clock.check()
    assert len(logs) == 1
    beneath.advance(2)
    clock.check()
    beneath.advance(100)
    assert clock.now() == START + 102


def test_what_was_known_to_be_past_moves_no_clock_back() -> None:
    clock = SteadyClock(FakeClock())
    clock.now()
    clock.not_before(START - 5)
    assert clock.now() == START


async def test_the_newest_moment_on_record(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "keyd.db")
    clock, runner = FakeClock(), BackendRunner("mem", memory_backend())
    assert newest_moment(Snapshot()) == 0
    ring = make_keyring(store, {"mem": runner}, clock)
    await ring.create(new_key())
    assert newest_moment(ring.snapshot) == START
    await ring.rotate("agent")  # becomes active tomorrow, which is not past
    assert newest_moment(ring.snapshot) == START
    clock.advance(5)
    await ring.set_enabled("agent", False)
    assert newest_moment(ring.snapshot) == START + 5
    clock.advance(5)
    await ring.compromise("agent", 2, "test")
    assert newest_moment(ring.snapshot) == START + 10
    clock.advance(5)
    await ring.destroy("agent", 2)
    assert newest_moment(ring.snapshot) == START + 15
    clock.advance(5)
    await ring.set_paused("agent", True)
    assert newest_moment(ring.snapshot) == START + 20
    store.close()
    runner.close()


async def test_a_wrong_clock_stops_changes_and_signing_but_no_stopping(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "keyd.db")
    clock, runner = FakeClock(), BackendRunner("mem", memory_backend())
    ring = make_keyring(store, {"mem": runner}, clock)
    await ring.create(new_key())

    def wrong() -> None:
        raise ClockError("wrong")

    ring.check_clock = wrong
    for change in (
        ring.create(new_key("other")),
        ring.rotate("agent"),
        ring.rotate("agent", at_once=True),
        ring.prepare("agent", START + 1e6, newest=1),
        ring.roll_back("agent"),
        ring.set_paused("agent", True),
        ring.set_enabled("agent", True),
        ring.destroy("agent", 1),
    ):
        with pytest.raises(ClockError):
            await change
    stopped = await ring.compromise("agent", 1, "test")
    assert "no successor could be made (wrong)" in stopped.warnings[-1]
    assert ring.snapshot.get("agent").active(clock.now()) is None
    assert (await ring.set_enabled("agent", False)).key.disabled_at == clock.now()
    store.close()
    runner.close()
