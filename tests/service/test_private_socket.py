"""The private socket, with a real grpc.aio server behind it: who is let in is known, and nobody else gets in."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from raw_grpc import RawChannel

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


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def ask(connected: socket.socket) -> bytes | None:
    connected.settimeout(10)
    return await asyncio.to_thread(RawChannel(connected).call, "/test.Who/Who")


async def test_each_connection_has_its_caller(server, tmp_path):
    for uid in (1, 2):
        link = server.private.connect(Caller(Principal(uid=uid)))
        assert await ask(link.socket) == f"uid:{uid}".encode()
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
    assert await ask(again) == b"nobody"
    again.close()


async def test_who_has_no_name_is_nobody(server, tmp_path):
    stranger = socket.socket(socket.AF_UNIX)
    stranger.connect(server.private._path)
    assert await ask(stranger) == b"nobody"
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
        assert await ask(connected) == b"uid:3"
    await server.server.stop(0)
    before = open_files()
    server.private.close()
    assert open_files() == before - 2


def test_what_cannot_be_bound_leaves_nothing(tmp_path):
    def fail(address: str) -> None:
        raise RuntimeError("no")

    private = PrivateSocket(tmp_path)
    with pytest.raises(RuntimeError, match="no"):
        private.bind(fail)
    private.close()
    assert list(tmp_path.iterdir()) == []
