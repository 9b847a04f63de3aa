"""Operators' calls: each needs a grant, some need a second operator, and each leaves a record before and after."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from keyd.core.errors import AuditError
from keyd.core.guard import Guard, finish
from keyd.core.sessions.session import SESSION_NAME
from keyd.service.admission import methods
from keyd.service.call import Call
from keyd.v1.key_service_pb2 import PlanRotationsRequest
from keyd.v1.session_service_pb2 import RevokeSessionRequest, RevokeTokenRequest

_LONGEST_ID = 128


def for_operators(descriptor: ServiceDescriptor, implementation: object, guard: Guard) -> object:
    """Return the service with every call of it checked and recorded.

    The first record says who may do what, or why not, and is written before anything is done. The second says how it ended.
    """
    return SimpleNamespace(**{name: _guarded(getattr(implementation, name), name, guard) for _, name in methods(descriptor)})


def _guarded(function: Callable[..., Any], operation: str, guard: Guard) -> Callable[..., Any]:
    async def serve(request: Message, call: Call) -> Any:
        await _decide(request, call, operation, guard)
        # What is begun is done to its end even if the caller goes away, so how it ended is recorded then as well.
        return await asyncio.shield(asyncio.ensure_future(work(request, call)))

    async def work(request: Message, call: Call) -> Any:
        outcome = guard.decision(call.principal, operation, _key(request))
        outcome.version = _version(request, None)
        try:
            response = await function(request, call)
        except BaseException as exc:
            await guard.refuse(outcome, exc)
            raise
        outcome.version = _version(request, response)
        outcome.detail = f"done{_about(request)}{_told(outcome.version)}"
        await finish(guard.record(outcome))
        return response

    return serve


async def _decide(request: Message, call: Call, operation: str, guard: Guard) -> None:
    principal, policy, key = call.principal, guard.policy, _key(request)
    decision = guard.decision(principal, operation, key)
    decision.version = _version(request, None)
    decision.detail = f"asked for{_about(request)}"
    digest = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
    try:
        decision.grant = policy.rights(principal).operate(operation, key).name
        if operation in policy.dual_control:
            first = guard.approvals.approve(
                operation, digest, principal, policy.approval_window, lambda other: policy.rights(other).may(operation, key)
            )
            decision.detail = f"asked for{_about(request)}, as {first} did before"
    except BaseException as exc:
        try:
            await guard.refuse(decision, exc)
        except AuditError:
            guard.approvals.withdraw(operation, digest)  # who asked first and is not on record did not ask
            raise
        raise
    await finish(guard.record(decision))


def _key(request: Message) -> str | None:
    """Return the name of the key that a request is about; None when it is about none."""
    fields = request.DESCRIPTOR.fields_by_name
    holder: Any = getattr(request, "spec") if "spec" in fields else request  # noqa: B009 - not every message has one
    if "name" not in holder.DESCRIPTOR.fields_by_name or (isinstance(request, PlanRotationsRequest) and not request.name):
        return None
    return str(holder.name)


def _about(request: Message) -> str:
    """Return what a call is about that names no key: a session or a token."""
    if isinstance(request, RevokeSessionRequest):
        # What is no name may be the id of a session, with which its owner signs.
        return (
            f" for session {request.session}" if SESSION_NAME.fullmatch(request.session) else " for a session, by no name of one"
        )
    if isinstance(request, RevokeTokenRequest):
        return f" for token {request.token_id[:_LONGEST_ID]} of {request.issuer[:_LONGEST_ID]}"
    return ""


def _version(request: Any, response: Any) -> int | None:
    """Return the number of the version that a call was about, or has made."""
    for message in (request, response):
        if message is not None and "version" in message.DESCRIPTOR.fields_by_name:
            return int(message.version)
    return None


def _told(version: int | None) -> str:
    return "" if version is None else f", version {version}"
