"""What processes of one daemon hand to each other, over real sockets."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from support import until

from keyd.service.gate.entrance import MAIN, Arrival
from keyd.service.gate.peer import identify
from keyd.team.channel import Channel, ChannelError
from keyd.team.figures import merged
from keyd.team.handover import hand_over, pair, taken
from keyd.team.member import Member
from keyd.workers.__main__ import Worker


@asynccontextmanager
async def channels() -> AsyncIterator[tuple[Channel, Channel]]:
    async def answer(what: str, about: dict[str, Any]) -> Any:
        if what == "fail":
            raise ValueError("it cannot be done")
        return {"what": what, **about}

    ends = [await Channel.over(end, answer) for end in socket.socketpair()]
    running = [asyncio.create_task(end.run()) for end in ends]
    yield ends[0], ends[1]
    for end in ends:
        end.close()
    await asyncio.gather(*running)


async def test_both_ends_ask_and_each_question_gets_its_answer() -> None:
    async with channels() as (one, other):
        found = await asyncio.gather(*(end.ask("echo", number=number) for number, end in enumerate([one, other] * 20)))
        assert [each["number"] for each in found] == list(range(40))
        large = await one.ask("echo", text="x" * 3_000_000)
        assert len(large["text"]) == 3_000_000


async def test_a_question_that_fails_or_finds_nobody_is_an_error() -> None:
    async with channels() as (one, other):
        with pytest.raises(ChannelError, match="it cannot be done"):
            await one.ask("fail")
        waiting = asyncio.create_task(one.ask("echo"))
        await asyncio.sleep(0)
        other.close()
        with pytest.raises(ChannelError, match="gone"):
            await waiting
        with pytest.raises(ChannelError, match="gone"):
            await one.ask("echo")


@pytest.mark.parametrize("end", ["taken", "refused", "cancelled", "gone"])
async def test_a_worker_gives_back_each_place_once_and_none_that_it_has_not(end: str) -> None:
    told, asked, go_on = [], asyncio.Event(), asyncio.Event()

    async def answer(what: str, about: dict[str, Any]) -> Any:
        told.append((what, about["connection"]))
        if what == "enter":
            asked.set()
            await go_on.wait()
            return end != "refused"
        return None

    near, far = [await Channel.over(each, answer) for each in socket.socketpair()]
    running = [asyncio.create_task(each.run()) for each in (near, far)]
    member = Member(1, 2, False, None, None)
    member.meet(near)
    taking = asyncio.create_task(member.take("dns:a"))
    await asked.wait()
    if end == "cancelled":
        taking.cancel()
    elif end == "gone":
        far.close()
    else:
        go_on.set()
    [leave] = await asyncio.gather(taking, return_exceptions=True)
    assert (callable(leave), leave is None) == (end == "taken", end in ("refused", "gone"))
    if end == "taken":
        leave()
    await until(lambda: len(told) == (2 if end in ("taken", "cancelled") else 1))
    assert told == [("enter", -1), ("left", -1)][: len(told)]
    go_on.set()
    for each in (near, far):
        each.close()
    await asyncio.gather(*running)


@pytest.mark.parametrize("said", [b"\xff\xff\xff\xff", b"\0\0\0\2{]", b"\0\0\0\2{}", b"\0\0\0\2[]", b"\0\0\0\1"])
async def test_what_is_no_message_ends_the_channel_and_nothing_else(said: bytes) -> None:
    async def answer(what: str, about: dict[str, Any]) -> Any:
        raise AssertionError

    near, far = socket.socketpair()
    channel = await Channel.over(near, answer)
    far.sendall(said)
    far.shutdown(socket.SHUT_WR)
    await channel.run()  # whoever waits for its end goes on
    with pytest.raises(ChannelError, match="gone"):
        await channel.ask("echo")
    far.close()


def test_a_connection_arrives_with_who_it_is() -> None:
    near, far = pair()
    client, accepted = socket.socketpair()
    peer = identify(accepted)
    hand_over(near, Arrival(7, MAIN, accepted, peer))
    before = peer.principal, peer.credentials
    accepted.close()
    peer.close()
    found = taken(far)
    assert found is not None and found.peer is not None
    assert (found.number, found.way, (found.peer.principal, found.peer.credentials)) == (7, MAIN, before)
    assert found.peer.runs_the_same_program()
    assert not os.get_inheritable(found.client.fileno())
    client.send(b"x")
    assert found.client.recv(1) == b"x"
    found.peer.close()
    assert not found.peer.runs_the_same_program()
    for each in (client, found.client, near, far):
        each.close()


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)  # that is free
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("room", [False, True])
async def test_a_connection_that_is_lost_on_its_way_gives_its_place_back(room: bool) -> None:
    left: list[int] = []

    async def answer(what: str, about: dict[str, Any]) -> Any:
        assert what == "left"
        left.append(about["connection"])

    class Entered:
        def enter(self, arrival: Arrival) -> None:
            left.append(-arrival.number)
            arrival.client.close()

    near, far = [await Channel.over(each, answer) for each in socket.socketpair()]
    running = [asyncio.create_task(each.run()) for each in (near, far)]
    member = Member(1, 2, False, None, None, entrance=Entered())  # type: ignore[arg-type]
    member.meet(near)
    door, its_door = pair()
    control, unused = socket.socketpair()
    worker = Worker(member, its_door, control)
    client, accepted = socket.socketpair()
    hand_over(door, Arrival(7, MAIN, accepted))
    accepted.close()
    with nullcontext() if room else no_more_descriptors():
        worker._take()
    await until(lambda: bool(left))
    assert left == [-7 if room else 7]
    assert client.recv(1) == b"", "nobody holds it"
    for each in (near, far):
        each.close()
    await asyncio.gather(*running)
    for end in (door, its_door, control, unused, client):
        end.close()


def test_nothing_arrives_from_nobody() -> None:
    near, far = pair()
    with pytest.raises(BlockingIOError):
        taken(far)
    near.close()
    assert taken(far) is None
    far.close()


def test_the_figures_of_each_worker_are_told_apart() -> None:
    texts = {}
    for number in (1, 2):
        registry = CollectorRegistry()
        Counter("things", "Things", ("kind",), registry=registry).labels("some").inc(number)
        texts[number] = generate_latest(registry)
    families = {each.name: each for each in text_string_to_metric_families(merged(texts).decode())}
    family = families["things"]
    totals = {s.labels["worker"]: (s.labels["kind"], s.value) for s in family.samples if s.name == "things_total"}
    assert totals == {"1": ("some", 1.0), "2": ("some", 2.0)}
