"""What both transports owe their callers, with clients that are not ours: grpcio, @grpc/grpc-js and curl. What differs is said in docs/transports.md."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import shutil
import socket
import struct
import tempfile
from collections.abc import AsyncIterator
from ipaddress import IPv6Address
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

import grpc
import grpc.aio
import pytest
from gated import connected
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from raw_grpc import RawChannel
from service_conftest import refused
from support import until

from keyd.core.errors import KeyStateError
from keyd.core.principal import Principal
from keyd.front import _transport
from keyd.service.bounds import Bounds
from keyd.service.call import Call, Caller
from keyd.service.gate.limits import Quota
from keyd.service.gate.private import _PROXY, _PROXY_TO, PrivateSocket
from keyd.v1 import signing_service_pb2 as pb
from keyd.v1 import signing_service_pb2_grpc as pb_grpc

SERVICE = pb.DESCRIPTOR.services_by_name["SigningService"]
SIGN = "/keyd.v1.SigningService/Sign"
LIMIT = 64 * 1024
ROOT = Path(__file__).parents[2]
SECRET = "not for anybody's eyes"


class Service:
    """Does what the key of a request says. ``calls`` has every call, ``ended`` how those ended that hang."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.begun = asyncio.Event()
        self.ended: asyncio.Queue[str] = asyncio.Queue()
        self.go_on = asyncio.Event()

    async def sign(self, request: pb.SignRequest, call: Call) -> pb.SignResponse:
        self.calls.append(call)
        if request.key == "refused":
            raise KeyStateError("this key signs nothing, ümläut included", active_kid="k2")
        if request.key == "defect":
            raise ValueError(SECRET)
        if request.key == "hang":
            await self._wait()
        return pb.SignResponse(kid="k1", signature=request.signature_base)

    async def watch_keys(self, request: pb.WatchKeysRequest, call: Call) -> AsyncIterator[pb.WatchKeysResponse]:
        for name in request.keys:
            yield pb.WatchKeysResponse(key=pb.GetKeyResponse(key=name))
        if "hang" in request.keys:
            await self._wait()

    async def sign_stream(self, requests: AsyncIterator[Any], call: Call) -> AsyncIterator[pb.SignStreamResponse]:
        async for request in requests:
            yield pb.SignStreamResponse(id=request.id)

    async def _wait(self) -> None:
        self.begun.set()
        try:
            await self.go_on.wait()
        except (asyncio.CancelledError, GeneratorExit):
            self.ended.put_nowait("cancelled")
            raise
        self.ended.put_nowait("finished")

    def __getattr__(self, name: str) -> object:
        return None


