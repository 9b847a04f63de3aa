"""How a connection ends, with plain sockets on both sides; what is in TLS is in test_tls.py."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator

import pytest
from support import until

from keyd.service.gate import pipe
from keyd.service.gate.pipe import Pipe


class Ends:
    """A caller and a server, and the pipe between them."""

    def __init__(self) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        self.caller = socket.create_connection(listening.getsockname())
        outer, _ = listening.accept()
        listening.close()
        self.server, self.inner = socket.socketpair()
        for each in (outer, self.inner):
            each.setblocking(False)
        self.caller.settimeout(10)
        self.server.settimeout(10)
        self.closed = 0
        self.pipe = Pipe(outer, self.close)
        self.pipe.start(self.inner)

    def close(self) -> None:
        self.closed += 1
        self.inner.close()


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    ends = Ends()
    yield ends
    ends.pipe.close()
    ends.pipe.close()
    assert ends.closed == 1
    ends.caller.close()
    ends.server.close()


async def test_more_than_every_buffer_holds(ends: Ends) -> None:
    data = bytes(range(256)) * 40_000

    def receive(end: socket.socket) -> bytes:
        received = b""
        while len(received) < len(data):
            received += end.recv(1 << 20)
        return received

    for source, sink in ((ends.caller, ends.server), (ends.server, ends.caller)):
        sending = asyncio.create_task(asyncio.to_thread(source.sendall, data))
        await asyncio.sleep(0.05)
        assert not sending.done(), "what nobody reads was taken"
        assert await asyncio.to_thread(receive, sink) == data
        await sending


async def test_the_caller_has_everything_when_the_server_ends(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    ends.server.sendall(b"last words")
    ends.server.close()
    await until(lambda: ends.pipe._up is None)
    ends.caller.sendall(b"unheard")  # unread bytes at the end would be a reset
    assert await asyncio.to_thread(ends.caller.recv, 100) == b"last words"
    assert await asyncio.to_thread(ends.caller.recv, 100) == b""
    assert not ends.closed
    ends.caller.close()
    await until(lambda: ends.closed == 1)


async def test_a_caller_that_stays_is_not_waited_for(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe, "_LINGER", 0.02)
    ends.server.close()
    await until(lambda: ends.closed == 1)


async def test_a_caller_that_is_held_back_is_drained_as_well(ends: Ends) -> None:
    ends.pipe.hold_back(0.02)
    ends.server.close()
    await until(lambda: ends.pipe._up is None)
    await asyncio.sleep(0.05)
    ends.caller.close()
    await until(lambda: ends.closed == 1)


async def test_the_server_may_answer_who_has_ended(ends: Ends) -> None:
    ends.caller.sendall(b"question")
    ends.caller.shutdown(socket.SHUT_WR)
    assert await asyncio.to_thread(ends.server.recv, 100) == b"question"
    assert await asyncio.to_thread(ends.server.recv, 100) == b""
    ends.server.sendall(b"answer")
    assert await asyncio.to_thread(ends.caller.recv, 100) == b"answer"


async def test_a_server_that_does_not_end_is_not_waited_for(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe, "_HALF_CLOSED", 0.02)
    ends.caller.shutdown(socket.SHUT_WR)
    await until(lambda: ends.closed == 1)


async def test_a_caller_that_reads_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe, "_STALLED", 0.1)
    ends = Ends()
    ends.server.setblocking(False)
    sent = True
    while sent and not ends.closed:
        try:
            ends.server.send(bytes(1 << 20))
        except BlockingIOError:
            await asyncio.sleep(0.01)
        except OSError:
            sent = False
    await until(lambda: ends.closed == 1)
    ends.caller.close()
    ends.server.close()


async def test_a_caller_that_reads_slowly_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe, "_STALLED", 0.5)
    ends = Ends()
    sending = asyncio.create_task(asyncio.to_thread(ends.server.sendall, bytes(20_000_000)))
    left = 20_000_000
    for _ in range(8):
        await asyncio.sleep(0.1)
        left -= len(await asyncio.to_thread(ends.caller.recv, 1 << 20))
    assert not ends.closed
    while left:
        left -= len(await asyncio.to_thread(ends.caller.recv, 1 << 20))
    await sending
    ends.pipe.close()
    ends.caller.close()
    ends.server.close()


async def test_a_reset_ends_both(ends: Ends) -> None:
    ends.caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    ends.caller.close()
    await until(lambda: ends.closed == 1)
    assert await asyncio.to_thread(ends.server.recv, 100) == b""


async def test_a_time_can_be_set(ends: Ends) -> None:
    ends.pipe.close_after(0.01)
    await until(lambda: ends.closed == 1)
    assert await asyncio.to_thread(ends.caller.recv, 100) == b""


async def test_held_back_twice_is_the_longer(ends: Ends) -> None:
    ends.pipe.hold_back(0.2)
    ends.pipe.hold_back(0.01)
    ends.caller.sendall(b"x")
    ends.server.settimeout(0.1)
    with pytest.raises(TimeoutError):
        await asyncio.to_thread(ends.server.recv, 1)
    ends.server.settimeout(10)
    assert await asyncio.to_thread(ends.server.recv, 1) == b"x"
