"""The load of ``keyd bench``: calls of one asyncio client for a time that is set, and what came of them."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from keyd.client import AsyncClient, InputKind, KeydClientError, SignInput
from keyd.client.errors import ResourceExhausted
from keyd.client.model import Signature

SAMPLE = 50  # signatures that are kept and verified afterwards
_PAUSE = 0.05  # seconds after an error, so that what is refused is not asked for in a tight circle


@dataclass
class Tally:
    """What came of a run. Latencies are of calls, in seconds.

    Attributes:
        sample: inputs with what was returned for them, from the whole of the run.
    """

    signatures: int = 0
    latencies: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    sample: list[tuple[bytes, Signature]] = field(default_factory=list)
    seconds: float = 0.0
    cpu: float = 0.0
    _stride: int = 1

    def take(self, data: bytes, result: Signature | KeydClientError) -> None:
        """Count a result, and keep it now and then."""
        if isinstance(result, KeydClientError):
            self.errors[result.reason or result.code.name] += 1
            return
        if self.signatures % self._stride == 0:
            self.sample.append((data, result))
            if len(self.sample) >= 2 * SAMPLE:  # every other one, and from now on half as often
                self.sample, self._stride = self.sample[::2], self._stride * 2
        self.signatures += 1

    def latency(self, share: float) -> float:
        """Return the nearest rank; 0 where there is none."""
        ordered = sorted(self.latencies)
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


@dataclass(frozen=True)
class Load:
    """What to do.

    Attributes:
        make: returns another input of this kind each time; takes seconds since the epoch.
        concurrency: calls, or inputs of the stream, under way at one time.
        batch: inputs in one call; 0: one, without a batch.
        stream: one stream in place of calls.
    """

    key: str
    kind: InputKind
    make: Callable[[float], bytes]
    seconds: float
    concurrency: int
    batch: int = 0
    stream: bool = False

    async def run(self, client: AsyncClient, advance: Callable[[float], object]) -> Tally:
        """Call for so long and not longer: what is under way then is given up, and does not count.

        Args:
            advance: is told ten times a second how many seconds have gone by.
        """
        tally, began, cpu = Tally(), time.perf_counter(), time.process_time()
        work = [self._stream] if self.stream else [self._batches if self.batch else self._calls] * self.concurrency
        tasks = [asyncio.create_task(each(client, tally)) for each in work]
        try:
            while (left := began + self.seconds - time.perf_counter()) > 0:
                done, _ = await asyncio.wait(tasks, timeout=min(0.1, left), return_when=asyncio.FIRST_EXCEPTION)
                advance(time.perf_counter() - began)
                for task in done:
                    task.result()
            tally.seconds, tally.cpu = time.perf_counter() - began, time.process_time() - cpu
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return tally

    def _input(self) -> SignInput:
        return SignInput(self.key, self.make(time.time()), self.kind)

    async def _calls(self, client: AsyncClient, tally: Tally) -> None:
        while True:
            item, began = self._input(), time.perf_counter()
            try:
                signature = await client.sign(item)
            except KeydClientError as error:
                await _refused(error, item.data, tally)
            else:
                tally.latencies.append(time.perf_counter() - began)
                tally.take(item.data, signature)

    async def _batches(self, client: AsyncClient, tally: Tally) -> None:
        while True:
            items, began = [self._input() for _ in range(self.batch)], time.perf_counter()
            try:
                results = await client.sign_batch(items)
            except KeydClientError as error:
                await _refused(error, items[0].data, tally)
                continue
            tally.latencies.append(time.perf_counter() - began)
            await _settle(items, results, tally)

    async def _stream(self, client: AsyncClient, tally: Tally) -> None:
        room = asyncio.Semaphore(self.concurrency)
        under_way: dict[int, tuple[bytes, float]] = {}

        async def inputs() -> AsyncIterator[SignInput]:
            position = 0
            while True:
                await room.acquire()
                item = self._input()
                under_way[position] = (item.data, time.perf_counter())
                position += 1
                yield item

        async for position, result in client.sign_stream(inputs()):
            data, began = under_way.pop(position)
            tally.take(data, result)
            if isinstance(result, Signature):
                tally.latencies.append(time.perf_counter() - began)
            else:
                await asyncio.sleep(_pause(result))
            room.release()


async def _settle(items: Sequence[SignInput], results: Sequence[Signature | KeydClientError], tally: Tally) -> None:
    for item, result in zip(items, results, strict=True):
        tally.take(item.data, result)
    errors = [result for result in results if isinstance(result, KeydClientError)]
    if errors:
        await asyncio.sleep(max(_pause(error) for error in errors))


async def _refused(error: KeydClientError, data: bytes, tally: Tally) -> None:
    tally.take(data, error)
    await asyncio.sleep(_pause(error))


def _pause(error: KeydClientError) -> float:
    wait = error.retry_after if isinstance(error, ResourceExhausted) else None
    return max(_PAUSE, wait or 0.0)
