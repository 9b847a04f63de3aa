import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from keyd import client as keyd
from keyd.client import AsyncClient, SignInput

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


async def each(*items: SignInput) -> AsyncIterator[SignInput]:
    for item in items:
        yield item


def verify(daemon, signature: keyd.Signature, data: bytes) -> None:
    daemon.public_keys()[signature.kid].verify(signature.signature, data)


async def test_signatures_of_every_kind(daemon, aclient) -> None:
    for method, field in (
        (aclient.sign_base, "signature_base"),
        (aclient.sign_jws, "jws_signing_input"),
        (aclient.sign_message, "message"),
    ):
        verify(daemon, await method("agent", b"data"), b"data")
        assert daemon.requests[-1].WhichOneof("input") == field


async def test_unavailable_twice_then_fine_and_three_times_not(daemon, aclient) -> None:
    daemon.faults.extend(daemon.Fault(UNAVAILABLE) for _ in range(2))
    verify(daemon, await aclient.sign_base("agent", b'"x'), b'"x')
    assert daemon.calls == ["Sign"] * 3
    daemon.faults.extend(daemon.Fault(UNAVAILABLE) for _ in range(3))
    with pytest.raises(keyd.Unavailable):
        await aclient.sign_base("agent", b'"x')


async def test_deadline(daemon) -> None:
    daemon.hang = True
    async with AsyncClient(daemon.address, timeout=0.1) as client:
        with pytest.raises(keyd.DeadlineExceeded):
            await client.sign_base("agent", b'"x')


async def test_cancelling_a_call_leaves_the_client_usable(daemon, aclient) -> None:
    daemon.hang = True
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(aclient.sign_base("agent", b'"x'), 0.05)
    daemon.hang = False
    verify(daemon, await aclient.sign_base("agent", b'"x'), b'"x')


async def test_remembers_and_rebuilds(daemon, aclient) -> None:
    await aclient.key_info("agent")
    await aclient.key_info("agent")
    assert daemon.calls == ["GetKey"]
    daemon.rotate("agent")
    signature, info = await aclient.sign_rebuilding("agent", lambda info: f'"for {info.active.kid}"'.encode())
    assert info.active.kid == "agent-2"
    verify(daemon, signature, b'"for agent-2"')
    assert daemon.calls == ["GetKey", "Sign", "GetKey", "Sign"]


async def test_batch_jwt_jwks(daemon, aclient) -> None:
    good, missing = await aclient.sign_batch([SignInput("agent", b'"a'), SignInput("nobody", b'"b')])
    verify(daemon, good, b'"a')
    assert isinstance(missing, keyd.NotFound)
    assert (await aclient.sign_jwt("agent", {}, "t", 1)).count(".") == 2
    assert len((await aclient.jwks())["keys"]) == 1
    assert len((await aclient.jwks(issuer="shop"))["keys"]) == 1
    assert (await aclient.jwk_set("agent")).etag == '"1"'


async def test_watch(daemon, aclient) -> None:
    daemon.faults.append(daemon.Fault(UNAVAILABLE))
    watch = aclient.watch(["agent"])
    assert (await anext(watch)).active.kid == "agent-1"
    daemon.rotate("agent")
    assert (await anext(watch)).active.kid == "agent-2"
    await watch.aclose()
    assert (await aclient.key_info("agent")).active.kid == "agent-2"
    assert daemon.calls == ["WatchKeys", "WatchKeys"]


async def test_a_stream_brings_every_result_with_its_position(daemon, aclient) -> None:
    items = [SignInput("nobody" if number == 4 else "agent", f'"{number}'.encode()) for number in range(9)]
    results = [pair async for pair in aclient.sign_stream(each(*items))]
    assert [position for position, _ in results] == [1, 0, 3, 2, 5, 4, 7, 6, 8]
    for position, result in results:
        if position == 4:
            assert isinstance(result, keyd.NotFound)
        else:
            verify(daemon, result, items[position].data)


async def test_a_stream_is_pipelined_and_may_be_quiet(daemon) -> None:
    """The second input is sent although the first has no answer, and silence without an open question is no failure."""
    asked = asyncio.Event()

    async def items() -> AsyncIterator[SignInput]:
        yield SignInput("agent", b'"0')
        yield SignInput("agent", b'"1')
        await asked.wait()
        yield SignInput("agent", b'"2')

    async with AsyncClient(daemon.address, timeout=0.2) as client:
        stream = client.sign_stream(items())
        assert {(await anext(stream))[0], (await anext(stream))[0]} == {0, 1}
        third = asyncio.ensure_future(anext(stream))
        await asyncio.wait((third,), timeout=0.5)
        assert not third.done()
        asked.set()
        assert (await third)[0] == 2
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_an_unanswered_input_ends_the_stream(daemon) -> None:
    daemon.swallow = 1

    async def items() -> AsyncIterator[SignInput]:
        yield SignInput("agent", b'"0')
        await asyncio.Event().wait()

    async with AsyncClient(daemon.address, timeout=0.1) as client:
        with pytest.raises(keyd.DeadlineExceeded, match="unanswered"):
            await anext(client.sign_stream(items()))


async def test_a_stream_that_ends_early_says_so(daemon, aclient) -> None:
    daemon.swallow = 1
    with pytest.raises(keyd.InternalError, match="1 inputs unanswered"):
        [pair async for pair in aclient.sign_stream(each(SignInput("agent", b'"0')))]


async def test_a_stream_that_breaks_says_why(daemon, aclient) -> None:
    daemon.faults.append(daemon.Fault(grpc.StatusCode.ABORTED, "WHY"))
    with pytest.raises(keyd.KeydClientError) as caught:
        [pair async for pair in aclient.sign_stream(each(SignInput("agent", b'"0')))]
    assert caught.value.reason == "WHY"


async def test_what_the_callers_iterator_raises_comes_out(daemon, aclient) -> None:
    async def items() -> AsyncIterator[SignInput]:
        yield SignInput("agent", b'"0')
        raise LookupError("mine")

    found = []
    with pytest.raises(LookupError, match="mine"):
        async for pair in aclient.sign_stream(items()):
            found.append(pair)  # noqa: PERF401 - what was found before it broke counts
    assert len(found) == 1


async def test_leaving_a_stream_early_ends_the_call(daemon, aclient) -> None:
    stream = aclient.sign_stream(each(*(SignInput("agent", b'"x') for _ in range(4))))
    await anext(stream)
    await stream.aclose()
    verify(daemon, await aclient.sign_base("agent", b'"x'), b'"x')


async def test_repr_names_the_address(daemon, aclient) -> None:
    assert repr(aclient) == f"AsyncClient({daemon.address!r})"
