"""A client that calls for a while when it is asked to, as a process of its own: ``python benchmarks/calls.py ADDRESS KEY KIND``.

Each line on stdin is JSON, ``base`` (hexadecimal) and ``seconds``; the answer is a line of JSON: ``count`` of signatures, ``seconds`` by the clock on the wall,
``cpu`` seconds of the whole process meanwhile, ``p50`` and ``p99`` of a call in microseconds, and one ``signature``, hexadecimal. It imports
nothing of the benchmarks, so that another commit's Python can run it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from keyd.client import AsyncClient, Client, SignInput
from keyd.v1 import signing_service_pb2 as pb
from keyd.v1 import signing_service_pb2_grpc

IN_FLIGHT = 64
BATCH = 32

#: Signs a base; opened with address and key.
Sign = Callable[[bytes], bytes]
AsyncSign = Callable[[bytes], Awaitable[bytes]]
#: Has bases signed over one stream for as long as the times run.
Stream = Callable[[bytes, "_Times"], Awaitable[bytes]]
#: Calls for so many seconds, and says what came of it.
Run = Callable[[bytes, float], dict[str, Any]]


class _Times:
    """When it began, what each call took, and what all took."""

    def __init__(self, seconds: float) -> None:
        self.each: list[float] = []
        self._cpu = time.process_time()
        self._began = time.perf_counter()
        self._end = self._began + seconds

    def running(self) -> bool:
        return time.perf_counter() < self._end

    def report(self, signature: bytes, each: int = 1) -> dict[str, Any]:
        took, cpu = time.perf_counter() - self._began, time.process_time() - self._cpu
        shares = sorted(self.each)
        return {
            "count": len(shares) * each,
            "seconds": took,
            "cpu": cpu,
            "p50": shares[len(shares) // 2] * 1e6,
            "p99": shares[int(len(shares) * 0.99)] * 1e6,
            "signature": signature.hex(),
        }


def blocking(opened: Callable[[str, str], Sign], each: int = 1) -> Callable[[str, str, asyncio.Runner], Run]:
    """Make one call after another, of so many signatures each."""

    def kind(address: str, key: str, _: asyncio.Runner) -> Run:
        sign = opened(address, key)

        def run(base: bytes, seconds: float) -> dict[str, Any]:
            times, signature = _Times(seconds), b""
            while times.running():
                began = time.perf_counter()
                signature = sign(base)
                times.each.append(time.perf_counter() - began)
            return times.report(signature, each)

        return run

    return kind


def tasks(opened: Callable[[str, str], AsyncSign], number: int = 1) -> Callable[[str, str, asyncio.Runner], Run]:
    """Have so many tasks of one event loop make one call after another each."""

    def kind(address: str, key: str, loop: asyncio.Runner) -> Run:
        async def open_it() -> AsyncSign:
            return opened(address, key)

        sign = loop.run(open_it())

        async def task(base: bytes, times: _Times) -> bytes:
            signature = b""
            while times.running():
                began = time.perf_counter()
                signature = await sign(base)
                times.each.append(time.perf_counter() - began)
            return signature

        async def run(base: bytes, seconds: float) -> dict[str, Any]:
            times = _Times(seconds)
            return times.report((await asyncio.gather(*(task(base, times) for _ in range(number))))[0])

        return lambda base, seconds: loop.run(run(base, seconds))

    return kind


def stream(opened: Callable[[str, str], Stream]) -> Callable[[str, str, asyncio.Runner], Run]:
    """Have 64 inputs of one stream under way."""

    def kind(address: str, key: str, loop: asyncio.Runner) -> Run:
        async def open_it() -> Stream:
            return opened(address, key)

        over = loop.run(open_it())

        async def run(base: bytes, seconds: float) -> dict[str, Any]:
            times = _Times(seconds)
            return times.report(await over(base, times))

        return lambda base, seconds: loop.run(run(base, seconds))

    return kind


def sync_stub(address: str, key: str) -> Sign:
    """Return a stub of grpcio."""
    sign = signing_service_pb2_grpc.SigningServiceStub(grpc.insecure_channel(address)).Sign
    return lambda base: sign(pb.SignRequest(key=key, signature_base=base), timeout=5.0).signature


def sync_client(address: str, key: str) -> Sign:
    """Return keyd's client."""
    client = Client(address)
    return lambda base: client.sign_base(key, base).signature


