"""Token buckets and turns, on a clock that the test moves."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import FakeClock

from keyd.core.errors import OverloadedError
from keyd.core.rates import LONGEST_HOLD_FOR_MANY, REFUSALS_PER_SECOND, Holds, Rate, Rates, Refusals
from keyd.core.turns import BEGIN_AT_ONCE, Pace, Turns


def rates(limit: int = 100) -> tuple[Rates, FakeClock]:
    clock = FakeClock(0)
    return Rates(clock.now, limit=limit), clock


def test_a_burst_and_then_the_rate() -> None:
    buckets, clock = rates()
    rate = Rate(2, 3)
    assert [buckets.take(("", "a"), rate) for _ in range(3)] == [0, 0, 0]
    assert buckets.take(("", "a"), rate) == pytest.approx(0.5)
    clock.advance(0.5)
    assert buckets.take(("", "a"), rate) == 0
    assert buckets.take(("", "a"), rate) > 0
    clock.advance(3600)
    assert [buckets.take(("", "a"), rate) > 0 for _ in range(4)] == [False, False, False, True]


def test_a_refusal_takes_nothing() -> None:
    buckets, clock = rates()
    buckets.take(("", "a"), Rate(1, 1))
    for _ in range(100):
        assert buckets.take(("", "a"), Rate(1, 1)) > 0
    clock.advance(1)
    assert buckets.take(("", "a"), Rate(1, 1)) == 0


def test_each_has_a_bucket_of_its_own() -> None:
    buckets, _ = rates()
    assert buckets.take(("", "a"), Rate(1, 1)) == 0
    assert buckets.take(("", "b"), Rate(1, 1)) == 0
    assert buckets.take(("grant", "a"), Rate(1, 1)) == 0
    assert buckets.take(("", "a"), Rate(1, 1)) > 0


def test_more_than_a_burst_at_once_leaves_a_debt() -> None:
    buckets, clock = rates()
    assert buckets.take(("", "a"), Rate(10, 10), cost=30) == 0
    assert buckets.take(("", "a"), Rate(10, 10)) == pytest.approx(2.1)
    clock.advance(2.1)
    assert buckets.take(("", "a"), Rate(10, 10)) == 0
    assert buckets.take(("", "a"), Rate(10, 10), cost=30) > 0  # not full


def test_a_clock_that_goes_back_gives_nothing() -> None:
    buckets, clock = rates()
    buckets.take(("", "a"), Rate(1, 1))
    clock.advance(-100)
    assert buckets.take(("", "a"), Rate(1, 1)) > 0


def test_a_reload_lowers_the_burst_of_a_full_bucket() -> None:
    buckets, _ = rates()
    assert buckets.take(("", "a"), Rate(1000, 1000)) == 0
    assert [buckets.take(("", "a"), Rate(1, 2)) > 0 for _ in range(3)] == [False, False, True]


def test_memory_is_bounded_and_a_full_bucket_goes_first() -> None:
    buckets, clock = rates(limit=100)
    rate = Rate(1, 10)
    for number in range(50):
        buckets.take(("", f"early-{number}"), rate)
    clock.advance(1)
    for _ in range(10):
        buckets.take(("", "busy"), rate)
    for number in range(1000):
        buckets.take(("", str(number)), rate)
        if number == 49:  # room was made once: the early ones were full
            assert buckets.take(("", "busy"), rate) > 0
    assert len(buckets) <= 101


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 5)), max_size=50))
def test_never_more_than_burst_and_rate_allow(steps: list[tuple[float, int]]) -> None:
    buckets, clock = rates()
    rate, taken = Rate(3, 5), 0
    for pause, cost in steps:
        clock.advance(pause)
        if buckets.take(("", "a"), rate, cost) == 0:
            taken += cost
    assert taken <= 5 + 3 * clock.now() + 1e-6


def test_refusals_are_reported_once_a_second_with_their_number() -> None:
    clock = FakeClock(0)
    refusals = Refusals(clock.now, limit=10)
    assert [refusals.to_report("a") for _ in range(5)] == [1, 0, 0, 0, 0]
    assert refusals.to_report("b") == 1
    clock.advance(1)
    assert refusals.to_report("a") == 5
    for number in range(100):
        refusals.to_report(str(number))
    assert len(refusals._counts) == 10


class TestHolds:
    def test_one_refusal_holds_for_as_long_as_the_rate_asks_and_at_most_a_second(self) -> None:
        clock = FakeClock(0)
        holds = Holds(clock.now)
        assert holds.after_refusal("a", 0.3) == 0.3
        assert holds.after_refusal("b", 60) == 1

    def test_calls_that_are_refused_together_come_back_one_after_the_other(self) -> None:
        """Sixteen connections with ten calls each: in the long run there are so many refusals a second, and no more."""
        clock = FakeClock(0)
        holds, refused, back = Holds(clock.now), 0, [0.0] * 16
        while clock.now() < 20:
            for connection, when in enumerate(back):
                if when <= clock.now():
                    refused += 10
                    back[connection] = clock.now() + [holds.after_refusal("a", 0.01) for _ in range(10)][-1]
            clock.advance(0.05)
        assert refused <= 160 + 20 * REFUSALS_PER_SECOND
        assert holds.after_refusal("b", 0.01) == pytest.approx(1 / REFUSALS_PER_SECOND)

    def test_there_is_an_end_to_it_and_nothing_stays(self) -> None:
        clock = FakeClock(0)
        holds = Holds(clock.now, limit=2)
        for _ in range(10_000):
            assert holds.after_refusal("a", 0.01) <= LONGEST_HOLD_FOR_MANY
        clock.advance(LONGEST_HOLD_FOR_MANY)
        assert holds.after_refusal("a", 0.01) == pytest.approx(1 / REFUSALS_PER_SECOND)
        for share in "bcd":
            holds.after_refusal(share, 1)
        assert len(holds._until) == 2


class TestTurns:
    async def test_those_beyond_the_limit_wait_in_order(self) -> None:
        turns, done = Turns(), []

        async def work(number: int) -> None:
            await turns.take("a", 2, None)
            done.append(number)

        tasks = [asyncio.create_task(work(number)) for number in range(5)]
        await asyncio.sleep(0)
        assert done == [0, 1]
        turns.give_back("a")
        await asyncio.sleep(0)
        assert done == [0, 1, 2]
        for _ in range(4):
            turns.give_back("a")
        await asyncio.gather(*tasks)
        assert done == [0, 1, 2, 3, 4]
        assert len(turns) == 0

    async def test_another_identity_does_not_wait(self) -> None:
        turns = Turns()
        await turns.take("a", 1, None)
        waiting = asyncio.create_task(turns.take("a", 1, None))
        await asyncio.sleep(0)
        await turns.take("b", 1, 0.0)
        assert not waiting.done()
        turns.give_back("a")
        await waiting

    async def test_who_waits_too_long_is_told(self) -> None:
        turns = Turns()
        await turns.take("a", 1, None)
        with pytest.raises(OverloadedError):
            await turns.take("a", 1, 0.001)
        turns.give_back("a")
        assert len(turns) == 0

    async def test_who_goes_away_leaves_the_queue(self) -> None:
        turns = Turns()
        await turns.take("a", 1, None)
        first, second = (asyncio.create_task(turns.take("a", 1, None)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        turns.give_back("a")
        await second
        turns.give_back("a")
        assert len(turns) == 0

    async def test_many_who_go_away_at_once_are_not_searched_for(self) -> None:
        """Else one caller that resets its calls, the last first, holds the loop for as long as the square of their number takes."""
        turns = Turns()
        await turns.take("a", 1, None)
        waiting = [asyncio.create_task(turns.take("a", 1, None)) for _ in range(20_000)]
        await asyncio.sleep(0)
        began = time.process_time()
        for task in reversed(waiting):
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert time.process_time() - began < 2.0  # searching takes some ten seconds
        turns.give_back("a")
        assert len(turns) == 0

    async def test_a_turn_that_comes_as_its_owner_goes_is_passed_on(self) -> None:
        turns = Turns()
        await turns.take("a", 1, None)
        first, second = (asyncio.create_task(turns.take("a", 1, None)) for _ in range(2))
        await asyncio.sleep(0)
        turns.give_back("a")
        first.cancel()  # its turn has come, and it has not run since
        await asyncio.gather(first, return_exceptions=True)
        async with asyncio.timeout(5):
            await second
        turns.give_back("a")
        assert len(turns) == 0


class TestPace:
    async def test_calls_that_arrive_together_begin_a_few_at_a_time_and_another_share_does_not_wait(self) -> None:
        pace, begun = Pace(), []

        async def call(share: str) -> None:
            turn = pace.begin(share)
            if turn is not None:
                await turn
            begun.append(share)

        calls = [asyncio.create_task(call("many")) for _ in range(50)]
        await asyncio.sleep(0)
        calls.append(asyncio.create_task(call("one")))
        await asyncio.gather(*calls)
        assert begun.index("one") <= 2 * BEGIN_AT_ONCE
        assert begun.count("many") == 50
        await asyncio.sleep(0)
        assert not len(pace)

    async def test_who_begins_one_in_each_turn_never_waits(self) -> None:
        pace = Pace()
        for _ in range(20):
            assert pace.begin("one") is None
            await asyncio.sleep(0)

    async def test_shares_that_begin_little_are_not_remembered_without_bound(self) -> None:
        pace = Pace()
        for number in range(5000):
            assert pace.begin(f"share {number}") is None
            if number % 100 == 0:
                await asyncio.sleep(0)
            assert len(pace) <= 1200

    async def test_they_begin_in_the_order_in_which_they_came(self) -> None:
        pace, begun = Pace(), []

        async def call(number: int) -> None:
            turn = pace.begin("many")
            if turn is not None:
                await turn
            begun.append(number)

        await asyncio.gather(*(call(number) for number in range(20)))
        assert begun == list(range(20))

    async def test_who_goes_away_leaves_the_queue_moving(self) -> None:
        pace = Pace()
        waiting = [turn for turn in (pace.begin("many") for _ in range(40)) if turn is not None]
        assert len(waiting) == 40 - BEGIN_AT_ONCE
        for turn in waiting[:-1]:
            turn.cancel()
        await asyncio.wait_for(waiting[-1], 5)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not len(pace)
