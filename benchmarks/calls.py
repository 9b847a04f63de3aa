"""A client that calls for a while, as a process of its own: ``python benchmarks/calls.py ADDRESS KEY KIND SECONDS`` with a base on stdin.

It prints one line of JSON: ``count`` of signatures, ``seconds`` by the clock on the wall, ``cpu`` seconds of the whole process meanwhile,
``p50`` and ``p99`` of a call in microseconds, and one ``signature``, hexadecimal. It imports nothing of the benchmarks, so that another commit's
Python can run it.
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
_WARM = 0.3  # seconds of calls before the clock runs


class _Times:
    """When it began, what each call took, and what all took."""

    def __init__(self, seconds: float) -> None:
        self.each: list[float] = []
        self.count = 0
        self._cpu = time.process_time()
        self._began = time.perf_counter()
        self._end = self._began + seconds

    def running(self) -> bool:
        return time.perf_counter() < self._end

    def report(self, signature: bytes) -> dict[str, Any]:
        took, cpu = time.perf_counter() - self._began, time.process_time() - self._cpu
        shares = sorted(self.each)
        return {
            "count": self.count,
            "seconds": took,
            "cpu": cpu,
            "p50": shares[len(shares) // 2] * 1e6 if shares else 0.0,
            "p99": shares[int(len(shares) * 0.99)] * 1e6 if shares else 0.0,
            "signature": signature.hex(),
        }


def _sync(call: Callable[[], bytes], seconds: float) -> dict[str, Any]:
    until = time.perf_counter() + _WARM
    while time.perf_counter() < until:
        signature = call()
    times = _Times(seconds)
    while times.running():
        began = time.perf_counter()
        call()
        times.each.append(time.perf_counter() - began)
        times.count += 1
    return times.report(signature)


async def _aio(call: Callable[[], Awaitable[bytes]], seconds: float, callers: int = 1) -> dict[str, Any]:
    until = time.perf_counter() + _WARM
    while time.perf_counter() < until:
        signature = await call()
    times = _Times(seconds)

    async def caller() -> None:
        while times.running():
            began = time.perf_counter()
            await call()
            times.each.append(time.perf_counter() - began)
            times.count += 1

    await asyncio.gather(*(caller() for _ in range(callers)))
    return times.report(signature)


def sync_bare(address: str, key: str, base: bytes, seconds: float) -> dict[str, Any]:
    """Call a stub of grpcio."""
    with grpc.insecure_channel(address) as channel:
        sign = signing_service_pb2_grpc.SigningServiceStub(channel).Sign
        return _sync(lambda: sign(pb.SignRequest(key=key, signature_base=base), timeout=5.0).signature, seconds)


def sync_client(address: str, key: str, base: bytes, seconds: float) -> dict[str, Any]:
    """Call keyd's client."""
    with Client(address) as client:
        return _sync(lambda: client.sign_base(key, base).signature, seconds)


async def aio_bare(address: str, key: str, base: bytes, seconds: float) -> dict[str, Any]:
    """Call a stub of grpcio's asyncio."""
    async with grpc.aio.insecure_channel(address) as channel:
        sign = signing_service_pb2_grpc.SigningServiceStub(channel).Sign  # type: ignore[arg-type]

        async def call() -> bytes:
            response: pb.SignResponse = await sign(pb.SignRequest(key=key, signature_base=base), timeout=5.0)  # type: ignore[misc]
            return response.signature

        return await _aio(call, seconds)


async def aio_client(address: str, key: str, base: bytes, seconds: float) -> dict[str, Any]:
    """Call keyd's client for asyncio."""
    async with AsyncClient(address) as client:

        async def call() -> bytes:
            return (await client.sign_base(key, base)).signature

        return await _aio(call, seconds)


async def unary_many(address: str, key: str, base: bytes, seconds: float) -> dict[str, Any]:
    """Have 64 calls of one client under way."""
    async with AsyncClient(address) as client:

        async def call() -> bytes:
            return (await client.sign_base(key, base)).signature

        return await _aio(call, seconds, IN_FLIGHT)


async def stream_many(address: str, key: str, base: bytes, seconds: float) -> dict[str, Any]:
    """Have 64 inputs of one stream under way."""
    async with AsyncClient(address) as client:
        signature = (await client.sign_base(key, base)).signature
        times, room = _Times(seconds), asyncio.Semaphore(IN_FLIGHT)

        async def inputs() -> AsyncIterator[SignInput]:
            while times.running():
                await room.acquire()
                yield SignInput(key, base)

        async for _, result in client.sign_stream(inputs()):
            if isinstance(result, Exception):
                raise result
            room.release()
            times.count += 1
        return times.report(signature)


def batches(address: str, key: str, base: bytes, seconds: float) -> dict[str, Any]:
    """Send batches, one after another."""
    items = [SignInput(key, base)] * BATCH

    def call() -> bytes:
        results = client.sign_batch(items)
        for result in results:
            if isinstance(result, Exception):
                raise result
        return results[0].signature  # type: ignore[union-attr]

    with Client(address) as client:
        report = _sync(call, seconds)
    report["count"] *= BATCH
    return report


KINDS: dict[str, Callable[[str, str, bytes, float], Any]] = {
    "sync-bare": sync_bare,
    "sync": sync_client,
    "aio-bare": aio_bare,
    "aio": aio_client,
    "unary-64": unary_many,
    "stream-64": stream_many,
    "batch-32": batches,
}


def main() -> None:
    """Do what the command line says, and print what came of it."""
    address, key, kind, seconds = sys.argv[1:]
    outcome = KINDS[kind](address, key, sys.stdin.buffer.read(), float(seconds))
    print(json.dumps(asyncio.run(outcome) if asyncio.iscoroutine(outcome) else outcome))


if __name__ == "__main__":
    main()
