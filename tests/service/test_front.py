"""Every way in, through the whole daemon: which sockets there are, to whom they belong, and what bounds them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from gated import connected, open_files
from raw_grpc import RawChannel
from service_conftest import CONFIG, refused
from support import FakeClock, until

from keyd import app, config, process
from keyd.core.rates import REFUSALS_PER_SECOND
from keyd.service.call import Call
from keyd.service.signing import SigningService
from keyd.v1 import key_service_pb2, key_service_pb2_grpc, signing_service_pb2, signing_service_pb2_grpc

GET_JWKS = "/keyd.v1.SigningService/GetJWKS"


class Daemon:
    def __init__(self, directory: Path, calls: list[Call]) -> None:
        self.directory = directory
        self.calls = calls

    async def jwks(self, target: str) -> str:
        """Call over a connection of its own, and return who keyd says it was."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            stub = signing_service_pb2_grpc.SigningServiceStub(channel)  # type: ignore[arg-type]
            await stub.GetJWKS(signing_service_pb2.GetJWKSRequest(), timeout=10)
        return self.calls[-1].principal.account

    @property
    def socket(self) -> Path:
        return self.directory / "run/keyd.sock"


@contextlib.asynccontextmanager
async def daemon(
    monkeypatch: pytest.MonkeyPatch, server: str = "", sections: str = "", delay: float = 0
) -> AsyncIterator[Daemon]:
    """A whole daemon that notes each call; ``delay`` is how long one takes, in seconds."""
    calls: list[Call] = []
    real = SigningService.get_jwks

    async def noted(self: SigningService, request: Any, call: Call) -> Any:
        calls.append(call)
        await asyncio.sleep(delay)
        return await real(self, request, call)

    monkeypatch.setattr(SigningService, "get_jwks", noted)
    directory = Path(tempfile.mkdtemp(prefix="keyd-f-"))
    (directory / "kek").write_bytes(os.urandom(32))
    (directory / "kek").chmod(0o400)
    text = CONFIG.format(directory=directory).replace('drain_timeout = "1s"\n', 'drain_timeout = "1s"\n' + server)
    if server.startswith("socket ="):
        text = text.replace(f'socket = "{directory}/run/keyd.sock"\n', "", 1)
    path = directory / "keyd.toml"
    path.write_text(text + sections.format(directory=directory))
    try:
        async with AsyncExitStack() as stack:
            await app.start(config.load(path), stack, FakeClock())
            yield Daemon(directory, calls)
        await asyncio.sleep(0)
    finally:
        shutil.rmtree(directory)


