"""Reflection as v1, which clients ask for first, and as v1alpha, which is all that grpcio-reflection has: the same on the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any, cast

from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection, reflection_pb2

from keyd.service.call import Call
from keyd.service.http2.methods import Method, by_path

_SERVICE: ServiceDescriptor = cast("Any", reflection_pb2.DESCRIPTOR).services_by_name["ServerReflection"]


class _Reflection:
    def __init__(self, names: Iterable[str]) -> None:
        self._servicer: Any = reflection.aio.ReflectionServicer([*names, health.SERVICE_NAME, reflection.SERVICE_NAME])

    def server_reflection_info(self, requests: AsyncIterator[Any], _: Call | None) -> Any:
        return self._servicer.ServerReflectionInfo(requests, None)  # it does not use its context


def methods(names: Iterable[str]) -> dict[str, Method]:
    """Return the methods, by path, that tell of the services with these names; v1 itself has no descriptor to show."""
    [(path, method)] = by_path({_SERVICE: _Reflection(names)}, anybody=True).items()
    return {path: method, path.replace("v1alpha", "v1"): method}
