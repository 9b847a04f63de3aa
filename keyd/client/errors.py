"""What the clients raise: one class for each way in which keyd says no."""

# ruff: noqa: N818 - the classes are named after the gRPC codes

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from keyd.v1 import signing_service_pb2 as pb

_DOMAIN = "keyd"
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


class KeydClientError(Exception):
    """Root of everything that keyd answers instead of a result.

    Attributes:
        code: the gRPC status code.
        reason: keyd's stable reason, such as ``COVERAGE``; empty when the answer did not come from keyd itself.
        metadata: further facts for programs, such as ``active_kid``.
    """

    def __init__(
        self,
        message: str,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.message = message
        self.code = code
        self.reason = reason
        self.metadata: Mapping[str, str] = dict(metadata or {})
        super().__init__(message, code, reason, self.metadata)  # all of them, so that it can be pickled

    def __str__(self) -> str:
        return self.message


class NotFound(KeydClientError):
    """There is no such key or version."""


class AlreadyExists(KeydClientError):
    """The name, kid or public key is taken."""


class InvalidRequest(KeydClientError):
    """The request or its input is malformed, or too large."""


class PermissionDenied(KeydClientError):
    """The rules of the key or of the caller do not allow this; :attr:`reason` says which."""


class Unauthenticated(KeydClientError):
    """keyd could not tell who calls."""


class KeyStateError(KeydClientError):
    """The key or version is in a state that does not allow this, for example rotated out."""

    @property
    def active_kid(self) -> str | None:
        """The kid that signs now, if there is one: rebuild the input for it and try once more."""
        return self.metadata.get("active_kid") or None


class ApprovalNeeded(KeydClientError):
    """A second operator has to ask for the same; metadata has ``until`` and ``requested_by``."""


class Unavailable(KeydClientError):
    """keyd, or the backend behind the key, cannot be reached."""


class ResourceExhausted(KeydClientError):
    """A rate or size limit was met, or too much is under way. Worth a retry, later."""

    @property
    def retry_after(self) -> float | None:
        """In how many seconds the rate allows the next call; None when it is not about a rate."""
        try:
            return float(self.metadata["retry_after"])
        except (KeyError, ValueError):
            return None


class DeadlineExceeded(KeydClientError):
    """There was no answer in time."""


class InternalError(KeydClientError):
    """keyd or a backend failed, or answered with something that is not right."""


_CLASSES: dict[grpc.StatusCode, type[KeydClientError]] = {
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.FAILED_PRECONDITION: KeyStateError,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.INTERNAL: InternalError,
    grpc.StatusCode.DATA_LOSS: InternalError,
}

#: Where the code alone says too little.
_CLASSES_BY_REASON: dict[str, type[KeydClientError]] = {"APPROVAL_NEEDED": ApprovalNeeded}


def from_rpc_error(error: grpc.RpcError, address: str) -> KeydClientError:
    """Return what a failed call means.

    Args:
        error: as grpc or grpc.aio raised it; its ErrorInfo is read when it is of domain "keyd".
        address: where the call went, for the message.
    """
    call: Any = error  # what is raised is always a Call, or has its methods (grpc.aio)
    code: grpc.StatusCode = call.code() or grpc.StatusCode.UNKNOWN
    details: str = call.details() or code.name
    info = _error_info(call)
    if info is not None:
        return _class_of(code, info.reason)(details, code, info.reason, info.metadata)
    return _unanswered(address, code, details)


def no_answer(address: str) -> KeydClientError:
    """Return what a call means that was waited for in vain."""
    return _unanswered(address, grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")


def from_sign_error(error: pb.SignError) -> KeydClientError:
    """Return what one failed result of a batch or stream means."""
    code = _CODES.get(error.code, grpc.StatusCode.UNKNOWN)
    return _class_of(code, error.reason)(error.message, code, error.reason, error.metadata)


def refusal_behind(error: BaseException) -> KeydClientError | None:
    """Return what keyd said where a library made an error of its own of it; None when keyd said nothing."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, KeydClientError):
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return seen


@contextlib.contextmanager
def unwrapped() -> Iterator[None]:
    """Raise what keyd said in place of what a library made of it; other errors as they are."""
    try:
        yield
    except Exception as exc:
        refusal = refusal_behind(exc)
        if refusal is None or refusal is exc:
            raise
        raise refusal from None


_HINTS = {
    grpc.StatusCode.UNAVAILABLE: "; check that the daemon runs and that KEYD_ADDRESS names its socket",
    grpc.StatusCode.DEADLINE_EXCEEDED: "; raise the client's timeout if the backend is slow",
}


def _unanswered(address: str, code: grpc.StatusCode, details: str) -> KeydClientError:
    return _class_of(code)(f"keyd at {address} did not answer the call ({code.name}): {details}{_HINTS.get(code, '')}", code)


def _class_of(code: grpc.StatusCode, reason: str = "") -> type[KeydClientError]:
    return _CLASSES_BY_REASON.get(reason) or _CLASSES.get(code, KeydClientError)


def _error_info(call: Any) -> error_details_pb2.ErrorInfo | None:
    try:
        status = rpc_status.from_call(call)
        for detail in status.details if status else ():
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info) and info.domain == _DOMAIN:
                return info
    except (ValueError, DecodeError):  # details that contradict the status are worth nothing; the status itself stands
        pass
    return None
