"""What a backend that misbehaves costs its callers: a clear error in time, and nobody else anything."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from remote_backend import RemoteBackend
from support import FakeClock, keyring, memory_backend, new_key, until

from backends import deadline
from backends import errors as backend_errors
from backends.api import Algorithm
from keyd.core.breaker import PAUSE, THRESHOLD
from keyd.core.errors import BackendFailedError, BackendUnavailableError, KeydError, OverloadedError, SizeError
from keyd.core.keyring import Keyring
from keyd.core.runner import BackendRunner, Limits
from keyd.core.store import SqlStore

FAST = Limits(timeout=0.1, admin_timeout=0.1, threads=2, max_waiting=4)
PATIENT = Limits(timeout=20, admin_timeout=20, threads=2, max_waiting=4)


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class World:
    def __init__(self, path: Path) -> None:
        self.backend = RemoteBackend()
        self.time = Time()
        self.runner = BackendRunner("remote", self.backend, PATIENT, monotonic=self.time)
        self.local = BackendRunner("mem", memory_backend())
        self.store = SqlStore(path)
        self.ring: Keyring = keyring(self.store, {"remote": self.runner, "mem": self.local}, FakeClock())

    def hang(self) -> None:
        """From now on nothing answers, and callers do not wait long."""
        self.runner.limits = FAST
        self.backend.answering.clear()

    async def sign(self, name: str = "agent", within: float | None = None) -> bytes:
        view = self.ring.snapshot.get(name)
        return await self.ring.runner(view.key).sign(view.versions[0], view.key.algorithm, b"message", within)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path / "keyd.db")
    await world.ring.start()
    await world.ring.create(new_key(backend="remote"))
    await world.ring.create(new_key("local"))
    yield world
    world.backend.answering.set()
    world.store.close()
    assert world.runner.close() and world.local.close()


async def test_a_hung_store_costs_its_callers_the_deadline_and_others_nothing(world: World) -> None:
    world.hang()
    start = time.monotonic()
    calls = [asyncio.create_task(world.sign()) for _ in range(3)]
    assert len([await world.sign("local") for _ in range(20)]) == 20
    assert time.monotonic() - start < FAST.timeout, "keys in another backend had to wait"
    for call in calls:
        with pytest.raises(BackendUnavailableError, match=r"did not answer within 0\.1 s"):
            await call


async def test_the_callers_own_deadline_counts_where_it_is_shorter(world: World) -> None:
    world.hang()
    with pytest.raises(BackendUnavailableError, match=r"within 0\.02 s"):
        await world.sign(within=0.02)


async def test_callers_in_a_hurry_shut_nobody_out(world: World) -> None:
    world.hang()
    for _ in range(THRESHOLD + 1):
        with pytest.raises((BackendUnavailableError, OverloadedError)):
            await world.sign(within=0.001)
    assert world.runner.breaker.reason is None
    world.backend.answering.set()
    await until(lambda: not world.runner.under_way)
    assert await world.sign()


async def test_callers_in_a_hurry_do_not_take_the_place_of_one_who_would_find_out(world: World) -> None:
    world.backend.failure = backend_errors.BackendUnavailableError("connection refused")
    for _ in range(THRESHOLD):
        with pytest.raises(BackendUnavailableError):
            await world.sign()
    world.backend.failure = None
    world.time.now += PAUSE
    for _ in range(3):
        with pytest.raises(BackendUnavailableError):
            await world.sign(within=0.01)
    assert await world.sign()
    assert world.runner.breaker.reason is None


async def test_the_backend_learns_the_deadline(world: World) -> None:
    left = await world.runner.run(8.0, deadline.remaining, 10.0)
    assert 0 < left <= 8.0
    assert await asyncio.to_thread(deadline.remaining, 10.0) == 10.0


async def test_a_store_that_is_away_is_not_asked_again_by_everybody(world: World) -> None:
    world.backend.failure = backend_errors.BackendUnavailableError("connection refused")
    for _ in range(THRESHOLD):
        with pytest.raises(BackendUnavailableError, match="connection refused"):
            await world.sign()
    asked = len(world.backend.calls)
    for _ in range(20):
        with pytest.raises(BackendUnavailableError, match=r"does not answer \(connection refused"):
            await world.sign()
    assert len(world.backend.calls) == asked
    assert world.runner.troubled.is_set()


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (backend_errors.BackendThrottledError("slow down"), OverloadedError),
        (backend_errors.BackendAccessError("PIN refused"), BackendUnavailableError),
        (backend_errors.BackendIntegrityError("odd"), BackendFailedError),
        (backend_errors.KeyNotFoundError("nothing there"), BackendFailedError),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
async def test_what_one_key_meets_does_not_open_the_breaker(
    world: World, failure: backend_errors.BackendError, expected: type[KeydError]
) -> None:
    world.backend.failure = failure
    for _ in range(THRESHOLD + 1):
        with pytest.raises(expected, match=str(failure)):
            await world.sign()
    assert world.runner.breaker.reason is None


async def test_too_many_at_once_are_told_so(world: World) -> None:
    world.hang()
    calls = [asyncio.create_task(world.sign()) for _ in range(FAST.max_waiting + 3)]
    outcomes = [type(outcome) for outcome in await asyncio.gather(*calls, return_exceptions=True)]
    assert outcomes.count(OverloadedError) == 3


async def test_a_signature_that_does_not_verify_is_withheld(world: World) -> None:
    world.backend.lies = True
    with pytest.raises(BackendFailedError, match="does not verify"):
        await world.sign()
    world.backend.lies = False
    assert await world.sign()


async def test_the_first_signature_is_checked_inside_of_the_process_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    view = world.ring.snapshot.get("local").versions[0]
    fresh = BackendRunner("mem", world.local.backend)
    good = world.local.backend.sign
    monkeypatch.setattr(world.local.backend, "sign", lambda handle, algorithm, message: good(handle, algorithm, message + b"?"))
    algorithm = world.ring.snapshot.get("local").key.algorithm
    with pytest.raises(BackendFailedError, match="does not verify"):
        await fresh.sign(view, algorithm, b"message")


async def test_a_store_that_never_comes_back_does_not_hold_up_the_end(tmp_path: Path) -> None:
    backend = RemoteBackend()
    runner = BackendRunner("remote", backend, FAST)
    backend.answering.clear()
    with pytest.raises(BackendUnavailableError):
        await runner.call(backend.list)
    assert not runner.close(grace=0.05)
    backend.answering.set()


async def test_a_key_that_is_made_too_late_is_destroyed_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    good, gate, before = world.backend.create, threading.Event(), world.backend.held

    def create(name: str, version: int, algorithm: Algorithm) -> str:
        gate.wait()
        return good(name, version, algorithm)

    monkeypatch.setattr(world.backend, "create", create)
    world.runner.limits = FAST
    with pytest.raises(BackendUnavailableError):
        await world.ring.create(new_key("late", backend="remote"))
    assert world.runner.mend_wanted
    world.runner.limits = PATIENT
    gate.set()
    await until(lambda: not world.runner.under_way)
    assert world.backend.held == before | {"late.1"}
    await world.ring.mend("remote")
    assert world.backend.held == before
    assert not world.store.load().intents
    await world.ring.create(new_key("late", backend="remote"))


async def test_sizes_that_the_store_does_not_sign_are_refused_before_it_is_asked(world: World) -> None:
    algorithm = world.ring.snapshot.get("agent").key.algorithm
    limits = replace(world.backend.capabilities, min_message={algorithm: 2}, max_message={algorithm: 4})
    world.backend.capabilities = limits
    view = world.ring.snapshot.get("agent").versions[0]
    for size in (2, 4):
        assert await world.runner.sign(view, algorithm, bytes(size))
    asked = len(world.backend.calls)
    for size in (0, 1, 5):
        with pytest.raises(SizeError, match=f"signs 2 to 4 bytes with Ed25519, got {size}"):
            await world.runner.sign(view, algorithm, bytes(size))
    assert len(world.backend.calls) == asked


async def test_a_burst_does_not_shut_out_a_store_that_is_only_slow(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred at once, of whom most wait too long for a thread: those are told so, and it is no failure of the store."""
    good, turn = world.backend.sign, threading.Semaphore(0)

    def slow(handle: str, algorithm: Algorithm, message: bytes) -> bytes:
        turn.acquire()
        return good(handle, algorithm, message)

    monkeypatch.setattr(world.backend, "sign", slow)
    world.runner.limits = replace(FAST, timeout=0.2, max_waiting=200)
    calls = [asyncio.create_task(world.sign()) for _ in range(100)]
    while any(not call.done() for call in calls):
        turn.release()
        await asyncio.sleep(0.02)
    turn.release(200)
    outcomes = [type(outcome) for outcome in await asyncio.gather(*calls, return_exceptions=True)]
    assert outcomes.count(BackendUnavailableError) > THRESHOLD
    assert outcomes.count(bytes) > 0
    assert world.runner.breaker.reason is None


