"""Admission: what each call of any service passes first, before anything of it is looked at."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from keyd.core.errors import KeydError, RateError
from keyd.core.guard import Guard
from keyd.service.call import Call


def admitted(descriptor: ServiceDescriptor, implementation: object, guard: Guard) -> object:
    """Return the service with its calls counted and held to the rate of who makes them; see :class:`keyd.core.guard.Guard`."""
    return SimpleNamespace(**{name: _admitted(method, name, implementation, guard) for method, name in methods(descriptor)})


def methods(descriptor: ServiceDescriptor) -> list[tuple[MethodDescriptor, str]]:
    """Return the methods of a service, each with the name that its function has: ``SignBatch`` is ``sign_batch``."""
    return [(method, re.sub(r"(?<=[a-z])(?=[A-Z])", "_", method.name).lower()) for method in descriptor.methods]


def refused(guard: Guard, call: Call, error: KeydError) -> None:
    """Charge for a refusal, and stop reading from who sends too much, so that it waits at its own end."""
    if isinstance(error, RateError):
        call.caller.hold_back(guard.hold(call.principal, error))
    else:
        guard.charge_refusal(call.principal, error)


async def begin(guard: Guard, share: str) -> None:
    """Wait until it is the turn of a call of this share to begin."""
    turn = guard.pace.begin(share)
    if turn is not None:
        await turn


async def charge(guard: Guard, call: Call, operation: str, cost: int = 1) -> None:
    """Take ``cost`` from what the caller may ask. Raises RateError."""
    wait = guard.over_rate(call.principal, cost)
    if wait:
        await guard.refuse_rate(call.principal, operation, wait)


async def throttle(guard: Guard, call: Call) -> None:
    """Wait until the caller may ask for one more. For streams: what is not read yet waits at the caller's own end."""
    while wait := guard.over_rate(call.principal):  # noqa: ASYNC110 - time is what it waits for
        await asyncio.sleep(wait)


def _admitted(method: MethodDescriptor, name: str, implementation: object, guard: Guard) -> Callable[..., Any]:
    function = getattr(implementation, name)
    return _streaming(function, name, guard) if method.server_streaming else _unary(function, name, guard)


def _unary(function: Callable[..., Any], name: str, guard: Guard) -> Callable[..., Any]:
    of_batch = name == "sign_batch"

    async def serve(request: Any, call: Call) -> Any:
        principal = call.caller.principal
        counted = guard.begin_call(principal)
        try:
            turn = guard.pace.begin(counted)
            if turn is not None:
                await turn
            wait = guard.over_rate(principal, max(1, len(request.requests)) if of_batch else 1)
            if wait:
                await guard.refuse_rate(principal, name, wait)
            return await function(request, call)
        except KeydError as exc:
            refused(guard, call, exc)
            raise
        finally:
            guard.end_call(counted)

    return serve


def _streaming(function: Callable[..., AsyncIterator[Any]], name: str, guard: Guard) -> Callable[..., AsyncIterator[Any]]:
    async def serve(request: Any, call: Call) -> AsyncIterator[Any]:
        counted = guard.begin_call(call.principal)
        try:
            await begin(guard, counted)
            await charge(guard, call, name)
            answers = function(request, call)
            try:
                async for response in answers:
                    yield response
            finally:
                await answers.aclose()  # type: ignore[attr-defined]  # each is an async generator
        except KeydError as exc:
            refused(guard, call, exc)
            raise
        finally:
            guard.end_call(counted)

    return serve
