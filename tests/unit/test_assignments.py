"""Which worker serves whom."""

from __future__ import annotations

import pytest

from keyd.workers.assignments import Assignments


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def places(clock: Clock) -> Assignments:
    found = Assignments(clock)
    found.add_worker(1)
    found.add_worker(2)
    return found


def test_a_caller_has_one_worker_and_two_callers_have_two(places: Assignments) -> None:
    assert [places.enter("a"), places.enter("b")] == [1, 2]
    assert [places.enter(who) for who in "abab"] == [1, 2, 1, 2]


def test_who_is_new_gets_the_worker_with_the_fewest_callers_connected(places: Assignments) -> None:
    for who in "abc":
        places.enter(who)
    places.leave("a", 1)
    places.leave("c", 1)
    assert places.enter("d") == 1


def test_who_comes_back_within_an_hour_finds_its_worker_and_later_any(places: Assignments, clock: Clock) -> None:
    places.enter("a")
    places.leave("a", 1)
    places.enter("b")  # has less to do now: it goes to the second, as the first is remembered for another
    clock.time = 3599
    assert places.enter("a") == 1
    places.leave("a", 1)
    for who in "cd":
        places.enter(who)
    clock.time += 3601
    assert places.enter("a") == 1 if places.enter("e") == 2 else 2


def test_who_may_still_be_connected_is_remembered_for_an_hour_after_that(places: Assignments, clock: Clock) -> None:
    assert places.enter("a") == 1
    places.leave("a", 1, stays=4000)
    clock.time = 5
    assert places.enter("a") == 1
    places.leave("a", 1)  # one that has gone; the other has not
    clock.time = 7500
    assert [places.enter(who) for who in "ba"] == [2, 1]


def test_the_callers_of_one_that_ended_get_another_and_it_gets_new_ones_when_it_is_back(places: Assignments) -> None:
    places.enter("a")
    places.remove_worker(1)
    assert places.enter("a") == 2
    places.leave("a", 1)  # heard late of the one that ended
    places.add_worker(1)
    assert [places.enter("a"), places.enter("b")] == [2, 1]


def test_without_workers_nobody_is_let_in(places: Assignments) -> None:
    places.remove_worker(1)
    places.remove_worker(2)
    with pytest.raises(LookupError):
        places.enter("a")


def test_not_more_are_remembered_than_there_is_room_for(places: Assignments) -> None:
    for number in range(10_050):
        places.leave(str(number), places.enter(str(number)))
    assert len(places._places) == 10_000
    assert sum(places._known.values()) == 10_000
