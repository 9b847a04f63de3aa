"""The private socket, with a real grpc.aio server behind it: who is let in is known, and nobody else gets in."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from keyd.core.principal import Principal
from keyd.service.call import Caller
from keyd.service.gate.private import PrivateSocket


class Server:
    """A grpc.aio server that answers with what the registry says of the caller."""

    def __init__(self, directory: Path) -> None:
        self.private = PrivateSocket(directory)
        self.server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(self.who)
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Who", {"Who": handler}),))

    async def who(self, _: bytes, context: grpc.aio.ServicerContext) -> bytes:
        caller = self.private.caller(context.peer())
        return b"nobody" if caller is None else str(caller.principal).encode()

    def listen(self, address: str) -> None:
        self.server.add_insecure_port(address)


@pytest.fixture
async def server(tmp_path) -> AsyncIterator[Server]:
    server = Server(tmp_path)
    server.private.bind(server.listen)
    await server.server.start()
    yield server
    await server.server.stop(0)
    server.private.close()


async def ask(connected: socket.socket, tmp_path: Path) -> bytes:
    """Call over a connection that exists: grpcio's client connects to a socket of the test, which passes the bytes on."""

    path = tmp_path / "front"
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(sock=connected)

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()

        copies = [asyncio.create_task(copy(reader, inner_writer)), asyncio.create_task(copy(inner_reader, writer))]
        await done.wait()
        for each in copies:
            each.cancel()
        for each in (writer, inner_writer):
            each.close()
            with contextlib.suppress(OSError):
                await each.wait_closed()

    front = await asyncio.start_unix_server(serve, path)
    try:
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            return await channel.unary_unary("/test.Who/Who")(b"", timeout=10)
    finally:
        done.set()
        front.close()
        await front.wait_closed()
        path.unlink(missing_ok=True)


async def test_each_connection_has_its_caller(server, tmp_path):
    for uid in (1, 2):
        link = server.private.connect(Caller(Principal(uid=uid)))
        assert await ask(link.socket, tmp_path) == f"uid:{uid}".encode()
        link.close()


async def test_a_forgotten_caller_is_nobody(server, tmp_path):
    link = server.private.connect(Caller(Principal(uid=1)))
    name = link.socket.getsockname()
    assert server.private.caller(f"unix-abstract:{name[1:].decode()}") is not None
    link.close()
    assert server.private.caller(f"unix-abstract:{name[1:].decode()}") is None
    again = socket.socket(socket.AF_UNIX)
    again.bind(name)  # the name is free, and worth nothing
    again.connect(server.private._path)
    again.setblocking(False)
    assert await ask(again, tmp_path) == b"nobody"
    again.close()


async def test_who_has_no_name_is_nobody(server, tmp_path):
    stranger = socket.socket(socket.AF_UNIX)
    stranger.connect(server.private._path)
    stranger.setblocking(False)
    assert await ask(stranger, tmp_path) == b"nobody"
    stranger.close()


async def test_nothing_is_left_in_the_file_system(server, tmp_path):
    assert list(tmp_path.iterdir()) == []


async def test_a_caller_that_cannot_be_connected_is_not_remembered(server):
    server.private._path = "/nowhere"
    with pytest.raises(OSError, match="No such file"):
        server.private.connect(Caller(Principal(uid=1)))
    assert server.private._callers == {}


async def test_a_directory_deeper_than_a_socket_path(tmp_path):
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    server = Server(deep)
    server.private.bind(server.listen)
    await server.server.start()
    with server.private.connect(Caller(Principal(uid=3))) as connected:
        assert await ask(connected, tmp_path) == b"uid:3"
    await server.server.stop(0)
    before = len(list(Path("/proc/self/fd").iterdir()))
    server.private.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before - 2


def test_what_cannot_be_bound_leaves_nothing(tmp_path):
    def fail(address: str) -> None:
        raise RuntimeError("no")

    private = PrivateSocket(tmp_path)
    with pytest.raises(RuntimeError, match="no"):
        private.bind(fail)
    private.close()
    assert list(tmp_path.iterdir()) == []