def sync_stub_batch(address: str, key: str) -> Sign:
    """Return a stub of grpcio that sends batches."""
    sign = signing_service_pb2_grpc.SigningServiceStub(grpc.insecure_channel(address)).SignBatch

    def call(base: bytes) -> bytes:
        request = pb.SignBatchRequest(requests=[pb.SignRequest(key=key, signature_base=base)] * BATCH)
        results = sign(request, timeout=5.0).results
        assert all(result.response.signature for result in results), results
        return bytes(results[-1].response.signature)

    return call


def sync_client_batch(address: str, key: str) -> Sign:
    """Return keyd's client, sending batches."""
    client = Client(address)

    def call(base: bytes) -> bytes:
        results = client.sign_batch([SignInput(key, base)] * BATCH)
        for result in results:
            if isinstance(result, Exception):
                raise result
        return results[0].signature  # type: ignore[union-attr]

    return call


def aio_stub(address: str, key: str) -> AsyncSign:
    """Return a stub of grpcio's asyncio."""
    sign = signing_service_pb2_grpc.SigningServiceStub(grpc.aio.insecure_channel(address)).Sign

    async def call(base: bytes) -> bytes:
        response: pb.SignResponse = await sign(pb.SignRequest(key=key, signature_base=base), timeout=5.0)
        return response.signature

    return call


def aio_client(address: str, key: str) -> AsyncSign:
    """Return keyd's client for asyncio."""
    return _signer(AsyncClient(address), key)


def gathering(address: str, key: str) -> AsyncSign:
    """Return keyd's client for asyncio that sends together what its tasks want at the same time."""
    return _signer(AsyncClient(address, gather=True), key)


def _signer(client: AsyncClient, key: str) -> AsyncSign:
    async def call(base: bytes) -> bytes:
        return (await client.sign_base(key, base)).signature

    return call


def stub_stream(address: str, key: str) -> Stream:
    """Return SignStream over a bare stub."""
    stub = signing_service_pb2_grpc.SigningServiceStub(grpc.aio.insecure_channel(address))

    async def over(base: bytes, times: _Times) -> bytes:
        room, sent, signature = asyncio.Semaphore(IN_FLIGHT), dict[int, float](), b""

        async def requests() -> AsyncIterator[pb.SignStreamRequest]:
            number = 0
            while times.running():
                await room.acquire()
                sent[number] = time.perf_counter()
                yield pb.SignStreamRequest(id=number, request=pb.SignRequest(key=key, signature_base=base))
                number += 1

        async for answer in stub.SignStream(requests()):
            room.release()
            signature = answer.result.response.signature
            assert signature, answer
            times.each.append(time.perf_counter() - sent.pop(answer.id))
        return signature

    return over


def client_stream(address: str, key: str) -> Stream:
    """Return AsyncClient.sign_stream."""
    client = AsyncClient(address)

    async def over(base: bytes, times: _Times) -> bytes:
        room, sent, signature = asyncio.Semaphore(IN_FLIGHT), list[float](), b""

        async def inputs() -> AsyncIterator[SignInput]:
            while times.running():
                await room.acquire()
                sent.append(time.perf_counter())
                yield SignInput(key, base)

        async for position, result in client.sign_stream(inputs()):
            if isinstance(result, Exception):
                raise result
            room.release()
            signature = result.signature
            times.each.append(time.perf_counter() - sent[position])
        return signature

    return over


KINDS: dict[str, Callable[[str, str, asyncio.Runner], Run]] = {
    "sync-bare": blocking(sync_stub),
    "sync": blocking(sync_client),
    "aio-bare": tasks(aio_stub),
    "aio": tasks(aio_client),
    "aio-bare-8": tasks(aio_stub, 8),
    "aio-8": tasks(aio_client, 8),
    "unary-64": tasks(aio_client, IN_FLIGHT),
    "gather": tasks(gathering),
    "gather-8": tasks(gathering, 8),
    "gather-64": tasks(gathering, IN_FLIGHT),
    "stream-bare-64": stream(stub_stream),
    "stream-64": stream(client_stream),
    "batch-bare-32": blocking(sync_stub_batch, BATCH),
    "batch-32": blocking(sync_client_batch, BATCH),
}


def main() -> None:
    """Do what each line on stdin says, and print what came of it."""
    address, key, kind = sys.argv[1:]
    with asyncio.Runner() as loop:
        run = KINDS[kind](address, key, loop)
        for line in sys.stdin:
            asked = json.loads(line)
            print(json.dumps(run(bytes.fromhex(asked["base"]), asked["seconds"])), flush=True)


if __name__ == "__main__":
    main()
