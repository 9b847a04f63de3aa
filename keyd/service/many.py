"""Many inputs in one call, a batch or a stream: what can be signed at once is, and only what has to wait gets a task of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial

from keyd.core.errors import KeydError
from keyd.core.guard import Guard
from keyd.service.admission import begin, refused, throttle
from keyd.service.call import Call
from keyd.service.status import to_sign_error
from keyd.v1 import signing_service_pb2 as pb

STREAM_WINDOW = 64  # signatures under way per stream

#: Signs an input and fills in the answer.
_Sign = Callable[[pb.SignResponse, pb.SignRequest, Call], Awaitable[None]]
_Request = pb.SignStreamRequest
_Response = pb.SignStreamResponse
_Event = _Request | _Response | None


class Many:
    """Signs the inputs of batches and streams. Each is decided, recorded and answered by itself."""

    def __init__(self, sign: _Sign, at_once: Callable[[str], bool], guard: Guard) -> None:
        """Take what signs one input, and what says of a key's name whether it does so without waiting for anything."""
        self._sign = sign
        self._key_at_once = at_once
        self._guard = guard

    async def batch(self, requests: Sequence[pb.SignRequest], call: Call) -> pb.SignBatchResponse:
        """Return one result each, in their order. Their rate was charged when the call came."""
        response = pb.SignBatchResponse()
        at_once = {name: self._at_once(name) for name in {each.key for each in requests}}
        pairs = [(response.results.add(), request) for request in requests]
        tasks = [asyncio.ensure_future(self._result(*pair, call)) for pair in pairs if not at_once[pair[1].key]]
        try:
            for result, request in pairs:
                if at_once[request.key]:
                    await self._result(result, request, call)
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()  # of no effect when it is done
        return response

    async def stream(self, requests: AsyncIterator[_Request], call: Call) -> AsyncIterator[_Response]:
        """Answer inputs as they come, those that have to wait when they are ready. Their rate is charged one by one, and waited for."""
        mixed = _Mixed(partial(self._read, requests, call))
        try:
            while (event := await mixed.next()) is not None:
                if isinstance(event, _Request):
                    if not self._at_once(event.request.key):
                        mixed.run(partial(self._answer, event, call))
                        continue
                    event = await self._answer(event, call)
                mixed.answered()
                yield event
        finally:
            mixed.cancel()

    def _at_once(self, key: str) -> bool:
        """Say whether an input is signed without waiting for anything. One without a key is a session's, whose key is in this process."""
        return not self._guard.records_wait and (not key or self._key_at_once(key))

    async def _read(self, requests: AsyncIterator[_Request], call: Call) -> _Request | None:
        """Return the next input of a stream once the rate has room for it; None at the end."""
        request = await anext(requests, None)
        if request is not None:
            await throttle(self._guard, call)
        return request

    async def _answer(self, request: _Request, call: Call) -> _Response:
        response = _Response(id=request.id)
        await self._result(response.result, request.request, call)
        return response

    async def _result(self, result: pb.SignResult, request: pb.SignRequest, call: Call) -> None:
        """Sign one when it is the caller's turn: few begin in each turn of the event loop, see :class:`keyd.core.turns.Pace`."""
        try:
            await begin(self._guard, self._guard.share(call.principal))
            await self._sign(result.response, request, call)
        except KeydError as exc:
            refused(self._guard, call, exc)
            result.error.CopyFrom(to_sign_error(exc))


class _Mixed:
    """The inputs of a stream, and the answers to those of them that have to wait, as each comes.

    The next inputs are read while one is signed or an answer is written: one wake of gRPC's thread then serves several of them.
    """

    def __init__(self, read: Callable[[], Awaitable[_Request | None]]) -> None:
        """``read`` returns the next input; None at the end."""
        self._read = read
        self._room = asyncio.Semaphore(STREAM_WINDOW)
        self._unanswered = 0
        self._ended = False
        self._events: asyncio.Queue[_Event | Exception] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self.run(self._read_all)

    async def next(self) -> _Event:
        """Return the next input or answer; None at the end of both. Raises what a task raised: who waits for it would wait for ever."""
        while self._unanswered or not self._ended:
            event = await self._events.get()
            if isinstance(event, Exception):
                raise event
            if event is not None:
                return event
            self._ended = True
        return None

    def answered(self) -> None:
        """Make room for another input."""
        self._unanswered -= 1
        self._room.release()

    def run(self, work: Callable[[], Awaitable[_Event]]) -> None:
        """Do something beside the others; what it returns comes from :meth:`next`."""
        self._tasks.add(task := asyncio.create_task(self._done(work)))
        task.add_done_callback(self._tasks.discard)

    def cancel(self) -> None:
        """End everything that is under way."""
        for task in self._tasks:
            task.cancel()

    async def _read_all(self) -> None:
        await self._room.acquire()
        while (request := await self._read()) is not None:
            self._unanswered += 1
            self._events.put_nowait(request)
            await self._room.acquire()

    async def _done(self, work: Callable[[], Awaitable[_Event]]) -> None:
        try:
            event: _Event | Exception = await work()
        except Exception as exc:  # noqa: BLE001 - it is raised where the events are read
            event = exc
        self._events.put_nowait(event)
