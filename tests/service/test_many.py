"""Batches and streams: what is signed at once gets no task of its own, what has to wait holds up nobody else, and the loop stays everybody's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from guarded import GRANTS, SHOP, House
from support import START, new_key, signature_base, until

from backends.api import Algorithm
from backends.memory import MemoryBackend
from keyd.core.decision import Decision
from keyd.core.policy import Allowance, Policy
from keyd.core.runner import BackendRunner
from keyd.core.turns import BEGIN_AT_ONCE
from keyd.v1 import signing_service_pb2 as pb

AT_ONCE, IN_A_THREAD = "shop-1", "shop-slow"


def asked(key: str) -> pb.SignRequest:
    return pb.SignRequest(key=key, signature_base=signature_base(START))


def batch(*keys: str) -> pb.SignBatchRequest:
    return pb.SignBatchRequest(requests=[asked(key) for key in keys])


@pytest.fixture
def quick(house: House, monkeypatch: pytest.MonkeyPatch) -> House:
    """With records that are there at once, as they are without ``wait_for_sync``."""
    monkeypatch.setattr(house.audit, "write", house.audit.decisions.append)
    return house


async def turns(house: House, *under_way: asyncio.Future[Any]) -> list[int]:
    """Return how many records each turn of the loop added until all calls were done."""
    added, before = [], 0
    while not all(call.done() for call in under_way):
        await asyncio.sleep(0)
        added.append(len(house.audit.decisions) - before)
        before = len(house.audit.decisions)
    return added


async def stream(*keys: str, until_told: asyncio.Event | None = None) -> AsyncIterator[pb.SignStreamRequest]:
    for number, key in enumerate(keys):
        yield pb.SignStreamRequest(id=number, request=asked(key))
    if until_told is not None:
        await until_told.wait()


@pytest.fixture
async def slow(house: House) -> House:
    """With a key whose signatures a thread makes."""
    await house.ring.create(new_key(IN_A_THREAD, algorithm=Algorithm.ES384))
    return house


class Store:
    """A store that does not answer until it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers = threading.Event()


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    store, inner = Store(), MemoryBackend.sign

    def sign(self: MemoryBackend, handle: str, algorithm: Algorithm, message: bytes) -> bytes:
        if algorithm is Algorithm.ES384:
            store.asked += 1
            assert store.answers.wait(20)
        return inner(self, handle, algorithm, message)

    monkeypatch.setattr(MemoryBackend, "sign", sign)
    yield store
    store.answers.set()


