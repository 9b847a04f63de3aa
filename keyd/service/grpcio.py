"""Serves the services over gRPC with grpcio.

The services are wired by their protobuf descriptors: method ``SignBatch`` of a service is served by ``sign_batch`` of its object.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import grpc
import grpc.aio
import structlog
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_status import rpc_status

from keyd.core.errors import KeydError, MalformedError, OverloadedError, UnauthenticatedError
from keyd.core.rates import Holds
from keyd.service.admission import methods
from keyd.service.call import Call, Caller
from keyd.service.gate.limits import Quota
from keyd.service.status import to_status

Context = grpc.aio.ServicerContext[Any, Any]
#: Says who is at the other end of a connection, by the name that grpcio has for it; None: unknown, and so refused.
Callers = Callable[[str], Caller | None]
_log = structlog.get_logger("keyd.grpc")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one connection may cost. Sizes in bytes, times in seconds.

    Attributes:
        max_streams: calls at one time.
        handshake_timeout: until the client has sent its SETTINGS.
        idle_timeout: without a call, until the connection is closed; a stream that is open is one.
        keepalive: without a word, until the other end is asked whether it is there.
        max_age: until a connection gets no new calls, give or take a tenth; it ends with its last one. None: never.
        max_connections: connections at one time, beyond which further ones are closed at once. None: whoever listens in front counts them.
    """

    max_message_bytes: int = 1024 * 1024
    max_streams: int = 64
    handshake_timeout: float = 10.0
    idle_timeout: float = 1800.0
    keepalive: float = 60.0
    max_age: float | None = None
    max_connections: int | None = None

    def to_options(self) -> list[tuple[str, int]]:
        """Return them as grpcio has them."""
        return [
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.max_metadata_size", 16 * 1024),
            ("grpc.max_concurrent_streams", self.max_streams),
            # On, it also refuses streams of clients that keep to the bound, as it counts some that are over.
            ("grpc.http.overload_protection", 0),
            ("grpc.server_handshake_timeout_ms", round(self.handshake_timeout * 1000)),
            ("grpc.max_connection_idle_ms", round(self.idle_timeout * 1000)),
            ("grpc.keepalive_time_ms", round(self.keepalive * 1000)),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.so_reuseport", 0),
            *([] if self.max_age is None else [("grpc.max_connection_age_ms", round(self.max_age * 1000))]),
            *([] if self.max_connections is None else [("grpc.max_allowed_incoming_connections", self.max_connections)]),
        ]


