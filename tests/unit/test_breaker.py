"""The circuit breaker, with a clock that the test moves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.core.breaker import PAUSE, THRESHOLD, Breaker


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def breaker(time: Time) -> Breaker:
    return Breaker(time)


def opened(breaker: Breaker) -> Breaker:
    assert [breaker.failed(f"failure {number}") for number in range(THRESHOLD)] == [False] * (THRESHOLD - 1) + [True]
    return breaker


def test_it_opens_after_failures_in_a_row_and_says_why(breaker: Breaker) -> None:
    opened(breaker)
    assert not breaker.admits()
    assert breaker.reason == f"failure {THRESHOLD - 1}"


def test_a_success_in_between_starts_the_count_anew(breaker: Breaker) -> None:
    for _ in range(3):
        for _ in range(THRESHOLD - 1):
            assert not breaker.failed("x")
        assert not breaker.succeeded()
    assert breaker.admits()
    assert breaker.reason is None


def test_one_call_each_pause_until_one_succeeds(breaker: Breaker, time: Time) -> None:
    opened(breaker)
    for _ in range(3):
        time.now += PAUSE
        assert [breaker.admits() for _ in range(5)] == [True, False, False, False, False]
        assert not breaker.failed("still away")
        assert not breaker.admits()
    time.now += PAUSE
    assert breaker.admits()
    assert breaker.succeeded()
    assert [breaker.admits() for _ in range(5)] == [True] * 5


@given(st.lists(st.sampled_from(["ok", "bad", "wait"])))
def test_it_is_open_exactly_while_the_last_calls_failed(steps: list[str]) -> None:
    time = Time()
    breaker, row = Breaker(time), 0
    for step in steps:
        if step == "wait":
            time.now += PAUSE
        elif step == "ok":
            breaker.succeeded()
            row = 0
        else:
            breaker.failed("x")
            row += 1
        assert (breaker.reason is not None) == (row >= THRESHOLD)
