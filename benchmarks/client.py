"""What an agent in Python can expect of keyd's client, next to a bare grpcio stub that makes the same call.

    make bench-client, or python benchmarks/client.py [--calls 512] [--rounds 15] [--only sync aio]

One daemon as it is delivered: gate, grant, parsed base, chained record before the answer. Every way to ask has a process of its own, and they
take turns: in each round each makes so many Ed25519 signatures, and each checks one of them. CPU times are the kernel's, of all threads.

- stub: grpcio's stub, with a deadline, one call after another; client: `Client.sign_base` and `AsyncClient.sign_base` the same way;
- 8 or 64 at once: tasks that share one client and make one call after another each;
- stream: `SignStream` with 64 in flight, over a stub and with `AsyncClient.sign_stream`; batch: `SignBatch` of 32.

Fails when a client costs more than 1.15 times its stub, in CPU or at the median; or a stream makes less than 1.5 times the signatures of unary calls
for the same CPU of the daemon. Ratios are of one round each, medians of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parent))

import grpc
import grpc.aio
from cost import base, cpu_seconds, daemon, operation, public_key

from backends.api import Algorithm
from backends.encoding import verify_raw
from keyd.client import AsyncClient, Client, SignInput
from keyd.v1 import signing_service_pb2 as pb
from keyd.v1 import signing_service_pb2_grpc

BAR, STREAM_BAR = 1.15, 1.5
KEY, BATCH, WINDOW = "bench", 32, 64
#: How long each call took, in seconds, and a signature with what it signs.
Made = tuple[list[float], bytes, bytes]


def sync_stub(address: str) -> Callable[[int], Made]:
    """One call after another, over a bare stub."""
    stub = signing_service_pb2_grpc.SigningServiceStub(grpc.insecure_channel(address))

    def run(calls: int) -> Made:
        data, took, signature = base(), [], b""
        for _ in range(calls):
            began = time.perf_counter()
            signature = stub.Sign(pb.SignRequest(key=KEY, signature_base=data), timeout=5.0).signature
            took.append(time.perf_counter() - began)
        return took, signature, data

    return run


def sync_client(address: str) -> Callable[[int], Made]:
    """The same with the client."""
    client = Client(address)

    def run(calls: int) -> Made:
        data, took, signature = base(), [], b""
        for _ in range(calls):
            began = time.perf_counter()
            signature = client.sign_base(KEY, data).signature
            took.append(time.perf_counter() - began)
        return took, signature, data

    return run


async def _one_by_one(calls: int, data: bytes, sign: Callable[[], Awaitable[bytes]]) -> Made:
    took, signature = [], b""
    for _ in range(calls):
        began = time.perf_counter()
        signature = await sign()
        took.append(time.perf_counter() - began)
    return took, signature, data


async def _at_once(calls: int, tasks: int, data: bytes, sign: Callable[[], Awaitable[bytes]]) -> Made:
    parts = await asyncio.gather(*(_one_by_one(calls // tasks, data, sign) for _ in range(tasks)))
    return [each for took, _, _ in parts for each in took], parts[0][1], data


def aio(
    open_signer: Callable[[str], Callable[[bytes], Awaitable[bytes]]], tasks: int = 1
) -> Callable[[str], Callable[[int], Made]]:
    """Tasks that each make one call after another in one event loop."""

    def opened(address: str) -> Callable[[int], Made]:
        loop = asyncio.new_event_loop()

        async def open_it() -> Callable[[bytes], Awaitable[bytes]]:
            return open_signer(address)

        sign = loop.run_until_complete(open_it())

        def run(calls: int) -> Made:
            data = base()
            return loop.run_until_complete(_at_once(calls, tasks, data, lambda: sign(data)))

        return run

    return opened


def aio_stub(address: str) -> Callable[[bytes], Awaitable[bytes]]:
    """A bare stub of grpc.aio."""
    stub = signing_service_pb2_grpc.SigningServiceStub(grpc.aio.insecure_channel(address))

    async def sign(data: bytes) -> bytes:
        return (await stub.Sign(pb.SignRequest(key=KEY, signature_base=data), timeout=5.0)).signature

    return sign


def aio_client(address: str) -> Callable[[bytes], Awaitable[bytes]]:
    """The asyncio client."""
    client = AsyncClient(address)

    async def sign(data: bytes) -> bytes:
        return (await client.sign_base(KEY, data)).signature

    return sign


def gathering_client(address: str) -> Callable[[bytes], Awaitable[bytes]]:
    """The asyncio client that sends together what its tasks want at the same time."""
    client = AsyncClient(address, gather=True)

    async def sign(data: bytes) -> bytes:
        return (await client.sign_base(KEY, data)).signature

    return sign


def stub_stream(address: str) -> Callable[[int], Made]:
    """SignStream over a bare stub, with 64 in flight."""
    loop = asyncio.new_event_loop()

    async def opened() -> signing_service_pb2_grpc.SigningServiceAsyncStub:
        return signing_service_pb2_grpc.SigningServiceStub(grpc.aio.insecure_channel(address))

    stub = loop.run_until_complete(opened())

    async def stream(calls: int) -> Made:
        data, window, signature = base(), asyncio.Semaphore(WINDOW), b""
        sent, took = {}, []

        async def requests() -> AsyncIterator[pb.SignStreamRequest]:
            for number in range(calls):
                await window.acquire()
                sent[number] = time.perf_counter()
                yield pb.SignStreamRequest(id=number, request=pb.SignRequest(key=KEY, signature_base=data))

        async for answer in stub.SignStream(requests()):
            window.release()
            signature = answer.result.response.signature
            took.append(time.perf_counter() - sent.pop(answer.id))
        return took, signature, data

    return lambda calls: loop.run_until_complete(stream(calls))


def client_stream(address: str) -> Callable[[int], Made]:
    """AsyncClient.sign_stream, with 64 in flight."""
    loop = asyncio.new_event_loop()

    async def opened() -> AsyncClient:
        return AsyncClient(address)

    client = loop.run_until_complete(opened())

    async def stream(calls: int) -> Made:
        data, window, signature = base(), asyncio.Semaphore(WINDOW), b""
        sent, took = [0.0] * calls, []

        async def items() -> AsyncIterator[SignInput]:
            for number in range(calls):
                await window.acquire()
                sent[number] = time.perf_counter()
                yield SignInput(KEY, data)

        async for position, answer in client.sign_stream(items()):
            window.release()
            signature = answer.signature  # type: ignore[union-attr]  # an error ends the benchmark
            took.append(time.perf_counter() - sent[position])
        return took, signature, data

    return lambda calls: loop.run_until_complete(stream(calls))


def stub_batch(address: str) -> Callable[[int], Made]:
    """SignBatch of 32, one after another, over a bare stub."""
    stub = signing_service_pb2_grpc.SigningServiceStub(grpc.insecure_channel(address))

    def run(calls: int) -> Made:
        data, took, signature = base(), [], b""
        for _ in range(calls // BATCH):
            began = time.perf_counter()
            request = pb.SignBatchRequest(requests=[pb.SignRequest(key=KEY, signature_base=data)] * BATCH)
            signature = stub.SignBatch(request, timeout=5.0).results[-1].response.signature
            took += [time.perf_counter() - began] * BATCH
        return took, signature, data

    return run


WAYS: dict[str, tuple[str, Callable[[str], Callable[[int], Made]]]] = {
    "sync-stub": ("stub, blocking", sync_stub),
    "sync-client": ("`Client`", sync_client),
    "aio-stub": ("stub, asyncio", aio(aio_stub)),
    "aio-client": ("`AsyncClient`", aio(aio_client)),
    "aio-stub-8": ("stub, asyncio, 8 at once", aio(aio_stub, 8)),
    "aio-client-8": ("`AsyncClient`, 8 at once", aio(aio_client, 8)),
    "aio-client-64": ("`AsyncClient`, 64 at once", aio(aio_client, 64)),
    "gather-1": ("`AsyncClient(gather=True)`", aio(gathering_client)),
    "gather-8": ("`AsyncClient(gather=True)`, 8 at once", aio(gathering_client, 8)),
    "gather-64": ("`AsyncClient(gather=True)`, 64 at once", aio(gathering_client, 64)),
    "stub-stream": ("stub, stream of 64", stub_stream),
    "client-stream": ("`AsyncClient.sign_stream`, 64 in flight", client_stream),
    "stub-batch": ("stub, batches of 32", stub_batch),
}


def child(name: str, address: str, jwk: str) -> None:
    """Make as many signatures as each line on stdin says, check one, and print what they cost."""
    run, key = WAYS[name][1](address), public_key(jwk)
    for line in sys.stdin:
        calls, cpu, began = int(line), cpu_seconds(os.getpid()), time.perf_counter()
        took, signature, data = run(calls)
        wall, spent = time.perf_counter() - began, cpu_seconds(os.getpid()) - cpu
        verify_raw(key, Algorithm.ED25519, signature, data)
        print(json.dumps([len(took), wall, spent, statistics.median(took)]), flush=True)


class Way:
    """A way to ask, in a process of its own, and what each round brought."""

    def __init__(self, name: str, address: str, jwk: str) -> None:
        self.name = name
        self.rounds: list[tuple[float, float, float, float]] = []
        command = [sys.executable, __file__, "--child", name, address, jwk]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, calls: int, daemon_pid: int) -> tuple[float, float, float, float]:
        """Return p50 and CPU of the client, CPU of the daemon, all in microseconds a signature, and signatures a second."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        before = cpu_seconds(daemon_pid)
        print(calls, file=self._process.stdin, flush=True)
        count, wall, spent, p50 = json.loads(self._process.stdout.readline())
        return p50 * 1e6, spent * 1e6 / count, (cpu_seconds(daemon_pid) - before) * 1e6 / count, count / wall

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def ratio(ways: dict[str, Way], name: str, other: str, figure: int) -> float | None:
    """Return the median of the ratios of two ways, round by round; None when one of them was not measured."""
    if name not in ways or other not in ways:
        return None
    return statistics.median(a[figure] / b[figure] for a, b in zip(ways[name].rounds, ways[other].rounds, strict=True))