@contextmanager
def tasks_made() -> Iterator[list[asyncio.Task[Any]]]:
    """Every task that is made meanwhile."""
    made: list[asyncio.Task[Any]] = []
    loop = asyncio.get_running_loop()

    def make(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(task := asyncio.Task(work, loop=loop, **options))
        return task

    loop.set_task_factory(make)
    try:
        yield made
    finally:
        loop.set_task_factory(None)


class TestBatches:
    async def test_what_is_signed_at_once_takes_no_task(self, slow: House) -> None:
        sign, call = slow.services["signing"].sign_batch, slow.call(SHOP)
        with tasks_made() as tasks:
            results = (await sign(batch(*[AT_ONCE] * 20, "other"), call)).results
        assert [result.WhichOneof("result") for result in results] == ["response"] * 20 + ["error"]
        assert tasks == []
        with tasks_made() as tasks:
            await sign(batch(AT_ONCE, IN_A_THREAD, IN_A_THREAD), call)
        assert len(tasks) == 2

    async def test_results_are_in_order_whatever_waits(self, slow: House, hung: Store) -> None:
        keys = [IN_A_THREAD, AT_ONCE, "other", IN_A_THREAD, AT_ONCE]
        answering = asyncio.ensure_future(slow.services["signing"].sign_batch(batch(*keys), slow.call(SHOP)))
        await until(lambda: hung.asked == 2 and len(slow.audit.decisions) == 3)
        assert [d.key for d in slow.audit.decisions] == [AT_ONCE, "other", AT_ONCE]  # they waited for nobody
        hung.answers.set()
        results = (await answering).results
        assert [result.response.jose_algorithm for result in results] == ["ES384", "Ed25519", "", "ES384", "Ed25519"]
        assert results[2].error.reason == "GRANT"

    async def test_each_has_its_own_record_and_without_one_no_signature(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        inner = house.audit.write

        def write(decision: Decision) -> Awaitable[None] | None:
            house.audit.failing = len(house.audit.decisions) >= 2
            return inner(decision)

        monkeypatch.setattr(house.audit, "write", write)
        results = (await house.services["signing"].sign_batch(batch(*[AT_ONCE] * 4), house.call(SHOP))).results
        assert [bool(result.response.signature) for result in results] == [True, True, False, False]
        assert [result.error.reason for result in results] == ["", ""] + ["AUDIT_UNAVAILABLE"] * 2

    async def test_records_that_wait_for_the_disk_wait_together(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        house.audit.waits = True
        synced = asyncio.Event()
        inner = house.audit.write

        async def waiting() -> None:
            await synced.wait()

        def write(decision: Decision) -> Awaitable[None]:
            inner(decision).close()  # type: ignore[union-attr]
            return waiting()

        monkeypatch.setattr(house.audit, "write", write)
        answering = asyncio.ensure_future(house.services["signing"].sign_batch(batch(*[AT_ONCE] * 8), house.call(SHOP)))
        await until(lambda: len(house.audit.decisions) == 8)
        assert not answering.done()
        synced.set()
        assert all(result.response.signature for result in (await answering).results)

    async def test_a_large_batch_leaves_the_loop_to_others(self, quick: House) -> None:
        sign = quick.services["signing"].sign_batch
        added = await turns(quick, asyncio.ensure_future(sign(batch(*[AT_ONCE] * 256), quick.call(SHOP))))
        assert sum(added) == 256
        assert max(added) == BEGIN_AT_ONCE

    async def test_many_batches_of_one_caller_take_no_more_of_a_turn_than_one(self, quick: House) -> None:
        sign = quick.services["signing"].sign_batch
        calls = [asyncio.ensure_future(sign(batch(*[AT_ONCE] * 64), quick.call(SHOP))) for _ in range(8)]
        assert max(await turns(quick, *calls)) <= BEGIN_AT_ONCE

    async def test_a_caller_that_goes_away_leaves_nothing_at_work(self, slow: House, hung: Store) -> None:
        before = asyncio.all_tasks()
        answering = asyncio.ensure_future(
            slow.services["signing"].sign_batch(batch(AT_ONCE, *[IN_A_THREAD] * 3), slow.call(SHOP))
        )
        await until(lambda: hung.asked == 3)
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)
        await until(lambda: not asyncio.all_tasks() - before)
        assert [decision.reason for decision in slow.audit.decisions] == [None] + ["CANCELLED"] * 3
        assert not slow.guard.turns

    async def test_a_defect_ends_the_batch(self, slow: House, hung: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        def defect(*_: Any) -> bytes:
            raise RuntimeError("a defect")

        monkeypatch.setattr(BackendRunner, "sign_inline", defect)
        before = asyncio.all_tasks()
        with pytest.raises(RuntimeError, match="a defect"):
            await slow.services["signing"].sign_batch(batch(IN_A_THREAD, AT_ONCE), slow.call(SHOP))
        await until(lambda: not asyncio.all_tasks() - before)
        assert {decision.reason for decision in slow.audit.decisions} == {"INTERNAL", "CANCELLED"}


class TestStreams:
    async def test_a_stream_leaves_the_loop_to_others(self, quick: House) -> None:
        async def drained() -> None:
            assert (
                len([each async for each in quick.services["signing"].sign_stream(stream(*[AT_ONCE] * 64), quick.call(SHOP))])
                == 64
            )

        added = await turns(quick, asyncio.ensure_future(drained()))
        assert sum(added) == 64
        assert max(added) <= BEGIN_AT_ONCE

    async def test_what_is_signed_at_once_takes_no_task(self, slow: House) -> None:
        sign, call = slow.services["signing"].sign_stream, slow.call(SHOP)
        with tasks_made() as tasks:
            answers = [answer async for answer in sign(stream(*[AT_ONCE] * 20, "other"), call)]
        assert [answer.id for answer in answers] == list(range(21))
        assert answers[-1].result.error.reason == "GRANT"
        assert len(tasks) == 1  # which reads
        with tasks_made() as tasks:
            assert len([answer async for answer in sign(stream(AT_ONCE, IN_A_THREAD), call)]) == 2
        assert len(tasks) == 2

    async def test_what_waits_holds_up_neither_answers_nor_questions(self, slow: House, hung: Store) -> None:
        keys = [IN_A_THREAD, AT_ONCE, IN_A_THREAD, AT_ONCE, "other"]
        answers = slow.services["signing"].sign_stream(stream(*keys), slow.call(SHOP))
        assert [(await anext(answers)).id for _ in range(3)] == [1, 3, 4]
        await until(lambda: hung.asked == 2)
        last = asyncio.ensure_future(anext(answers))
        await asyncio.sleep(0)
        assert not last.done()
        hung.answers.set()
        assert {(await last).id, (await anext(answers)).id} == {0, 2}
        with pytest.raises(StopAsyncIteration):
            await anext(answers)

    async def test_answers_are_not_held_back_until_the_next_question(self, slow: House) -> None:
        answers = slow.services["signing"].sign_stream(stream(IN_A_THREAD, until_told=asyncio.Event()), slow.call(SHOP))
        async with asyncio.timeout(20):
            assert (await anext(answers)).result.response.signature
        await answers.aclose()

    async def test_a_stream_reads_no_further_than_its_window(self, slow: House, hung: Store) -> None:
        slow.guard.policy = Policy(GRANTS, allowance=Allowance(max_signatures=100))
        read = 0

        async def counted() -> AsyncIterator[pb.SignStreamRequest]:
            nonlocal read
            async for request in stream(*[IN_A_THREAD] * 100):
                read += 1
                yield request

        answers = slow.services["signing"].sign_stream(counted(), slow.call(SHOP))
        first = asyncio.ensure_future(anext(answers))
        await until(lambda: read >= 64)
        for _ in range(10):
            await asyncio.sleep(0)
        assert read == 64
        hung.answers.set()
        assert (await first).result.response.signature
        assert len([answer async for answer in answers]) == 99

    async def test_what_breaks_the_reading_ends_the_stream(self, slow: House, hung: Store) -> None:
        before = asyncio.all_tasks()

        async def breaking() -> AsyncIterator[pb.SignStreamRequest]:
            async for request in stream(AT_ONCE, IN_A_THREAD):
                yield request
            await until(lambda: hung.asked == 1)
            raise LookupError("broken")

        answers = slow.services["signing"].sign_stream(breaking(), slow.call(SHOP))
        assert (await anext(answers)).id == 0
        with pytest.raises(LookupError, match="broken"):
            await anext(answers)
        await until(lambda: not asyncio.all_tasks() - before)
        assert [decision.reason for decision in slow.audit.decisions] == [None, "CANCELLED"]
        assert not slow.guard._calls
