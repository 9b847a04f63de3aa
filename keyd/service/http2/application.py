"""The ASGI application: gRPC by own, short means, as every signature goes through here; everything else by the Connect runtime."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

import grpc

from keyd.core.errors import KeydError
from keyd.service.bounds import Bounds
from keyd.service.call import Call, Caller
from keyd.service.door import Callers, Door, unexpected
from keyd.service.http2 import framing
from keyd.service.http2.connect import Connect
from keyd.service.http2.deadlines import Deadlines
from keyd.service.http2.framing import Answer, Gone, Receive, RpcError, Scope, Send
from keyd.service.http2.methods import Method
from keyd.service.status import to_status

# Not exceptions: one that is raised again and again keeps every frame that it went through.
_DEADLINE = grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline of the call has passed"
_NO_METHOD = grpc.StatusCode.UNIMPLEMENTED, "Method not found!"  # as grpcio has it
_COMPRESSED = grpc.StatusCode.UNIMPLEMENTED, "keyd takes no compressed messages; send them with grpc-encoding identity"
#: gRPC proper, of protobuf; the server lets other kinds through as well.
_GRPC = (b"application/grpc", b"application/grpc+proto")
_READ = frozenset((b"content-type", b"grpc-timeout", b"grpc-encoding"))
_ACCEPTED = (b"grpc-accept-encoding", b"identity")


class Application:
    """Serves calls as an HTTP/2 server brings them: each in a task that the server cancels when its client resets or leaves it."""

    def __init__(self, methods: Mapping[str, Method], door: Door, callers: Callers, bounds: Bounds) -> None:
        """``callers`` says who calls by the address that the server has of the connection, or by "" if it has none."""
        self._methods = methods
        self._door = door
        self._callers = callers
        self._limit = bounds.max_message_bytes
        self._connect = Connect(methods, door, callers, bounds, lambda: self._stopping)
        self._under_way: set[asyncio.Task[Any]] = set()
        self._stopping = False
        self._deadlines = Deadlines()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call."""
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        headers = {name: value for name, value in scope["headers"] if name in _READ}
        serve = self._connect if headers.get(b"content-type") not in _GRPC else partial(self._serve, headers)
        task = self._task()
        self._under_way.add(task)
        try:
            await serve(scope, receive, send)
        finally:
            self._under_way.discard(task)

    def cancel(self) -> None:
        """Have the calls that are under way end, with UNAVAILABLE."""
        self._stopping = True
        for task in self._under_way:
            task.cancel()

    def _task(self) -> asyncio.Task[Any]:
        """Return the task of this call. To ask for the loop each time costs a system call in Python 3.11."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        task = asyncio.current_task(self._loop)
        assert task is not None
        return task

    async def _serve(self, headers: Mapping[bytes, bytes], scope: Scope, receive: Receive, send: Send) -> None:
        answer = Answer(send)
        try:
            fields = await self._refused(headers, scope, receive, answer)
            if fields is not None:
                await answer.finish(fields)
        except Gone:
            pass

    async def _refused(
        self, headers: Mapping[bytes, bytes], scope: Scope, receive: Receive, answer: Answer
    ) -> framing.Headers | None:
        """Answer the call, or return with what it is refused."""
        try:
            await self._in_time(self._method(scope, headers), receive, answer, self.caller(scope), headers.get(b"grpc-timeout"))
            return None
        except RpcError as exc:
            return _fields(exc)
        except KeydError as exc:
            return framing.status_fields(to_status(exc))
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            return framing.status_fields(framing.STOPS)
        except Gone:
            raise
        except Exception:  # noqa: BLE001 - the last line of defence
            return framing.status_fields(to_status(unexpected(scope["path"])))

    def _method(self, scope: Scope, headers: Mapping[bytes, bytes]) -> Method:
        """Return what is called. Who calls what there is none of is left waiting."""
        method = self._methods.get(scope["path"])
        if method is None:
            self._door.hold(self.caller(scope))
            raise RpcError(*_NO_METHOD)
        if headers.get(b"grpc-encoding", b"identity") != b"identity":
            raise RpcError(*_COMPRESSED)
        return method

    def caller(self, scope: Scope) -> Caller | None:
        """Return who is at the other end; None: nobody that was let in."""
        client = scope.get("client")
        return self._callers("" if client is None else client[0])

    async def _in_time(
        self, method: Method, receive: Receive, answer: Answer, caller: Caller | None, patience: bytes | None
    ) -> None:
        """Serve the call, for as long as its caller waits, in the words of ``grpc-timeout``."""
        if patience is None:
            await self._answered(method, receive, answer, caller, None)
            return
        seconds = framing.parse_timeout(patience)
        task = self._task()
        self._deadlines.set(task, task.get_loop().time() + seconds)
        try:
            await self._answered(method, receive, answer, caller, seconds)
        except asyncio.CancelledError:
            if not self._deadlines.passed(task):
                raise
            task.uncancel()
            raise RpcError(*_DEADLINE) from None
        finally:
            self._deadlines.drop(task)

    async def _answered(
        self, method: Method, receive: Receive, answer: Answer, caller: Caller | None, seconds: float | None
    ) -> None:
        # The message first: who sends none must not use up what there is of calls under way.
        if method.asks_many:
            request: Any = framing.read_messages(receive, self._limit)
        else:
            request = await framing.read_message(receive, self._limit)
        if method.open:
            await self._answers(method, request, None, answer)
            return
        call = self._door.enter(caller, seconds)
        try:
            await self._answers(method, request, call, answer)
        finally:
            self._door.leave(call)

    async def _answers(self, method: Method, request: Any, call: Call | None, answer: Answer) -> None:
        if method.asks_many:
            requests: Any = self._decoded(method, request, call)
        else:
            requests = self._decode(method, request, call)
        if not method.answers_many:
            await answer.only(method.encode(await method.function(requests, call)))
            return
        async with aclosing(method.function(requests, call)) as responses:
            async for response in responses:
                await answer.message(method.encode(response))
        await answer.finish()

    async def _decoded(self, method: Method, requests: AsyncIterator[bytes], call: Call | None) -> AsyncIterator[Any]:
        async for request in requests:
            yield self._decode(method, request, call)

    def _decode(self, method: Method, request: bytes, call: Call | None) -> Any:
        return method.decode(request) if call is None else self._door.decoded(method.decode, request, call)


def _fields(error: RpcError) -> framing.Headers:
    fields = framing.status_fields(error.status)
    return [*fields, _ACCEPTED] if error.status.code == grpc.StatusCode.UNIMPLEMENTED.value[0] else fields
