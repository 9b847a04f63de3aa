"""The methods that are served, each with what there is to know of it, by path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from keyd.service import admission
from keyd.service.door import decoder


@dataclass(frozen=True, slots=True)
class Method:
    """One method.

    Attributes:
        name: of the service and the method, as ``keyd.v1.SigningService.Sign``.
        function: ``async def f(request, call)``; an async generator if ``answers_many``; with an iterator of requests if ``asks_many``.
        decode: parses a request; raises MalformedError.
        open: anybody may call it who reaches the socket, and it is not counted; ``call`` is None.
    """

    name: str
    function: Callable[[Any, Any], Any]
    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]
    request: type[Any]
    response: type[Any]
    asks_many: bool
    answers_many: bool
    open: bool = False


def by_path(services: Mapping[ServiceDescriptor, object], *, anybody: bool = False) -> dict[str, Method]:
    """Return the methods of services that are wired by their descriptors: ``SignBatch`` is ``sign_batch``.

    Args:
        anybody: may call them without being let in or counted.
    """
    return {
        f"/{descriptor.full_name}/{method.name}": _described(method, getattr(implementation, name), anybody)
        for descriptor, implementation in services.items()
        for method, name in admission.methods(descriptor)
    }


def _described(method: MethodDescriptor, function: Callable[[Any, Any], Any], anybody: bool) -> Method:
    response = GetMessageClass(method.output_type)
    return Method(
        method.full_name,
        function,
        decoder(method),
        response.SerializeToString,
        GetMessageClass(method.input_type),
        response,
        method.client_streaming,
        method.server_streaming,
        anybody,
    )
