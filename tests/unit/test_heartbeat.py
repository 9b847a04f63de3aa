"""A replica says that it is alive, and looks at the database's clock while it does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import structlog
from support import FakeClock, until

from keyd.core.errors import ClockError, StoreUnavailableError
from keyd.core.fleet.clock import FleetClock
from keyd.core.fleet.heartbeat import Heartbeat


class Store:
    """Stands in for the table of replicas; its clock is the machine's, and ``ahead``."""

    def __init__(self) -> None:
        self.wall = FakeClock()
        self.ahead = 0.0
        self.beats = 0
        self.failure: Exception | None = None
        self.answering = threading.Event()
        self.answering.set()

    def seen(self) -> float:
        self.beats += 1
        self.answering.wait(10)
        if self.failure is not None:
            raise self.failure
        return self.wall.now() + self.ahead


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr("keyd.core.fleet.heartbeat.INTERVAL", 0.01)
    return Store()


def clock_of(store: Store) -> FleetClock:
    return FleetClock(boottime=lambda: store.wall.now() - 1000, wall=store.wall)


@asynccontextmanager
async def beating(heart: Heartbeat, told: list[bool]) -> AsyncIterator[None]:
    async def tell(right: bool) -> None:
        told.append(right)

    task = asyncio.create_task(heart.run(tell))
    try:
        yield
    finally:
        assert not task.done(), "nothing ends it"
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        heart.close()


async def test_the_time_is_known_before_anything_depends_on_it(store: Store) -> None:
    store.ahead = 7
    clock = clock_of(store)
    heart = Heartbeat(store, clock)
    await heart.first()
    assert clock.now() == store.wall.now() + 7
    heart.close()


async def test_a_wrong_clock_does_not_get_past_the_start(store: Store) -> None:
    store.ahead = 31
    heart = Heartbeat(store, clock_of(store))
    with pytest.raises(ClockError):
        await heart.first()
    heart.close()


async def test_it_is_told_when_the_clock_goes_wrong_and_when_it_is_right_again(store: Store) -> None:
    told: list[bool] = []
    async with beating(Heartbeat(store, clock_of(store)), told):
        await until(lambda: store.beats > 3)
        assert not told
        store.ahead = 40
        await until(lambda: told == [False])
        store.ahead = 0
        await until(lambda: told == [False, True])


async def test_nothing_that_the_database_does_ends_it(store: Store) -> None:
    told: list[bool] = []
    with structlog.testing.capture_logs() as logs:
        async with beating(Heartbeat(store, clock_of(store)), told):
            for failure in (StoreUnavailableError("away"), ZeroDivisionError("a defect")):
                store.failure = failure
                beats = store.beats
                await until(lambda: store.beats > beats + 2)  # noqa: B023 - run before the next turn
            store.failure = None
            store.ahead = 40
            await until(lambda: told == [False])
    assert "heartbeat failed, the next one comes" in [entry["event"] for entry in logs]


async def test_a_clock_that_is_set_is_noticed_while_the_database_is_away(store: Store) -> None:
    told: list[bool] = []
    boot = store.wall.now() - 1000
    clock = FleetClock(boottime=lambda: boot, wall=store.wall)
    store.failure = StoreUnavailableError("away")
    async with beating(Heartbeat(store, clock), told):
        store.wall.advance(40)
        await until(lambda: told == [False])


async def test_a_database_that_hangs_holds_nobody_else_up(store: Store) -> None:
    store.answering.clear()
    async with beating(Heartbeat(store, clock_of(store)), []):
        await until(lambda: store.beats == 1)
        await asyncio.wait_for(asyncio.gather(*(asyncio.to_thread(lambda: None) for _ in range(50))), 5)
        assert store.beats == 1
        store.answering.set()
        await until(lambda: store.beats > 2)


async def test_without_a_clock_it_only_says_that_it_is_alive(store: Store) -> None:
    store.ahead = 1000
    told: list[bool] = []
    heart = Heartbeat(store, None)
    await heart.first()
    async with beating(heart, told):
        await until(lambda: store.beats > 6)
    assert not told
