"""When a worker is taken to hang."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from support import until

from keyd.team.channel import Channel
from keyd.workers import pulse
from keyd.workers.pulse import HUNG, hangs


class Worker:
    """The other end of a channel, which answers while it is not stuck. The supervisor's beats are as long as the test says."""

    def __init__(self) -> None:
        self.turns = asyncio.Event()
        self.turns.set()
        self.asked = self.beats = 0

    async def answer(self, what: str, about: dict[str, Any]) -> Any:
        self.asked += 1
        await self.turns.wait()

    async def beat(self) -> None:
        """What is under way arrives; who is stuck stays so."""
        self.beats += 1
        for _ in range(20):
            await asyncio.sleep(0)


@asynccontextmanager
async def connected(worker: Worker) -> AsyncIterator[tuple[Channel, Channel]]:
    near, far = socket.socketpair()
    ends = await Channel.over(near, worker.answer), await Channel.over(far, worker.answer)
    running = [asyncio.create_task(end.run()) for end in ends]
    yield ends
    for end in ends:
        end.close()
    await asyncio.gather(*running)


async def test_one_that_is_stuck_is_found_after_so_many_beats_and_no_more_is_asked_of_it() -> None:
    worker = Worker()
    worker.turns.clear()
    async with connected(worker) as (channel, _):
        await hangs(partial(channel.ask, "pulse"), worker.beat)
    assert (worker.beats, worker.asked) == (HUNG, 1)


async def test_one_that_answers_at_the_last_beat_begins_anew() -> None:
    worker = Worker()

    async def beat() -> None:
        if worker.beats % HUNG == HUNG - 1:
            worker.turns.set()
        await worker.beat()
        if worker.beats < 3 * HUNG:
            worker.turns.clear()

    worker.turns.clear()
    async with connected(worker) as (channel, _):
        watching = asyncio.create_task(hangs(partial(channel.ask, "pulse"), beat))
        await until(lambda: worker.beats >= 5 * HUNG)
        assert not watching.done()
        watching.cancel()
    assert worker.asked > 2 * HUNG, "it was asked again at each beat, once it answered in time"


async def test_a_time_in_which_nobody_could_listen_is_one_beat_however_long(monkeypatch: pytest.MonkeyPatch) -> None:
    worker, loop, enough = Worker(), asyncio.get_running_loop(), asyncio.Event()
    now, hours = loop.time, 0

    async def beat() -> None:
        nonlocal hours
        passing = asyncio.ensure_future(pulse.beat())
        await asyncio.sleep(0)
        hours += 1  # this process is stopped meanwhile
        monkeypatch.setattr(loop, "time", lambda: now() + hours * 3600)
        await passing
        if hours == HUNG - 1:
            worker.turns.set()
        if hours == 3 * HUNG:
            enough.set()
        await worker.beat()

    worker.turns.clear()
    async with connected(worker) as (channel, _):
        watching = asyncio.create_task(hangs(partial(channel.ask, "pulse"), beat))
        await enough.wait()
        assert not watching.done()
        watching.cancel()


@pytest.mark.parametrize("answered", [True, False])
async def test_an_answer_that_came_while_nobody_could_listen_is_heard_before_anybody_is_blamed(
    monkeypatch: pytest.MonkeyPatch, answered: bool
) -> None:
    loop, beats, hours = asyncio.get_running_loop(), 0, 0
    now = loop.time
    monkeypatch.setattr(loop, "time", lambda: now() + hours * 3600)
    near, far = socket.socketpair()
    again = asyncio.Event()

    def stand_still() -> None:
        nonlocal hours
        hours += 1
        if answered and beats == HUNG:
            reply = b'{"number":1,"answer":null}'
            far.sendall(len(reply).to_bytes(4) + reply)

    async def beat() -> None:
        nonlocal beats
        beats += 1
        if beats > HUNG:
            again.set()
            await asyncio.Event().wait()
        loop.call_soon(stand_still)
        await pulse.beat()

    channel = await Channel.over(near, Worker().answer)
    running = asyncio.create_task(channel.run())
    watching = asyncio.create_task(hangs(partial(channel.ask, "pulse"), beat))
    asked_anew = asyncio.create_task(again.wait())
    await asyncio.wait((watching, asked_anew), return_when=asyncio.FIRST_COMPLETED)
    assert (watching.done(), asked_anew.done()) == (not answered, answered)
    for task in (watching, asked_anew):
        task.cancel()
    far.close()
    await running


async def test_one_that_ends_before_it_answers_leaves_no_traceback_in_the_log() -> None:
    worker, complaints = Worker(), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["message"]))
    async with connected(worker) as (channel, other):
        worker.turns.clear()
        asked = partial(channel.ask, "pulse")
        watching = asyncio.create_task(hangs(asked, asyncio.Event().wait))  # type: ignore[arg-type]
        await until(lambda: worker.asked == 1)
        other.close()
        await until(lambda: not channel._open)
        await asyncio.sleep(0)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    del watching
    gc.collect()
    assert complaints == []


@pytest.mark.parametrize("broken", [True, False])
async def test_one_whose_channel_is_gone_answers_nothing_any_more(broken: bool) -> None:
    worker = Worker()
    async with connected(worker) as (channel, other):
        watching = asyncio.create_task(hangs(partial(channel.ask, "pulse"), worker.beat))
        if broken:
            other.close()
        await until(lambda: worker.beats >= 2 * HUNG or watching.done())
        assert watching.done() is broken
        watching.cancel()
