"""Connect, gRPC-Web and plain JSON, by the Connect runtime (connectrpc.com): for browsers, curl, and whoever has no gRPC.

The runtime has its own messages; its support for those of google.protobuf is used. It echoes what does not parse, and a signature base
can hold bearer tokens: so the codecs here say nothing of it. Compression is off, as decompression is work that the sender does not do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from typing import Any

from connectrpc.code import Code
from connectrpc.codec import Codec
from connectrpc.compat import google_protobuf_binary_codec, google_protobuf_json_codec
from connectrpc.errors import ConnectError, ErrorDetail
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.request import RequestContext
from connectrpc.server import ConnectASGIApplication, Endpoint
from google.rpc import status_pb2
from protobuf import wkt

from keyd.core.errors import KeydError, MalformedError
from keyd.service.bounds import Bounds
from keyd.service.call import Call, Caller
from keyd.service.door import Callers, Door, unexpected
from keyd.service.http2.framing import STOPS, Headers, Receive, RpcError, Scope, Send
from keyd.service.http2.methods import Method
from keyd.service.status import to_status

#: By number, as google.rpc.Code has them; 0 is OK.
_CODES = (
    Code.UNKNOWN,
    Code.CANCELED,
    Code.UNKNOWN,
    Code.INVALID_ARGUMENT,
    Code.DEADLINE_EXCEEDED,
    Code.NOT_FOUND,
    Code.ALREADY_EXISTS,
    Code.PERMISSION_DENIED,
    Code.RESOURCE_EXHAUSTED,
    Code.FAILED_PRECONDITION,
    Code.ABORTED,
    Code.OUT_OF_RANGE,
    Code.UNIMPLEMENTED,
    Code.INTERNAL,
    Code.UNAVAILABLE,
    Code.DATA_LOSS,
    Code.UNAUTHENTICATED,
)
_Context = RequestContext[Any, Any]
#: Who makes the call that is served; its messages are decoded before keyd has a say.
_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)


class Connect:
    """An ASGI application. Bidirectional streams are for gRPC only: browsers and curl cannot have them."""

    def __init__(
        self, methods: Mapping[str, Method], door: Door, callers: Callers, bounds: Bounds, stopping: Callable[[], bool]
    ) -> None:
        """``stopping`` says whether calls are cancelled because keyd ends."""
        self._stopping = stopping
        self._door = door
        self._callers = callers
        self._endpoints: dict[str, Any] = {
            path: self._endpoint(method) for path, method in methods.items() if not method.asks_many
        }
        self._runtime = _Runtime(
            service=self,
            endpoints=lambda _: self._endpoints,
            read_max_bytes=bounds.max_message_bytes,
            compressions=(),
            codecs=[_Codec(each, self._hold) for each in (google_protobuf_binary_codec(), _json_codec())],
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call, or answer that there is no such method."""
        client = scope.get("client")
        caller = self._callers("" if client is None else client[0])
        _caller.set(caller)  # each call has a task of its own, and so a context
        if scope["path"] not in self._endpoints:
            self._door.hold(caller)
            await _answer(404, [], receive, send)
            return
        if scope["method"] != "POST":
            await _answer(405, [(b"allow", b"POST")], receive, send)
            return
        if not _readable(scope["headers"]):
            self._door.hold(caller)
            await _answer(415, [], receive, send)
            return
        try:
            await self._runtime(scope, receive, send)
        except OSError:
            pass  # the client has left
        except Exception:  # noqa: BLE001 - the last line of defence; the runtime has answered, or cannot
            unexpected(scope["path"])

    def _hold(self) -> None:
        self._door.hold(_caller.get())

    def _endpoint(self, method: Method) -> Endpoint[Any, Any]:
        service, _, name = method.name.rpartition(".")
        kind = StreamType.SERVER_STREAM if method.answers_many else StreamType.UNARY
        info = MethodInfo(
            name=name,
            service_name=service,
            input=method.request,
            output=method.response,
            idempotency_level=IdempotencyLevel.UNKNOWN,  # nothing by GET: that may be cached, logged and prefetched
            stream_type=kind,
        )
        if method.answers_many:
            return Endpoint.server_stream(info, self._streaming(method))
        return Endpoint.unary(info, self._unary(method))

    def _unary(self, method: Method) -> Callable[[Any, _Context], Any]:
        async def serve(request: Any, context: _Context) -> Any:
            with self._entered(method, context) as call:
                return await method.function(request, call)

        return serve

    def _streaming(self, method: Method) -> Callable[[Any, _Context], AsyncIterator[Any]]:
        async def serve(request: Any, context: _Context) -> AsyncIterator[Any]:
            with self._entered(method, context) as call:
                async with aclosing(method.function(request, call)) as responses:
                    async for response in responses:
                        yield response

        return serve

    @contextmanager
    def _entered(self, method: Method, context: _Context) -> Iterator[Call | None]:
        """Let one call in for as long as it is served, and raise what it fails with as the runtime has it."""
        call = None
        try:
            if not method.open:
                call = self._door.enter(_caller.get(), None if context.timeout_ms is None else context.timeout_ms / 1000)
            yield call
        except asyncio.CancelledError:
            if self._stopping():
                raise _to_connect(STOPS) from None
            raise
        except Exception as exc:  # noqa: BLE001 - the last line of defence
            raise _error(method, exc) from None
        finally:
            if call is not None:
                self._door.leave(call)


def _readable(headers: Headers) -> bool:
    """Say whether the runtime can make something of the headers: it raises what is no answer for those that are not text, and for other kinds of gRPC."""
    kind = b"".join(value for name, value in headers if name == b"content-type").lower()
    grpc = kind.startswith(b"application/grpc") and not kind.startswith(b"application/grpc-web")
    return not grpc and all(value.isascii() for _, value in headers)


async def _answer(status: int, headers: Headers, receive: Receive, send: Send) -> None:
    """Answer a request that is not served. It is read to its end first: some clients take an early answer for an error."""
    while (await receive()).get("more_body", False):
        pass
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


class _Runtime(ConnectASGIApplication[Connect]):
    @property
    def path(self) -> str:
        return ""


class _Codec:
    """A codec that says nothing of what it could not decode, and has its sender wait."""

    def __init__(self, codec: Codec[Any, Any], hold: Callable[[], None]) -> None:
        self._codec = codec
        self._hold = hold

    def name(self) -> str:
        return self._codec.name()

    def encode(self, message: Any) -> bytes:
        return self._codec.encode(message)

    def decode(self, data: bytes | bytearray, message_class: type[Any]) -> Any:
        try:
            return self._codec.decode(data, message_class)
        except Exception:  # noqa: BLE001 - json, recursion and protobuf have errors of their own
            self._hold()
            name = message_class.DESCRIPTOR.full_name
            raise _to_connect(to_status(MalformedError(f"the request is not a {name}"))) from None


def _json_codec() -> Codec[Any, Any]:
    """Return JSON as protobuf defines it. A field that there is none of is a mistake, and not to be passed over."""
    return google_protobuf_json_codec(ignore_unknown_fields=False)


def _error(method: Method, error: Exception) -> ConnectError:
    if isinstance(error, RpcError):
        return _to_connect(error.status)
    return _to_connect(to_status(error if isinstance(error, KeydError) else unexpected(method.name)))


def _to_connect(status: status_pb2.Status) -> ConnectError:
    details = [ErrorDetail(wkt.Any(type_url=each.type_url, value=each.value)) for each in status.details]
    return ConnectError(_CODES[status.code], status.message, details)