class Served:
    """A transport with :class:`Service` behind it. ``held`` has for how long its caller was not to be read from."""

    def __init__(self, transport: str, path: Path, bounds: Bounds, quota: Quota, caller: bool) -> None:
        self.path = path
        self.service = Service()
        self.held: list[float] = []
        who = Caller(Principal(uid=4711), self.held.append) if caller else None
        self.server = _transport(transport)({SERVICE: self.service}, lambda _: who, bounds, quota)

    async def curl(self, method: str, body: str, *options: str, kind: str = "application/json") -> tuple[int, Any]:
        """Return the status and the answer to a request over HTTP/2."""
        process = await asyncio.create_subprocess_exec(
            *("curl", "-sS", "--http2-prior-knowledge", "--unix-socket", str(self.path), "-w", "\n%{http_code}"),
            *("--data-binary", "@-", "-H", f"content-type: {kind}", *options),
            f"http://localhost/keyd.v1.SigningService/{method}",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate(body.encode())
        answer, _, status = out.decode().rpartition("\n")
        return int(status), json.loads(answer) if answer else None


@contextlib.asynccontextmanager
async def serving(transport: str, *, caller: bool = True, quota: Quota | None = None, **bounds: Any) -> AsyncIterator[Served]:
    directory = Path(tempfile.mkdtemp(prefix="keyd-w-"))
    limits = Bounds(**{"max_message_bytes": LIMIT, **bounds})
    served = Served(transport, directory / "s", limits, quota or Quota(100, 100), caller)
    served.server.listen(f"unix:{served.path}")
    await served.server.start()
    try:
        yield served
    finally:
        await served.server.stop(0)
        served.server.close()
        shutil.rmtree(directory)


@pytest.fixture
async def served(transport: str) -> AsyncIterator[Served]:
    async with serving(transport) as served:
        yield served


@contextlib.asynccontextmanager
async def channel_to(served: Served) -> AsyncIterator[grpc.aio.Channel]:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    async with grpc.aio.insecure_channel(f"unix:{served.path}", options=options) as channel:
        yield channel


@pytest.fixture
async def channel(served: Served) -> AsyncIterator[grpc.aio.Channel]:
    async with channel_to(served) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> Any:
    return pb_grpc.SigningServiceStub(channel)  # type: ignore[arg-type]


async def code_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


class TestDeadlines:
    async def test_a_call_ends_with_it_here_too(self, served, stub):
        assert await code_of(stub.Sign(pb.SignRequest(key="hang"), timeout=0.3)) is grpc.StatusCode.DEADLINE_EXCEEDED
        async with asyncio.timeout(5):
            assert await served.service.ended.get() == "cancelled"

    async def test_the_service_knows_it(self, served, stub):
        await stub.Sign(pb.SignRequest(), timeout=30)
        await stub.Sign(pb.SignRequest())
        with_one, without = served.service.calls
        assert 20 < (with_one.seconds_left() or 0) < 30
        assert without.deadline is None


class TestCancellation:
    async def test_a_call_that_is_cancelled_ends_here(self, served, stub):
        call = stub.Sign(pb.SignRequest(key="hang"))
        task = asyncio.ensure_future(call)
        await served.service.begun.wait()
        call.cancel()
        async with asyncio.timeout(5):
            assert await served.service.ended.get() == "cancelled"
        await asyncio.wait([task])

    async def test_so_does_one_whose_connection_ends(self, served):
        with connected(served.path) as client:
            RawChannel(client).send(SIGN, pb.SignRequest(key="hang").SerializeToString())
            await served.service.begun.wait()
        async with asyncio.timeout(5):
            assert await served.service.ended.get() == "cancelled"

    async def test_a_stream_is_closed_with_its_caller(self, served, stub):
        call = stub.WatchKeys(pb.WatchKeysRequest(keys=["a", "hang"]))
        assert (await call.read()).key.key == "a"
        await served.service.begun.wait()
        call.cancel()
        async with asyncio.timeout(5):
            assert await served.service.ended.get() == "cancelled"

    async def test_one_that_is_not_is_answered(self, served, stub):
        task = asyncio.ensure_future(stub.Sign(pb.SignRequest(key="hang")))
        await served.service.begun.wait()
        served.service.go_on.set()
        assert (await task).kid == "k1"
        assert served.service.ended.get_nowait() == "finished"


class TestRefusals:
    async def test_they_have_their_reason_and_details(self, stub):
        refusal = await refused(stub.Sign(pb.SignRequest(key="refused")))
        assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
        assert (refusal.reason, refusal.metadata) == ("KEY_STATE", {"active_kid": "k2"})
        assert refusal.message == "this key signs nothing, ümläut included"

    async def test_an_answer_has_none(self, stub):
        call = stub.Sign(pb.SignRequest())
        assert (await call).kid == "k1"
        assert await call.code() is grpc.StatusCode.OK
        assert "grpc-status-details-bin" not in dict(await call.trailing_metadata())

    async def test_a_defect_is_not_told(self, stub):
        refusal = await refused(stub.Sign(pb.SignRequest(key="defect")))
        assert refusal.code is grpc.StatusCode.INTERNAL
        assert SECRET not in refusal.message

    async def test_who_is_not_known_is_served_nothing(self, transport):
        async with serving(transport, caller=False) as served, channel_to(served) as channel:
            stub = pb_grpc.SigningServiceStub(channel)  # type: ignore[arg-type]
            assert await code_of(stub.Sign(pb.SignRequest())) is grpc.StatusCode.UNAUTHENTICATED
            assert not served.service.calls

    async def test_a_method_there_is_none_of(self, served, channel, stub):
        assert await code_of(channel.unary_unary("/keyd.v1.SigningService/No")(b"")) is grpc.StatusCode.UNIMPLEMENTED
        assert len(served.held) == 1
        await stub.Sign(pb.SignRequest())
        assert len(served.held) == 1

    async def test_what_is_no_request(self, served, channel):
        assert await code_of(channel.unary_unary(SIGN)(b"\xff")) is grpc.StatusCode.INVALID_ARGUMENT
        assert len(served.held) == 1
        assert not served.service.calls

    async def test_nothing_is_kept_of_them(self, served, channel, stub):
        """An exception that is raised more than once keeps every frame that it went through."""

        async def refusals(times: int) -> int:
            for _ in range(times):
                await code_of(channel.unary_unary("/keyd.v1.SigningService/No")(b""))
                await code_of(stub.Sign(pb.SignRequest(key="refused")))
                await code_of(stub.Sign(pb.SignRequest(key="hang"), timeout=0.01))
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await stub.Sign(pb.SignRequest(signature_base=b"a" * 5000), compression=grpc.Compression.Gzip)
            gc.collect()
            return sum(isinstance(each, TracebackType) for each in gc.get_objects())

        before = await refusals(2)
        assert await refusals(10) < before + 10


class TestSizes:
    @pytest.mark.parametrize("method", [SIGN, "/keyd.v1.SigningService/SignStream"])
    async def test_a_message_over_the_limit(self, channel, served, method):
        call = channel.stream_stream(method)(iter([bytes(LIMIT + 1)]))
        assert await code_of(call.read()) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not served.held

    async def test_one_of_the_limit(self, stub):
        request = pb.SignRequest(signature_base=b"a" * (LIMIT - 4))
        assert request.ByteSize() == LIMIT
        assert len((await stub.Sign(request)).signature) == LIMIT - 4

    async def test_headers_over_the_limit(self, stub, served):
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Sign(pb.SignRequest(), metadata=[("x-large", "a" * 30_000)])
        assert not served.service.calls

    async def test_headers_of_almost_the_limit(self, stub, served):
        await stub.Sign(pb.SignRequest(), metadata=[("x-large", "a" * 12_000), ("x-bin", b"\0\xff")])
        assert len(served.service.calls) == 1

    async def test_a_message_without_an_end(self, served):
        with connected(served.path) as client:
            channel = RawChannel(client)
            channel.send(SIGN, finish=False)  # and that counts for nothing
            other = RawChannel(client)
            other.__dict__.update(channel.__dict__)
            assert await asyncio.to_thread(other.call, SIGN, b"") is not None
        assert len(served.service.calls) == 1

    async def test_compressed_messages(self, transport, stub):
        call = stub.Sign(pb.SignRequest(signature_base=b"a" * 5000), compression=grpc.Compression.Gzip)
        if transport == "grpcio":
            assert len((await call).signature) == 5000
        else:
            assert await code_of(call) is grpc.StatusCode.UNIMPLEMENTED


class TestNumbers:
    async def test_calls_under_way_are_counted(self, transport):
        async with serving(transport, quota=Quota(2, 2)) as served, channel_to(served) as channel:
            stub = pb_grpc.SigningServiceStub(channel)  # type: ignore[arg-type]
            first = [asyncio.ensure_future(stub.Sign(pb.SignRequest(key="hang"))) for _ in range(2)]
            await until(lambda: len(served.service.calls) == 2)
            assert await code_of(stub.Sign(pb.SignRequest())) is grpc.StatusCode.RESOURCE_EXHAUSTED
            served.service.go_on.set()
            await asyncio.gather(*first)
            assert (await stub.Sign(pb.SignRequest())).kid == "k1"

    async def test_streams_beyond_the_bound_wait(self, transport):
        async with serving(transport, max_streams=2) as served, channel_to(served) as channel:
            stub = pb_grpc.SigningServiceStub(channel)  # type: ignore[arg-type]
            await stub.Sign(pb.SignRequest())  # by now the client knows the bound
            calls = [asyncio.ensure_future(stub.Sign(pb.SignRequest(key="hang"))) for _ in range(4)]
            done, _ = await asyncio.wait(calls, timeout=0.3)
            assert not done
            assert len(served.service.calls) == 3
            served.service.go_on.set()
            assert [answer.kid for answer in await asyncio.gather(*calls)] == ["k1"] * 4


class TestStreams:
    async def test_to_the_caller(self, stub):
        assert [each.key.key async for each in stub.WatchKeys(pb.WatchKeysRequest(keys=["a", "b"]))] == ["a", "b"]

    async def test_both_ways_in_turns(self, stub):
        call = stub.SignStream()
        for number in range(3):
            await call.write(pb.SignStreamRequest(id=number))
            assert (await call.read()).id == number
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK

    async def test_that_end_with_what_is_no_request(self, served, channel):
        call = channel.stream_stream("/keyd.v1.SigningService/SignStream")(iter([b"\x08\x01", b"\xff"]))
        assert await call.read() == b"\x08\x01"
        assert await code_of(call.read()) is grpc.StatusCode.INVALID_ARGUMENT
        assert len(served.held) == 1


class TestTheEnd:
    async def test_calls_under_way_are_finished_and_new_ones_are_not_taken(self, served, stub):
        task = asyncio.ensure_future(stub.Sign(pb.SignRequest(key="hang")))
        await served.service.begun.wait()
        stopping = asyncio.ensure_future(served.server.stop(10))
        await asyncio.sleep(0.1)
        assert await code_of(stub.Sign(pb.SignRequest())) is grpc.StatusCode.UNAVAILABLE
        served.service.go_on.set()
        assert (await task).kid == "k1"
        await stopping

    async def test_those_that_take_longer_are_not(self, served, stub):
        task = asyncio.ensure_future(stub.Sign(pb.SignRequest(key="hang")))
        await served.service.begun.wait()
        await served.server.stop(0.1)
        assert await code_of(task) is grpc.StatusCode.UNAVAILABLE
        assert served.service.ended.get_nowait() == "cancelled"

    async def test_who_does_not_read_the_answers_holds_it_up_no_longer(self, transport):
        async with serving(transport, drain_timeout=0.1) as served:
            with connected(served.path) as client:
                channel = RawChannel(client)
                channel.settings = struct.pack(">HI", 4, 0)  # no window: no octet of an answer may be sent
                for _ in range(3):
                    channel.send(SIGN, pb.SignRequest(signature_base=b"a" * 1000).SerializeToString())
                await until(lambda: len(served.service.calls) == 3)
                async with asyncio.timeout(10):
                    await served.server.stop(0.1)


class TestHealth:
    async def test_of_each_part(self, served, channel):
        stub = health_pb2_grpc.HealthStub(channel)
        await served.server.report({"file": True, "hsm": False})
        for name, state in (("", 1), ("keyd.v1.SigningService", 1), ("keyd.backend.file", 1), ("keyd.backend.hsm", 2)):
            assert (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status == state
        assert await code_of(stub.Check(health_pb2.HealthCheckRequest(service="no"))) is grpc.StatusCode.NOT_FOUND
        assert await code_of(stub.List(health_pb2.HealthListRequest())) is grpc.StatusCode.UNIMPLEMENTED

    async def test_watched_to_the_end(self, served, channel):
        call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="keyd.backend.hsm"))
        seen = [(await call.read()).status]
        for sound in (True, False):
            await served.server.report({"hsm": sound})
            seen.append((await call.read()).status)
        await served.server.report({"hsm": True})
        seen.append((await call.read()).status)
        stopping = asyncio.ensure_future(served.server.stop(5))
        seen.append((await call.read()).status)
        call.cancel()
        await stopping
        assert seen == [3, 1, 2, 1, 2]


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection(channel, version):
    method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    serialize, parse = (
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    answers = [each async for each in channel.stream_stream(method, serialize, parse)(iter([request]))]
    names = {service.name for service in answers[0].list_services_response.service}
    assert names == {"keyd.v1.SigningService", "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


async def test_grpc_js(transport, served):
    node = ROOT / "examples/typescript"
    process = await asyncio.create_subprocess_exec(
        *("node", str(ROOT / "tests/peers/calls.mjs"), f"unix:{served.path}", str(node), str(ROOT / "protos")),
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    came = {line.pop("name"): line for line in map(json.loads, out.decode().splitlines())}
    compressed = {"kid": "k1"} if transport == "grpcio" else {"code": 12, "more": 0}
    came["compressed"].pop("details", None)
    for name, code, more in (("refused", 9, 1), ("late", 4, 0), ("cancelled", 1, 0), ("large", 8, 0)):
        assert (came[name]["code"], came[name]["more"]) == (code, more)
    assert came["refused"]["details"] == "this key signs nothing, ümläut included"
    assert came["answered"] == {"kid": "k1"}
    assert came["compressed"] == compressed
    assert came["watched"] == {"ids": ["a", "b"]}
    assert came["streamed"] == {"ids": [1, 2, 3]}


@pytest.fixture
async def json_served() -> AsyncIterator[Served]:
    async with serving("http2") as served:
        yield served


class TestJson:
    """Connect's plain form, with curl. Of http2 only."""

    async def test_signed(self, json_served):
        assert await json_served.curl("Sign", '{"key": "a", "signatureBase": "YWJj"}') == (
            200,
            {"kid": "k1", "signature": "YWJj"},
        )

    async def test_without_http2(self, json_served):
        status, answer = await json_served.curl("Sign", "{}", "--http1.1")
        assert (status, answer) == (200, {"kid": "k1"})

    async def test_refused(self, json_served):
        status, answer = await json_served.curl("Sign", '{"key": "refused"}')
        assert (status, answer["code"]) == (400, "failed_precondition")
        assert answer["message"] == "this key signs nothing, ümläut included"
        assert answer["details"][0]["type"] == "google.rpc.ErrorInfo"

    async def test_a_defect_is_not_told(self, json_served):
        status, answer = await json_served.curl("Sign", '{"key": "defect"}')
        assert (status, answer["code"]) == (500, "internal")
        assert SECRET not in str(answer)

    @pytest.mark.parametrize(
        "body", ['{"key": "a', '{"kex": "secret"}', "[" * 50_000, '{"key": 5}', '{"signatureBase": "secret!"}']
    )
    async def test_what_is_no_request_is_not_echoed(self, json_served, body):
        status, answer = await json_served.curl("Sign", body)
        assert (status, answer["code"]) == (400, "invalid_argument")
        assert answer["message"] == "the request is not a keyd.v1.SignRequest"
        assert len(json_served.held) == 1
        assert not json_served.service.calls

    async def test_what_there_is_not(self, json_served):
        assert await json_served.curl("No", "{}") == (404, None)
        assert await json_served.curl("SignStream", "{}") == (404, None)
        assert len(json_served.held) == 2
        assert (await json_served.curl("Sign", "{}", kind="text/plain"))[0] != 200
        assert await json_served.curl("Sign", "{}", "-X", "GET") == (405, None)
        assert not json_served.service.calls

    async def test_over_the_limit(self, json_served):
        body = json.dumps({"signatureBase": "A" * LIMIT})
        status, _ = await json_served.curl("Sign", body)
        assert status != 200
        assert not json_served.service.calls

    async def test_compressed(self, json_served):
        status, answer = await json_served.curl("Sign", "{}", "-H", "content-encoding: gzip")
        assert (status, answer["code"]) == (501, "unimplemented")

    async def test_late(self, json_served):
        status, answer = await json_served.curl("Sign", '{"key": "hang"}', "-H", "connect-timeout-ms: 300")
        assert (status, answer["code"]) == (504, "deadline_exceeded")
        async with asyncio.timeout(5):
            assert await json_served.service.ended.get() == "cancelled"

    @pytest.mark.parametrize(
        ("kind", "header"),
        [
            ("application/grpc+json", "x: y"),
            ("Application/gRPC", "x: y"),
            ("application/grpc; charset=utf-8", "x: y"),
            ("application/json", "x: \udcff"),
            ("application/json", "content-encoding: \udcff"),
            ("application/\udcffjson", "x: y"),
        ],
    )
    async def test_what_the_runtime_cannot_read_is_refused_without_a_word_in_the_log(self, json_served, capfd, kind, header):
        assert await json_served.curl("Sign", "{}", "-H", header, kind=kind) == (415, None)
        assert len(json_served.held) == 1
        assert not json_served.service.calls
        assert '"level":"error"' not in capfd.readouterr().err

    async def test_at_the_end(self, json_served):
        task = asyncio.ensure_future(json_served.curl("Sign", '{"key": "hang"}'))
        await json_served.service.begun.wait()
        await json_served.server.stop(0.1)
        assert await task == (503, {"code": "unavailable", "message": "keyd stops; connect again"})

    async def test_who_is_not_known_is_served_nothing(self):
        async with serving("http2", caller=False) as served:
            status, answer = await served.curl("Sign", "{}")
            assert (status, answer["code"]) == (401, "unauthenticated")
            assert not served.service.calls


class TestWhoCalls:
    """The PROXY protocol on the private socket of http2: who is let in is known, and nobody else gets in."""

    @pytest.fixture
    async def private(self) -> AsyncIterator[SimpleNamespace]:
        directory = Path(tempfile.mkdtemp(prefix="keyd-w-"))
        private = PrivateSocket(directory, proxied=True)
        service = Service()
        server = _transport("http2")({SERVICE: service}, private.caller, Bounds(), Quota(9, 9), proxied=True)
        private.bind(server.listen)
        await server.start()
        yield SimpleNamespace(private=private, service=service, directory=directory)
        await server.stop(0)
        server.close()
        private.close()
        os.rmdir(directory)  # noqa: PTH106 - nothing is left in it

    async def test_each_connection_has_its_caller(self, private):
        for uid in (1, 2):
            with private.private.connect(Caller(Principal(uid=uid))) as link:
                link.settimeout(10)
                assert await asyncio.to_thread(RawChannel(link).call, SIGN) is not None
        assert [call.principal.uid for call in private.service.calls] == [1, 2]

    async def test_so_have_those_whose_messages_come_in_turns(self, private):
        """In JSON: who calls is kept beside a message until that is there."""
        with private.private.connect(Caller(Principal(uid=1))) as one, private.private.connect(Caller(Principal(uid=2))) as two:
            channels = [RawChannel(link) for link in (one, two)]
            for channel in channels:
                channel.socket.settimeout(10)
                channel.kind = b"application/json"
                channel.send(SIGN, finish=False)
                await asyncio.sleep(0.05)
            for channel, name in zip(reversed(channels), (b"two", b"one"), strict=True):
                channel.end(b'{"key": "%s"}' % name)
                assert await asyncio.to_thread(channel.receive) is not None
        assert [call.principal.uid for call in private.service.calls] == [2, 1]

    async def test_who_brings_a_header_of_his_own_is_closed(self, private):
        with private.private.connect(Caller(Principal(uid=1))), private.private.connect(Caller(Principal(uid=2))) as link:
            [address, _] = private.private._callers
            link.settimeout(10)
            link.sendall(_PROXY + IPv6Address(address).packed + _PROXY_TO)
            with pytest.raises(ConnectionError):
                await asyncio.to_thread(RawChannel(link).call, SIGN)
        assert not private.service.calls

    @pytest.mark.parametrize("head", [b"\x20\0\0\0", b"\x21\0\0\0"])
    async def test_one_that_names_nobody_is_of_nobody(self, private, head):
        """LOCAL, and a family that is not said (proxy-protocol.txt, section 2.2)."""
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.settimeout(10)
            stranger.connect(private.private._path)
            stranger.sendall(_PROXY[:12] + head)
            assert await asyncio.to_thread(RawChannel(stranger).call, SIGN) is None
        assert not private.service.calls

    async def test_a_forgotten_one_is_nobody(self, private):
        link = private.private.connect(Caller(Principal(uid=1)))
        link._forget()
        link.socket.settimeout(10)
        assert await asyncio.to_thread(RawChannel(link.socket).call, SIGN) is None
        assert not private.service.calls
        link.close()

    async def test_who_has_no_header_is_closed(self, private):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.settimeout(10)
            stranger.connect(private.private._path)
            with pytest.raises(ConnectionError):
                await asyncio.to_thread(RawChannel(stranger).call, SIGN)
        assert not private.service.calls

    @pytest.mark.parametrize("name", ["x-forwarded-for", "forwarded", "x-real-ip", "x-client-ip"])
    async def test_a_header_field_says_nothing(self, private, name):
        """Who knows the address of another cannot call by it either."""
        with private.private.connect(Caller(Principal(uid=1))), private.private.connect(Caller(Principal(uid=2))) as link:
            [address, _] = private.private._callers
            link.settimeout(10)
            channel = RawChannel(link)
            value = f'for="[{address}]"' if name == "forwarded" else address
            channel.more_headers = [(name.encode(), value.encode())]
            assert await asyncio.to_thread(channel.call, SIGN) is not None
        assert [call.principal.uid for call in private.service.calls] == [2]
