"""Serves the services over gRPC with grpcio.

The services are wired by their protobuf descriptors: method ``SignBatch`` of a service is served by ``sign_batch`` of its object.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_status import rpc_status

from keyd.core.errors import KeydError
from keyd.service import transport
from keyd.service.admission import methods
from keyd.service.bounds import Bounds
from keyd.service.call import Call
from keyd.service.door import Callers, Door, decoder, unexpected
from keyd.service.gate.limits import Quota
from keyd.service.status import to_status

Context = grpc.aio.ServicerContext[Any, Any]


def _options(bounds: Bounds) -> list[tuple[str, int]]:
    """Return the bounds as grpcio has them."""
    return [
        ("grpc.max_receive_message_length", bounds.max_message_bytes),
        ("grpc.max_metadata_size", bounds.max_header_bytes),
        ("grpc.max_concurrent_streams", bounds.max_streams),
        # On, it also refuses streams of clients that keep to the bound, as it counts some that are over.
        ("grpc.http.overload_protection", 0),
        ("grpc.server_handshake_timeout_ms", round(bounds.handshake_timeout * 1000)),
        ("grpc.max_connection_idle_ms", round(bounds.idle_timeout * 1000)),
        ("grpc.keepalive_time_ms", round(bounds.keepalive * 1000)),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.so_reuseport", 0),
        *([] if bounds.max_age is None else [("grpc.max_connection_age_ms", round(bounds.max_age * 1000))]),
        *([] if bounds.max_connections is None else [("grpc.max_allowed_incoming_connections", bounds.max_connections)]),
    ]


class GrpcServer:
    """A grpc.aio server for keyd's services, health and reflection."""

    def __init__(
        self,
        services: Mapping[ServiceDescriptor, object],
        callers: Callers,
        bounds: Bounds,
        calls: Quota,
        *,
        proxied: bool = False,
    ) -> None:
        """``calls`` bounds the calls under way; several servers may share it. Connections cannot be ``proxied``.

        grpcio could bound them too, but counts a call whose message has not arrived: who sends none would use up what is there for all.
        """
        self._server = grpc.aio.server(options=_options(bounds))
        door = _GrpcioDoor(callers, calls)
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
        for name, sound in transport.health(self._names, backends).items():
            await self._health.set(
                name, health_pb2.HealthCheckResponse.SERVING if sound else health_pb2.HealthCheckResponse.NOT_SERVING
            )

    async def stop(self, drain: float) -> None:
        """Take no new calls, give those under way ``drain`` seconds, then cancel them."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(drain)

    def close(self) -> None:
        """Let go of what it listens on: grpcio does when it has stopped, or is forgotten."""


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


def _handler(method: MethodDescriptor, function: Callable[..., Any], door: _GrpcioDoor) -> grpc.RpcMethodHandler[Any, Any]:
    # grpcio itself would answer a request that does not parse with UNKNOWN.
    decode, encode = decoder(method), GetMessageClass(method.output_type).SerializeToString
    if method.client_streaming:
        return grpc.stream_stream_rpc_method_handler(
            _streaming(method, function, partial(_decoded, decode, door), door), None, encode
        )
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(
            _streaming(method, function, partial(door.decoded, decode), door), None, encode
        )
    return grpc.unary_unary_rpc_method_handler(_unary(method, function, decode, door), None, encode)


async def _decoded(decode: Callable[[bytes], Any], door: Door, requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[Any]:
    async for data in requests:
        yield door.decoded(decode, data, call)


def _unary(
    method: MethodDescriptor, function: Callable[..., Any], decode: Callable[[Any], Any], door: _GrpcioDoor
) -> Callable[[Any, Context], Any]:
    async def serve(request: Any, context: Context) -> Any:
        try:
            call = door.enter_from(context)
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
    method: MethodDescriptor, function: Callable[..., AsyncIterator[Any]], decode: Callable[[Any, Call], Any], door: _GrpcioDoor
) -> Callable[[Any, Context], AsyncIterator[Any]]:
    async def serve(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            call = door.enter_from(context)
            try:
                async for response in function(decode(request, call), call):
                    yield response
            finally:
                door.leave(call)
        except KeydError as exc:
            await context.abort_with_status(rpc_status.to_status(to_status(exc)))
        except Exception:  # noqa: BLE001 - the last line of defence
            await _abort_unexpected(method.full_name, context)

    return serve


class _GrpcioDoor(Door):
    """The door, for calls as grpcio brings them."""

    def __init__(self, callers: Callers, calls: Quota) -> None:
        super().__init__(calls)
        self._callers = callers

    def enter_from(self, context: Context) -> Call:
        return self.enter(self._callers(context.peer()), context.time_remaining())

    def hold_of(self, context: Context) -> None:
        self.hold(self._callers(context.peer()))


class _Unknown(grpc.GenericRpcHandler):
    """Answers calls of methods that there are none of, as grpcio does, and leaves who makes many of them waiting."""

    def __init__(self, door: _GrpcioDoor) -> None:
        self._door = door

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        async def serve(_: AsyncIterator[bytes], context: Context) -> NoReturn:
            self._door.hold_of(context)
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")

        return grpc.stream_unary_rpc_method_handler(serve, None, None)


async def _abort_unexpected(name: str, context: Context) -> None:
    await context.abort_with_status(rpc_status.to_status(to_status(unexpected(name))))
