"""The one table from domain errors to gRPC codes."""

from __future__ import annotations

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from keyd.core import errors
from keyd.v1 import signing_service_pb2 as pb

DOMAIN = "keyd"
#: Some messages name what the caller sent, and they travel in headers, which are short.
MAX_MESSAGE = 1024

CODES: dict[type[errors.KeydError], grpc.StatusCode] = {
    errors.KeydError: grpc.StatusCode.INTERNAL,
    errors.MalformedError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidArgumentError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.SizeError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.RefusedError: grpc.StatusCode.PERMISSION_DENIED,
    errors.CoverageError: grpc.StatusCode.PERMISSION_DENIED,
    errors.FreshnessError: grpc.StatusCode.PERMISSION_DENIED,
    errors.KeyIdError: grpc.StatusCode.PERMISSION_DENIED,
    errors.AlgorithmError: grpc.StatusCode.PERMISSION_DENIED,
    errors.TagError: grpc.StatusCode.PERMISSION_DENIED,
    errors.PurposeError: grpc.StatusCode.PERMISSION_DENIED,
    errors.GrantError: grpc.StatusCode.PERMISSION_DENIED,
    errors.AuthorityError: grpc.StatusCode.PERMISSION_DENIED,
    errors.MethodError: grpc.StatusCode.PERMISSION_DENIED,
    errors.PathError: grpc.StatusCode.PERMISSION_DENIED,
    errors.IssuerError: grpc.StatusCode.PERMISSION_DENIED,
    errors.AudienceError: grpc.StatusCode.PERMISSION_DENIED,
    errors.BindingError: grpc.StatusCode.PERMISSION_DENIED,
    errors.ClaimsError: grpc.StatusCode.PERMISSION_DENIED,
    errors.UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    errors.RateError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.AuditError: grpc.StatusCode.UNAVAILABLE,
    errors.ApprovalError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.SessionError: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    errors.KeyStateError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ConflictError: grpc.StatusCode.ABORTED,
    errors.ClockError: grpc.StatusCode.UNAVAILABLE,
    errors.DestructionPendingError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.BackendFailedError: grpc.StatusCode.INTERNAL,
    errors.BackendUnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.BackendRefusedError: grpc.StatusCode.UNAVAILABLE,
    errors.OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.StoreUnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.StorageFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


def code_number(error: errors.KeydError) -> int:
    """Return the google.rpc.Code of an error."""
    number, _ = CODES[type(error)].value
    return int(number)


def to_status(error: errors.KeydError) -> status_pb2.Status:
    """Return an error as google.rpc.Status with an ErrorInfo (google.rpc error model)."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    detail = any_pb2.Any()
    detail.Pack(info)
    return status_pb2.Status(code=code_pb2.Code.ValueType(code_number(error)), message=_message(error), details=[detail])


def to_sign_error(error: errors.KeydError) -> pb.SignError:
    """Return an error as one result of a batch or stream."""
    return pb.SignError(code=code_number(error), reason=error.reason, message=_message(error), metadata=error.metadata)


def _message(error: errors.KeydError) -> str:
    message = str(error)
    return message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]}..."
