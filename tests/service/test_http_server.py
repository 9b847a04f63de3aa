"""The HTTP listener, as clients see it that do not get on, and as a flood of them does."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from support import until

from keyd.service import http_server
from keyd.service.http_server import HttpServer, bound

LARGE = b"x" * 32 * 1024 * 1024  # more than the buffers of both ends hold


async def answer(scope: Any, receive: Any, send: Any) -> None:
    body = LARGE if scope["path"] == "/large" else b"ok"
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
async def server() -> AsyncIterator[HttpServer]:
    server = HttpServer(bound("127.0.0.1", 0), answer)
    await server.start()
    yield server
    await server.stop()


def connections(server: HttpServer) -> int:
    return len(server._server.server_state.connections)


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HTTP/1.1\r\nHost: a", b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n"], ids=["silent", "slow", "not reading"]
)
async def test_who_does_not_get_on_is_not_waited_for(server: HttpServer, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(http_server, "PATIENCE", 0.3)
    _, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
    writer.write(sent)
    await until(lambda: connections(server) == 1)
    await until(lambda: connections(server) == 0)
    writer.close()


async def test_who_gets_on_stays(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "PATIENCE", 0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    end = time.monotonic() + 0.6
    while time.monotonic() < end:
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_an_answer_does_not_wait_for_its_head_to_be_acknowledged(server: HttpServer) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await until(lambda: connections(server) == 1)
    (connection,) = server._server.server_state.connections
    assert connection.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)  # type: ignore[union-attr]
    writer.close()


async def test_a_flood_keeps_no_descriptors(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "MOST_CONNECTIONS", 5)
    writers = [(await asyncio.open_connection("127.0.0.1", server.port))[1] for _ in range(5)]
    await until(lambda: connections(server) == 5)
    reader, late = await asyncio.open_connection("127.0.0.1", server.port)
    with pytest.raises(ConnectionError):
        if await asyncio.wait_for(reader.read(), 20) == b"":
            raise ConnectionResetError
    assert connections(server) == 5
    for writer in (*writers, late):
        writer.close()
    await until(lambda: connections(server) == 0)


async def test_who_does_not_read_holds_up_no_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "_LAST_ANSWERS", 1)
    server = HttpServer(bound("127.0.0.1", 0), answer)
    await server.start()
    _, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
    writer.write(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
    await until(lambda: connections(server) == 1)
    await asyncio.wait_for(server.stop(), 20)
    await until(lambda: connections(server) == 0)
    writer.close()


@pytest.mark.parametrize("turns", range(1, 8))
async def test_who_is_accepted_as_it_ends_is_let_go(turns: int) -> None:
    server = HttpServer(bound("127.0.0.1", 0), answer)
    await server.start()
    await until(lambda: server._server.started)
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.setblocking(False)
        for _ in range(turns):  # of the event loop, in which it becomes a connection step by step
            await asyncio.sleep(0)
        await asyncio.wait_for(server.stop(), 20)
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 1), 3) == b""


@pytest.mark.parametrize("connected", [True, False])
async def test_the_end_is_waited_for_where_there_is_a_connection(connected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    waited, whole = [], uvicorn.Server.shutdown

    async def shutdown(self: uvicorn.Server, sockets: list[socket.socket] | None = None) -> None:
        waited.append(True)
        await whole(self, sockets)

    monkeypatch.setattr(uvicorn.Server, "shutdown", shutdown)
    server = HttpServer(bound("127.0.0.1", 0), answer)
    await server.start()
    await until(lambda: server._server.started)
    port = server.port
    with contextlib.ExitStack() as stack:
        if connected:
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            await until(lambda: connections(server) == 1)
        await asyncio.wait_for(server.stop(), 20)
        assert waited == [True] * connected
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
