"""What tasks want signed at the same time goes together, and each gets its own result, error and deadline all the same."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from keyd import client as keyd
from keyd.client import AsyncClient, SignInput

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture
async def gathering(daemon):
    async with AsyncClient(daemon.address, gather=True) as client:
        yield client


def verify(daemon, signature: keyd.Signature, data: bytes) -> None:
    daemon.public_keys()[signature.kid].verify(signature.signature, data)


async def at_once(client: AsyncClient, *items: SignInput) -> list[keyd.Signature | BaseException]:
    return await asyncio.gather(*(client.sign(item) for item in items), return_exceptions=True)


def inputs(count: int, key: str = "agent") -> list[SignInput]:
    return [SignInput(key, f'"{number}'.encode()) for number in range(count)]


async def test_many_at_once_go_in_few_calls_and_each_has_its_own_result(daemon, gathering) -> None:
    items = inputs(40)
    items[7] = SignInput("nobody", b'"x')
    results = await at_once(gathering, *items)
    assert sorted(daemon.calls) == ["Sign", "SignBatch"]
    assert isinstance(results.pop(7), keyd.NotFound)
    items.pop(7)
    for item, signature in zip(items, results, strict=True):
        verify(daemon, signature, item.data)


async def test_one_after_another_goes_alone(daemon, gathering) -> None:
    for item in inputs(3):
        verify(daemon, await gathering.sign(item), item.data)
    assert daemon.calls == ["Sign"] * 3


async def test_without_the_option_nothing_is_gathered(daemon, aclient) -> None:
    await at_once(aclient, *inputs(5))
    assert daemon.calls == ["Sign"] * 5


async def test_more_than_a_call_may_hold_are_cut(daemon, gathering) -> None:
    results = await at_once(gathering, *inputs(300))
    assert len([result for result in results if isinstance(result, keyd.Signature)]) == 300
    assert sorted(len(request.requests) for request in daemon.requests if hasattr(request, "requests")) == [43, 256]
    daemon.requests.clear()
    await at_once(gathering, *[SignInput("agent", bytes(2**16))] * 17)
    assert max(request.ByteSize() for request in daemon.requests) < 800_000


async def test_unavailable_twice_then_fine_and_three_times_not(daemon, gathering) -> None:
    items = inputs(5)
    daemon.faults.extend(daemon.Fault(UNAVAILABLE) for _ in range(2))
    for item, signature in zip(items, await at_once(gathering, *items), strict=True):
        verify(daemon, signature, item.data)
    daemon.faults.extend(daemon.Fault(UNAVAILABLE) for _ in range(30))
    assert {type(error) for error in await at_once(gathering, *inputs(4))} == {keyd.Unavailable}


@pytest.mark.parametrize(("fault", "asked"), [((UNAVAILABLE, "BACKEND_UNAVAILABLE"), 2), ((grpc.StatusCode.INTERNAL, "X"), 1)])
async def test_what_passes_is_tried_again_for_whom_it_hit(daemon, gathering, fault, asked: int) -> None:
    daemon.faults_in_batches.append(daemon.Fault(*fault))
    results = await at_once(gathering, *inputs(4))
    assert len([result for result in results if isinstance(result, keyd.Signature)]) == (4 if asked == 2 else 3)
    assert len(daemon.calls) == asked + 1


async def test_a_lie_about_the_kid_is_found_out(daemon, gathering) -> None:
    daemon.lie_about_kid = True
    items = [SignInput("agent", b'"x', kid="agent-1"), SignInput("agent", b'"x')] * 2
    results = await at_once(gathering, *items)
    assert [type(result) for result in results] == [keyd.InternalError, keyd.Signature] * 2


async def test_what_waits_too_long_ends_and_leaves_nothing_at_work(daemon) -> None:
    daemon.hang = True
    async with AsyncClient(daemon.address, timeout=0.2, gather=True) as client:
        results = await at_once(client, *inputs(300))
        assert {type(result) for result in results} == {keyd.DeadlineExceeded}
        daemon.hang = False
        assert all(isinstance(result, keyd.Signature) for result in await at_once(client, *inputs(5)))


async def test_who_goes_away_takes_nobody_along(daemon, gathering) -> None:
    calls = [asyncio.ensure_future(gathering.sign(item)) for item in inputs(6)]
    await asyncio.sleep(0)
    calls[2].cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [keyd.Signature] * 2 + [asyncio.CancelledError] + [keyd.Signature] * 3
    assert sum(len(request.requests) for request in daemon.requests if hasattr(request, "requests")) == 4


async def test_closing_the_client_ends_what_waits(daemon) -> None:
    daemon.hang = True
    client = AsyncClient(daemon.address, gather=True)
    calls = [asyncio.ensure_future(client.sign(item)) for item in inputs(6)]
    async with asyncio.timeout(20):
        while len(daemon.calls) < 2:  # noqa: ASYNC110 - the daemon's threads set no event of this loop
            await asyncio.sleep(0.001)
        await client.close()
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(result) for result in results} == {asyncio.CancelledError}  # as without gather
    daemon.hang = False


async def test_a_rotation_is_followed(daemon, gathering) -> None:
    await gathering.key_info("agent")
    daemon.rotate("agent")
    signed = await asyncio.gather(
        *(gathering.sign_rebuilding("agent", lambda info: f'"for {info.active.kid}'.encode()) for _ in range(4))
    )
    for signature, info in signed:
        assert info.active.kid == "agent-2"
        verify(daemon, signature, b'"for agent-2')