def main() -> int:
    """Measure and print. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=512, help="of each way, per round")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", nargs="*", default=[], help="ways whose names begin so")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return 0
    names = [name for name in WAYS if not options.only or name.startswith(tuple(options.only))]
    with daemon("") as process:
        assert process.process is not None
        with process.client() as client:
            info = client.key_info(KEY)
        assert info.active is not None
        ways = {name: Way(name, process.address, info.active.public_jwk) for name in names}
        try:
            for way in ways.values():
                way.run(options.calls, process.process.pid)  # warm
            for _ in range(options.rounds):
                for way in ways.values():
                    way.rounds.append(way.run(options.calls, process.process.pid))
        finally:
            for way in ways.values():
                way.close()
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}")
    print(f"grpcio {grpc.__version__}; the Ed25519 operation alone, in one thread: {operation():.1f} us")
    print(f"{options.rounds} rounds of {options.calls} signatures, medians\n")
    print("| | p50, us | CPU of the client, us | CPU of the daemon, us | signatures/s |\n|---|---|---|---|---|")
    for name, way in ways.items():
        p50, own, its, rate = (statistics.median(figures) for figures in zip(*way.rounds, strict=True))
        print(f"| {WAYS[name][0]} | {p50:,.0f} | {own:,.1f} | {its:,.1f} | {rate:,.0f} |")
    print()
    good = True
    for name, other, figure, what, most in RATIOS:
        found = ratio(ways, name, other, figure)
        if found is not None:
            good = good and found <= most
            print(f"{what}: {found:.3f} (at most {most:.3g}): {'ok' if found <= most else 'TOO MUCH'}")
    return 0 if good else 1


#: Two ways, which of their figures to compare, what that is, and how much it may be.
RATIOS = (
    ("sync-client", "sync-stub", 0, "Client to its stub, p50", BAR),
    ("sync-client", "sync-stub", 1, "Client to its stub, CPU", BAR),
    ("aio-client", "aio-stub", 0, "AsyncClient to its stub, p50", BAR),
    ("aio-client", "aio-stub", 1, "AsyncClient to its stub, CPU", BAR),
    ("stub-stream", "aio-stub-8", 2, "a stream to unary calls, CPU of the daemon", 1 / STREAM_BAR),
)


if __name__ == "__main__":
    sys.exit(main())
