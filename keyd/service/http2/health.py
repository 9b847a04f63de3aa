"""grpc.health.v1, for a server that is not grpcio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, NoReturn, cast

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2

from keyd.service.call import Call
from keyd.service.http2.framing import RpcError

SERVICE: ServiceDescriptor = cast("Any", health_pb2.DESCRIPTOR).services_by_name["Health"]
_SERVING, _NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """What is served, and who watches it. It is the implementation of :data:`SERVICE`, which anybody may call."""

    def __init__(self) -> None:
        self._states: dict[str, Any] = {"": _SERVING}
        self._changed = asyncio.Event()
        self._stopping = False

    async def check(self, request: health_pb2.HealthCheckRequest, _: Call | None) -> health_pb2.HealthCheckResponse:
        """Say how a service is. Raises RpcError: there is none of that name."""
        if request.service not in self._states:
            raise RpcError(grpc.StatusCode.NOT_FOUND, "there is no such service")
        return health_pb2.HealthCheckResponse(status=self._states[request.service])

    async def list(self, request: object, _: Call | None) -> NoReturn:
        """Refuse: it would tell the names of the backends to everybody."""
        raise RpcError(grpc.StatusCode.UNIMPLEMENTED, "Method not implemented!")  # as grpcio has it

    async def watch(
        self, request: health_pb2.HealthCheckRequest, _: Call | None
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Say how a service is, now and whenever that changes."""
        told: int | None = None
        while True:
            changed = self._changed
            state = self._states.get(request.service, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
            if state != told:
                yield health_pb2.HealthCheckResponse(status=state)
                told = state
            await changed.wait()

    def set(self, sound: Mapping[str, bool]) -> None:
        """Say which services are sound. While keyd stops, none is."""
        self._states |= {name: _SERVING if right and not self._stopping else _NOT_SERVING for name, right in sound.items()}
        self._changed.set()
        self._changed = asyncio.Event()

    def stop(self) -> None:
        """Say of every service that it is not sound any more."""
        self._stopping = True
        self.set(dict.fromkeys(self._states, False))