def access(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid


class TestThePublicSocket:
    async def test_by_default_it_is_the_daemons_own(self, monkeypatch):
        async with daemon(monkeypatch) as running:
            assert access(running.socket) == (0o600, os.geteuid(), os.getegid())
            assert await running.jwks(f"unix:{running.socket}") == f"uid:{os.geteuid()}"
            assert running.calls[0].principal.pid == os.getpid()
        assert not running.socket.exists()

    async def test_it_can_be_given_to_others(self, monkeypatch):
        async with daemon(monkeypatch, 'socket_mode = "0660"\nsocket_owner = "daemon"\nsocket_group = "4711"\n') as running:
            assert access(running.socket) == (0o660, 1, 4711)

    @pytest.mark.parametrize(("field", "kind"), [("socket_owner", "user"), ("socket_group", "group")])
    async def test_to_nobody_there_is(self, monkeypatch, field, kind):
        with pytest.raises(process.ProcessError, match=f"there is no {kind} no-such-name"):
            async with daemon(monkeypatch, f'{field} = "no-such-name"\n'):
                pass

    async def test_an_abstract_one(self, monkeypatch):
        name = f"keyd-test-{os.getpid()}"
        async with daemon(monkeypatch, f'socket = "@{name}"\n') as running:
            assert await running.jwks(f"unix-abstract:{name}") == f"uid:{os.geteuid()}"
            assert not running.socket.exists()
            with pytest.raises(process.AlreadyRunningError, match="something listens on"):
                async with daemon(monkeypatch, f'socket = "@{name}"\n'):
                    pass


OWN = """
[sockets.shop]
path = "{directory}/run/shop.sock"
mode = "0660"
group = "4711"
[sockets.bank]
path = "{directory}/run/bank/keyd.sock"
"""


class TestOwnSockets:
    async def test_each_is_one_principal(self, monkeypatch):
        async with daemon(monkeypatch, sections=OWN) as running:
            run = running.directory / "run"
            assert access(run / "shop.sock") == (0o660, os.geteuid(), 4711)
            assert access(run / "bank/keyd.sock") == (0o600, os.geteuid(), os.getegid())
            assert await running.jwks(f"unix:{run}/shop.sock") == "socket:shop"
            assert await running.jwks(f"unix:{run}/bank/keyd.sock") == "socket:bank"
            assert await running.jwks(f"unix:{run}/keyd.sock") == f"uid:{os.geteuid()}"
            assert running.calls[0].principal.uid is None
            files = {path.relative_to(run) for path in run.rglob("*") if path.is_socket()}
            assert files == {Path("shop.sock"), Path("bank/keyd.sock"), Path("keyd.sock")}
        assert not [path for path in run.rglob("*") if path.is_socket()]

    async def test_one_in_the_longest_place_there_is(self, monkeypatch):
        directory = tempfile.mkdtemp(prefix="keyd-l-")
        path = directory + "/" + "a" * (107 - len(directory) - 1)
        try:
            async with daemon(monkeypatch, sections=f'[sockets.far]\npath = "{path}"\n') as running:
                assert await running.jwks(f"unix:{path}") == "socket:far"
        finally:
            shutil.rmtree(directory)

    async def test_a_stale_one_is_replaced_and_a_live_one_is_not(self, monkeypatch):
        directory = Path(tempfile.mkdtemp(prefix="keyd-l-"))
        section = f'[sockets.far]\npath = "{directory}/s"\n'
        try:
            async with daemon(monkeypatch, sections=section):
                with pytest.raises(process.AlreadyRunningError):
                    async with daemon(monkeypatch, sections=section):
                        pass
        finally:
            shutil.rmtree(directory)


def served_at_all(client: RawChannel) -> bool:
    """grpcio closes what is over the bound; over http2 it waits until there is room."""
    client.socket.settimeout(2)
    try:
        return client.call(GET_JWKS) is not None
    except (ConnectionError, TimeoutError):
        return False


class TestBounds:
    async def test_an_idle_connection_is_closed_and_one_with_a_stream_is_not(self, monkeypatch):
        async with daemon(monkeypatch, sections='[connections]\nidle_timeout = "1s"\n') as running:
            with connected(running.socket) as idle, connected(running.socket) as watching:
                assert await asyncio.to_thread(RawChannel(idle).call, GET_JWKS) is not None
                async with grpc.aio.insecure_channel(f"unix:{running.socket}") as channel:
                    keys = key_service_pb2_grpc.KeyServiceStub(channel)  # type: ignore[arg-type]
                    await keys.CreateKey(key_service_pb2.CreateKeyRequest(spec=key_service_pb2.KeySpec(name="agent")))
                stream = RawChannel(watching)
                watch = signing_service_pb2.WatchKeysRequest(keys=["agent"])
                stream.send("/keyd.v1.SigningService/WatchKeys", watch.SerializeToString())
                receiving = asyncio.create_task(asyncio.to_thread(stream.receive))

                def ended() -> bool:
                    with contextlib.suppress(ConnectionError):
                        while idle.recv(65536):
                            pass
                    return True

                assert await asyncio.to_thread(ended)
                assert not receiving.done()
                watching.shutdown(socket.SHUT_RDWR)
                with pytest.raises(ConnectionError):
                    await receiving

    async def test_calls_of_one_caller_are_bounded_and_another_has_room(self, monkeypatch):
        sections = OWN + "[connections]\nmax_calls_per_caller = 2\n"
        async with daemon(monkeypatch, sections=sections, delay=0.3) as running:
            request = signing_service_pb2.GetJWKSRequest()
            async with grpc.aio.insecure_channel(f"unix:{running.socket}") as channel:
                stub = signing_service_pb2_grpc.SigningServiceStub(channel)  # type: ignore[arg-type]
                under_way = [asyncio.ensure_future(stub.GetJWKS(request)) for _ in range(2)]
                await until(lambda: len(running.calls) == 2)
                refusal = await refused(stub.GetJWKS(request))
                assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
                assert await running.jwks(f"unix:{running.directory}/run/shop.sock") == "socket:shop"
                await asyncio.gather(*under_way)
                await stub.GetJWKS(request)

    async def test_connections_to_a_socket_of_its_own_are_bounded_and_another_has_room(self, monkeypatch):
        sections = OWN + "[connections]\nmax_per_caller = 3\n"
        async with daemon(monkeypatch, sections=sections) as running:
            shop = running.directory / "run/shop.sock"
            with contextlib.ExitStack() as stack:
                clients = [RawChannel(stack.enter_context(connected(shop))) for _ in range(10)]
                served = await asyncio.gather(*(asyncio.to_thread(served_at_all, client) for client in clients))
                assert sum(served) == 3
                assert await running.jwks(f"unix:{running.directory}/run/bank/keyd.sock") == "socket:bank"
            # Those that went make room.
            async with asyncio.timeout(10):
                while True:
                    with connected(shop) as client:
                        if await asyncio.to_thread(served_at_all, RawChannel(client)):
                            break

    @pytest.mark.parametrize(("method", "message"), [(GET_JWKS, b"\xff"), ("/keyd.v1.SigningService/No", b"")])
    async def test_who_sends_what_is_no_request_is_left_waiting(self, monkeypatch, method, message):
        async with daemon(monkeypatch) as running:
            with connected(running.socket) as client, connected(running.socket) as other:
                channel = RawChannel(client)
                assert await asyncio.to_thread(channel.call, GET_JWKS) is not None
                for _ in range(REFUSALS_PER_SECOND // 2):
                    channel.send(method, message)
                assert await asyncio.to_thread(channel.receive) is None
                start = asyncio.get_running_loop().time()
                assert await asyncio.to_thread(RawChannel(other).call, GET_JWKS) is not None
                assert asyncio.get_running_loop().time() - start < 0.3
                assert await asyncio.to_thread(channel.call, GET_JWKS) is not None
                assert asyncio.get_running_loop().time() - start > 0.3

    async def test_calls_without_their_message_take_no_room(self, monkeypatch):
        """grpcio's own bound would count them, and let nobody else in."""
        async with daemon(monkeypatch, "max_concurrent_calls = 2\n") as running:
            with connected(running.socket) as hoarding:
                channel = RawChannel(hoarding)
                assert await asyncio.to_thread(channel.call, GET_JWKS) is not None
                for _ in range(20):
                    channel.send(GET_JWKS, finish=False)
                assert await running.jwks(f"unix:{running.socket}") == f"uid:{os.geteuid()}"

    async def test_a_client_with_more_calls_than_streams_waits_with_them(self, monkeypatch):
        async with (
            daemon(monkeypatch, sections="[connections]\nmax_streams = 3\n", delay=0.05) as running,
            grpc.aio.insecure_channel(f"unix:{running.socket}") as channel,
        ):
            stub = signing_service_pb2_grpc.SigningServiceStub(channel)  # type: ignore[arg-type]
            await asyncio.gather(*(stub.GetJWKS(signing_service_pb2.GetJWKSRequest()) for _ in range(30)))
            assert len(running.calls) == 30

    async def test_one_that_does_not_wait_is_refused(self, monkeypatch):
        async with daemon(monkeypatch, sections="[connections]\nmax_streams = 3\n", delay=1) as running:
            with connected(running.socket) as client:
                channel = RawChannel(client)
                assert await asyncio.to_thread(channel.call, GET_JWKS) is not None
                for _ in range(10):
                    channel.send(GET_JWKS)
                assert await asyncio.to_thread(channel.receive) is None  # the last of them
                assert len(running.calls) <= 4


async def test_nothing_is_open_after_the_end(monkeypatch):
    async with daemon(monkeypatch, sections=OWN) as running:
        await running.jwks(f"unix:{running.socket}")
    before = open_files()
    for _ in range(2):
        async with daemon(monkeypatch, sections=OWN) as running:
            await running.jwks(f"unix:{running.socket}")
    await until(lambda: open_files() <= before + 2)  # grpcio closes some of them a moment later
