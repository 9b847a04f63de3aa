"""The errors that the core raises. ``keyd.service.status`` gives each its gRPC code.

Messages are for people and may be sent to the caller: they name keys, kids and rules, and never quote a signature base,
a token or key material.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class KeydError(Exception):
    """Root of the domain errors.

    Attributes:
        reason: stable, machine-readable; part of the API.
        metadata: further facts for programs, for example ``active_kid``.
    """

    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.metadata: Mapping[str, str] = metadata


class MalformedError(KeydError):
    """The input is not what its kind says: not a signature base, not a JWS signing input, not a claims object."""

    reason = "MALFORMED"


class InvalidArgumentError(KeydError):
    """A field of the request is missing or wrong."""

    reason = "INVALID_ARGUMENT"


class SizeError(KeydError):
    """The input is larger than keyd or the backend takes."""

    reason = "SIZE"


class RefusedError(KeydError):
    """The input is well formed, and the rules do not let this key sign it."""

    reason = "REFUSED"


class CoverageError(RefusedError):
    """Required components are not covered, or forbidden ones are."""

    reason = "COVERAGE"


class FreshnessError(RefusedError):
    """``created``, ``expires``, ``iat`` or ``exp`` are missing or outside of their window."""

    reason = "FRESHNESS"


class KeyIdError(RefusedError):
    """The input names another key than the one that was asked to sign it."""

    reason = "KEYID"


class AlgorithmError(RefusedError):
    """The input names another algorithm than the key's."""

    reason = "ALGORITHM"


class TagError(RefusedError):
    """The ``tag`` or ``typ`` is not one that this key signs."""

    reason = "TAG"


class PurposeError(RefusedError):
    """The key does not have the purpose that this input needs."""

    reason = "PURPOSE"


class GrantError(RefusedError):
    """No grant lets this caller do this. Also where there is no such key: who has no grant for a name learns nothing of it."""

    reason = "GRANT"


class AuthorityError(RefusedError):
    """The request is for an authority that the caller's grant does not have, or does not say for which."""

    reason = "AUTHORITY"


class MethodError(RefusedError):
    """The request has a method that the caller's grant does not have, or does not say which."""

    reason = "METHOD"


class PathError(RefusedError):
    """The request is for a path that the caller's grant does not have, or does not say for which."""

    reason = "PATH"


class IssuerError(RefusedError):
    """The token has an issuer that the caller's grant does not have, or none."""

    reason = "ISSUER"


class AudienceError(RefusedError):
    """The token has an audience that the caller's grant does not have, or none."""

    reason = "AUDIENCE"


class BindingError(RefusedError):
    """``Signature-Key`` binds another key than the one that was asked to sign, or nothing that the profile takes."""

    reason = "BINDING"


class ClaimsError(RefusedError):
    """The token lacks claims that the profile wants one of its type to have."""

    reason = "CLAIMS"


class UnauthenticatedError(KeydError):
    """Who calls is not known."""

    reason = "UNAUTHENTICATED"


class RateError(KeydError):
    """The caller is over its rate. Metadata has ``retry_after``, in seconds."""

    reason = "RATE"


class AuditError(KeydError):
    """The decision cannot be recorded, so nothing is signed or changed."""

    reason = "AUDIT_UNAVAILABLE"


class ApprovalError(KeydError):
    """A second operator has to ask for the same before it is done."""

    reason = "APPROVAL_NEEDED"


class NotFoundError(KeydError):
    """There is no such key or version."""

    reason = "NOT_FOUND"


class SessionError(KeydError):
    """The caller has no such session here: it ended, this daemon was started anew, or it is another caller's. Open another one."""

    reason = "SESSION"


class AlreadyExistsError(KeydError):
    """The name, kid or public key is taken."""

    reason = "ALREADY_EXISTS"


class KeyStateError(KeydError):
    """The key or version is in a state that does not allow this. Metadata has ``active_kid`` where there is one."""

    reason = "KEY_STATE"


class ConflictError(KeydError):
    """Another replica changed the key meanwhile, again and again. Nothing was done; worth a retry."""

    reason = "CONFLICT"


class ClockError(KeydError):
    """The clock of this machine cannot be right, so nothing that depends on it is done."""

    reason = "CLOCK"


class DestructionPendingError(KeydError):
    """The backend destroys the versions of a key oldest first, and an older one is still there."""

    reason = "DESTRUCTION_PENDING"


class BackendFailedError(KeydError):
    """The backend answered with something that is not right; nothing of it was passed on."""

    reason = "BACKEND_FAILED"


class BackendUnavailableError(KeydError):
    """The backend cannot be reached or took too long. Worth a retry."""

    reason = "BACKEND_UNAVAILABLE"


class BackendRefusedError(BackendUnavailableError):
    """The backend refuses the daemon, for one key or altogether. For callers the same; an operator has to act."""

    reason = "BACKEND_REFUSED"


class OverloadedError(KeydError):
    """Too much is under way already, or the backend throttles. Worth a retry, later."""

    reason = "OVERLOADED"


class StoreUnavailableError(KeydError):
    """The metadata database does not take the change. Signing goes on."""

    reason = "STORE_UNAVAILABLE"


class StorageFullError(KeydError):
    """There is no room on the disk for the change. Signing goes on."""

    reason = "STORAGE_FULL"
