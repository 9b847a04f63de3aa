"""One timer for all deadlines."""

from __future__ import annotations

import asyncio

import pytest

from keyd.service.http2.deadlines import Deadlines


async def test_only_those_that_have_come_are_cancelled():
    deadlines, loop = Deadlines(), asyncio.get_running_loop()
    now = loop.time()
    tasks = [loop.create_task(asyncio.sleep(60)) for _ in range(4)]
    for task, seconds in zip(tasks, (60, 0.02, 0.01, -1), strict=True):
        deadlines.set(task, now + seconds)
    for task in tasks[:0:-1]:
        with pytest.raises(asyncio.CancelledError):
            await task
        assert deadlines.passed(task)
        deadlines.drop(task)
        assert not deadlines.passed(task)
    assert not tasks[0].done()
    assert deadlines._next == now + 60
    tasks[0].cancel()
    deadlines.drop(tasks[0])
    assert not deadlines._when
    assert not deadlines._passed


async def test_one_that_is_dropped_does_not_come():
    deadlines, loop = Deadlines(), asyncio.get_running_loop()
    dropped, other = (loop.create_task(asyncio.sleep(60)) for _ in range(2))
    deadlines.set(dropped, loop.time() + 0.01)
    deadlines.set(other, loop.time() + 0.02)
    deadlines.drop(dropped)
    with pytest.raises(asyncio.CancelledError):
        await other
    assert not dropped.done()
    assert not deadlines.passed(dropped)
    dropped.cancel()