class GrpcServer:
    """A grpc.aio server for keyd's services, health and reflection."""

    def __init__(self, services: Mapping[ServiceDescriptor, object], callers: Callers, bounds: Bounds, calls: Quota) -> None:
        """``calls`` bounds the calls under way; several servers may share it.

        grpcio could bound them too, but counts a call whose message has not arrived: who sends none would use up what is there for all.
        """
        self._server = grpc.aio.server(options=bounds.to_options())
        door = _Door(callers, calls)
        self._health = health.aio.HealthServicer()
        for descriptor, implementation in services.items():
            handlers = {
                method.name: _handler(method, getattr(implementation, name), door) for method, name in methods(descriptor)
            }
            generic = grpc.method_handlers_generic_handler(descriptor.full_name, handlers)
            self._server.add_generic_rpc_handlers((generic,))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._names = [descriptor.full_name for descriptor in services]
        self._server.add_generic_rpc_handlers(_reflection([*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME]))
        self._server.add_generic_rpc_handlers((_Unknown(door),))  # the last that is asked

    def listen(self, address: str) -> None:
        """Bind one address, such as ``unix:/run/keyd/keyd.sock``. Raises RuntimeError when it cannot be bound."""
        self._server.add_insecure_port(address)

    async def start(self) -> None:
        """Serve."""
        await self._server.start()

    async def report(self, backends: Mapping[str, bool]) -> None:
        """Say which backends are sound (grpc.health.v1): each as ``keyd.backend.NAME``; the services are as long as one is."""
        states = {f"keyd.backend.{name}": sound for name, sound in backends.items()}
        states |= dict.fromkeys(("", *self._names), any(backends.values()))
        for name, sound in states.items():
            await self._health.set(
                name, health_pb2.HealthCheckResponse.SERVING if sound else health_pb2.HealthCheckResponse.NOT_SERVING
            )

    async def stop(self, drain: float) -> None:
        """Take no new calls, give those under way ``drain`` seconds, then cancel them."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(drain)


def _reflection(names: list[str]) -> list[grpc.GenericRpcHandler]:
    """Serve reflection as v1, which clients ask for first, and as v1alpha, which is all that grpcio-reflection has: the same on the wire.

    v1 is not among the services that it lists: there is no descriptor of it to show.
    """
    handler = grpc.stream_stream_rpc_method_handler(
        reflection.aio.ReflectionServicer(names).ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    services = ("grpc.reflection.v1.ServerReflection", reflection.SERVICE_NAME)
    return [grpc.method_handlers_generic_handler(service, {"ServerReflectionInfo": handler}) for service in services]


def _handler(method: MethodDescriptor, function: Callable[..., Any], door: _Door) -> grpc.RpcMethodHandler[Any, Any]:
    decode, encode = _decoder(method), GetMessageClass(method.output_type).SerializeToString
    if method.client_streaming:
        return grpc.stream_stream_rpc_method_handler(_streaming(method, function, partial(_decoded, decode), door), None, encode)
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(_streaming(method, function, decode, door), None, encode)
    return grpc.unary_unary_rpc_method_handler(_unary(method, function, decode, door), None, encode)


def _decoder(method: MethodDescriptor) -> Callable[[bytes], Any]:
    """Return what parses the requests of a method. grpcio itself would answer a request that does not parse with UNKNOWN."""
    parse = GetMessageClass(method.input_type).FromString

    def decode(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError:
            raise MalformedError(f"the request is not a {method.input_type.full_name}") from None

    return decode


async def _decoded(decode: Callable[[bytes], Any], requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    async for data in requests:
        yield decode(data)


def _unary(
    method: MethodDescriptor, function: Callable[..., Any], decode: Callable[[Any], Any], door: _Door
) -> Callable[[Any, Context], Any]:
    async def serve(request: Any, context: Context) -> Any:
        try:
            call = door.enter(context)
            try:
                return await function(door.decoded(decode, request, call), call)
            finally:
                door.leave(call)
        except KeydError as exc:
            await context.abort_with_status(rpc_status.to_status(to_status(exc)))
        except Exception:  # noqa: BLE001 - the last line of defence
            await _abort_unexpected(method.full_name, context)

    return serve


def _streaming(
    method: MethodDescriptor, function: Callable[..., AsyncIterator[Any]], decode: Callable[[Any], Any], door: _Door
) -> Callable[[Any, Context], AsyncIterator[Any]]:
    async def serve(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            call = door.enter(context)
            try:
                async for response in function(door.decoded(decode, request, call), call):
                    yield response
            finally:
                door.leave(call)
        except KeydError as exc:
            await context.abort_with_status(rpc_status.to_status(to_status(exc)))
        except Exception:  # noqa: BLE001 - the last line of defence
            await _abort_unexpected(method.full_name, context)

    return serve


class _Unknown(grpc.GenericRpcHandler):
    """Answers calls of methods that there are none of, as grpcio does, and leaves who makes many of them waiting."""

    def __init__(self, door: _Door) -> None:
        self._door = door

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        async def serve(_: AsyncIterator[bytes], context: Context) -> NoReturn:
            self._door.hold(context)
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")

        return grpc.stream_unary_rpc_method_handler(serve, None, None)


class _Door:
    """What every call comes through."""

    def __init__(self, callers: Callers, calls: Quota) -> None:
        self._callers = callers
        self._calls = calls
        self._holds = Holds()

    def enter(self, context: Context) -> Call:
        """Let one call in, and count it until :meth:`leave`."""
        caller = self._callers(context.peer())
        if caller is None:
            raise UnauthenticatedError("keyd does not know who calls; connect to the socket that its configuration names")
        if not self._calls.enter(caller.principal.account):
            raise OverloadedError("too many calls under way; try again later, or see max_calls_per_caller in [connections]")
        return Call.of(caller, context.time_remaining())

    def decoded(self, decode: Callable[[Any], Any], request: Any, call: Call) -> Any:
        """Return the request. Who sends what is none has used up nothing of its rate yet, and so is not listened to for a while."""
        try:
            return decode(request)
        except MalformedError:
            self._hold(call.caller)
            raise

    def hold(self, context: Context) -> None:
        """Do not listen for a while to who makes this call, which is none."""
        caller = self._callers(context.peer())
        if caller is not None:
            self._hold(caller)

    def _hold(self, caller: Caller) -> None:
        caller.hold_back(self._holds.after_refusal(caller.principal.account, 0.0))

    def leave(self, call: Call) -> None:
        """Note that a call is over."""
        self._calls.leave(call.principal.account)


async def _abort_unexpected(name: str, context: Context) -> None:
    """Answer a defect of keyd's own without a word of what was in hand, and log where it happened."""
    _log.exception("unexpected error", method=name)
    await context.abort_with_status(
        rpc_status.to_status(to_status(KeydError("unexpected error; the daemon's log has the details")))
    )