async def test_whoever_goes_away_leaves_no_work_behind(world: World) -> None:
    world.backend.answering.clear()
    busy = [asyncio.create_task(world.runner.call(world.backend.list)) for _ in range(PATIENT.threads)]
    ran = []
    waiting = asyncio.create_task(world.runner.call(ran.append, 1))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert world.runner.under_way == PATIENT.threads + 1, "it keeps its place in the queue, which has a limit"
    world.backend.answering.set()
    await asyncio.gather(*busy)
    await until(lambda: not world.runner.under_way)
    assert ran == []


async def test_what_a_plugin_must_not_raise_is_told_apart_and_not_repeated(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("the PIN is 1234")

    monkeypatch.setattr(world.backend, "sign", broken)
    monkeypatch.setattr(world.local.backend, "sign", broken)
    for name in ("agent", "local"):
        with pytest.raises(BackendFailedError, match=r"failed unexpectedly \(ValueError\)") as caught:
            await world.sign(name)
        assert "1234" not in str(caught.value)


async def test_a_runner_that_is_closed_says_so(tmp_path: Path) -> None:
    runner = BackendRunner("remote", RemoteBackend(), FAST)
    assert runner.close()
    with pytest.raises(BackendUnavailableError, match="is being closed"):
        await runner.call(runner.backend.list)
    assert runner.under_way == 0
