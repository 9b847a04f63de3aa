"""What many tasks want signed at the same time, in one call: for :class:`keyd.client.AsyncClient` with ``gather``."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple

from keyd.client import calls
from keyd.v1 import signing_service_pb2 as pb

#: Calls under way at one time: with one, whoever comes while it is has to wait for two; with more, each has less in it.
_AT_ONCE = 2


class _Waiting(NamedTuple):
    request: pb.SignRequest
    end: float  # on the loop's clock
    result: asyncio.Future[pb.SignResult]


class Gatherer:
    """Sends what waits in as few calls of SignBatch as its limits allow, as soon as the tasks that are ready have had their turn.

    Nothing waits for more to come: what comes while two calls are under way goes together in the next. Each has its own result.
    """

    def __init__(self, method: Callable[..., Awaitable[pb.SignBatchResponse]]) -> None:
        """``method`` is SignBatch of the asyncio stub."""
        self._method = method
        self._waiting: deque[_Waiting] = deque()
        self._under_way: set[asyncio.Task[None]] = set()
        self._due = False
        self._one_alone = False

    def begin_alone(self) -> bool:
        """Say whether there is nothing to go with, so that the caller may as well call by itself; then :meth:`end_alone` has to follow."""
        alone = not (self._one_alone or self._waiting or self._under_way)
        self._one_alone = self._one_alone or alone
        return alone

    def end_alone(self) -> None:
        """Note that this call is over."""
        self._one_alone = False
        self._send()

    async def sign(self, request: pb.SignRequest, within: float) -> pb.SignResult:
        """Return the result of one request, which is there in ``within`` seconds or not wanted any more.

        Raises:
            TimeoutError: it was not.
            grpc.RpcError, KeydClientError: what the call came to that it went with.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(request, loop.time() + within, loop.create_future())
        self._waiting.append(waiting)
        if not self._due and self._has_room():
            self._due = True
            loop.call_soon(self._send)
        async with asyncio.timeout_at(waiting.end):
            return await waiting.result

    def _send(self) -> None:
        self._due = False
        while self._waiting and self._has_room():
            batch = list(self._taken())
            if batch:
                self._under_way.add(task := asyncio.create_task(self._call(batch)))
                task.add_done_callback(self._called)

    def _has_room(self) -> bool:
        return len(self._under_way) + self._one_alone < _AT_ONCE

    def _taken(self) -> Iterator[_Waiting]:
        """Take what goes into one call; who has gone away meanwhile is left out."""
        limits = calls.BatchLimits()
        while self._waiting and limits.take(self._waiting[0].request.ByteSize()):
            waiting = self._waiting.popleft()
            if not waiting.result.done():
                yield waiting

    def _called(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._send()

    async def _call(self, batch: list[_Waiting]) -> None:
        request = pb.SignBatchRequest(requests=[each.request for each in batch])
        left = max(0.0, max(each.end for each in batch) - asyncio.get_running_loop().time())
        try:
            results = calls.batch_messages(request, await self._method(request, timeout=left))
        except asyncio.CancelledError:  # the channel was closed
            for each in batch:
                each.result.cancel()
        except Exception as exc:  # noqa: BLE001 - it is raised where it is waited for
            for each in batch:
                if not each.result.done():
                    each.result.set_exception(exc)
        else:
            for each, result in zip(batch, results, strict=True):
                if not each.result.done():
                    each.result.set_result(result)
