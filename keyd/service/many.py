"""Many inputs in one call, a batch or a stream: what can be signed at once is, and only what has to wait gets a task of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any

from keyd.core.errors import KeydError
from keyd.core.guard import Guard
from keyd.service.admission import begin, refused, throttle
from keyd.service.call import Call
from keyd.service.status import to_sign_error
from keyd.v1 import signing_service_pb2 as pb

STREAM_WINDOW = 64  # signatures under way per stream

_Sign = Callable[[pb.SignRequest, Call], Awaitable[pb.SignResponse]]
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

    async def batch(self, requests: Sequence[pb.SignRequest], call: Call) -> list[pb.SignResult]:
        """Return one result each, in their order. Their rate was charged when the call came."""
        at_once = {name: self._at_once(name) for name in {each.key for each in requests}}
        tasks = {n: asyncio.ensure_future(self._result(each, call)) for n, each in enumerate(requests) if not at_once[each.key]}
        results: dict[int, pb.SignResult] = {}
        try:
            for number, request in enumerate(requests):
                if number not in tasks:
                    results[number] = await self._result(request, call)
            if tasks:
                results.update(zip(tasks, await asyncio.gather(*tasks.values()), strict=True))
        finally:
            for task in tasks.values():
                task.cancel()  # of no effect when it is done
        return [results[number] for number in range(len(requests))]

    async def stream(self, requests: AsyncIterator[_Request], call: Call) -> AsyncIterator[_Response]:
        """Answer inputs as they come, those that have to wait when they are ready. Their rate is charged one by one, and waited for."""
        mixed = _Mixed(lambda: self._read(requests, call))
        try:
            while (event := await mixed.next()) is not None:
                if isinstance(event, _Response):
                    yield event
                elif self._at_once(event.request.key):
                    yield await self._answer(event, call)
                else:
                    mixed.start(self._answer(event, call))
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
        return _Response(id=request.id, result=await self._result(request.request, call))

    async def _result(self, request: pb.SignRequest, call: Call) -> pb.SignResult:
        """Sign one when it is the caller's turn: few begin in each turn of the event loop, see :class:`keyd.core.turns.Pace`."""
        try:
            await begin(self._guard, self._guard.share(call.principal))
            return pb.SignResult(response=await self._sign(request, call))
        except KeydError as exc:
            refused(self._guard, call, exc)
            return pb.SignResult(error=to_sign_error(exc))


class _Mixed:
    """The inputs of a stream, and the answers to those of them that have to wait, as each comes.

    Nothing but the reading itself is done while nothing waits: no task, no queue.
    """

    def __init__(self, read: Callable[[], Coroutine[Any, Any, _Request | None]]) -> None:
        self._read = read
        self._reading = self._ended = False
        self._unanswered = 0
        self._ready: asyncio.Queue[_Event | Exception] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()

    async def next(self) -> _Event:
        """Return the next input or answer; None at the end of both. Raises what a task raised: who waits for it would wait for ever."""
        while self._unanswered or not self._ended:
            if not self._unanswered and not self._reading:
                event: _Event | Exception = await self._read()
            else:
                if not (self._ended or self._reading) and self._unanswered < STREAM_WINDOW:
                    self._reading = True
                    self._run(self._read())
                event = await self._ready.get()
            if isinstance(event, Exception):
                raise event
            if isinstance(event, _Response):
                self._unanswered -= 1
                return event
            self._reading = False
            if event is not None:
                return event
            self._ended = True
        return None

    def start(self, answering: Coroutine[Any, Any, _Response]) -> None:
        """Have an input answered beside what is read."""
        self._unanswered += 1
        self._run(answering)

    def cancel(self) -> None:
        """End everything that is under way."""
        for task in self._tasks:
            task.cancel()

    def _run(self, work: Coroutine[Any, Any, _Event]) -> None:
        self._tasks.add(task := asyncio.create_task(self._done(work)))
        task.add_done_callback(self._tasks.discard)

    async def _done(self, work: Coroutine[Any, Any, _Event]) -> None:
        try:
            event: _Event | Exception = await work
        except Exception as exc:  # noqa: BLE001 - it is raised where the events are read
            event = exc
        self._ready.put_nowait(event)
