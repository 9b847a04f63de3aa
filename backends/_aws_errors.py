"""What the AWS SDK raises, as backend errors."""

from __future__ import annotations

import os

from botocore import exceptions as sdk
from botocore.exceptions import ClientError

from backends.errors import (
    BackendAccessError,
    BackendError,
    BackendFullError,
    BackendThrottledError,
    BackendUnavailableError,
    KeyExistsError,
    KeyNotFoundError,
    UnsupportedAlgorithmError,
)

#: The credentials are no longer good, or not known yet; others may be.
STALE_CREDENTIALS = frozenset(
    {"ExpiredTokenException", "ExpiredToken", "UnrecognizedClientException", "InvalidClientTokenId", "RequestExpired"}
)
THROTTLING = frozenset(
    {
        "BandwidthLimitExceeded",
        "LimitExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "Throttling",
        "ThrottledException",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_UNAVAILABLE = frozenset(
    {
        "DependencyTimeoutException",
        "InternalFailure",
        "KeyUnavailableException",
        "KMSInternalException",
        "RequestTimeout",
        "ServiceUnavailable",
        "ServiceUnavailableException",
    }
)
_REFUSED = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NotAuthorized",
        "OptInRequired",
        "SignatureDoesNotMatch",
    }
)
_WRONG_MATERIAL = frozenset({"InvalidKeyUsageException", "UnsupportedOperationException"})
# The error does not say what it lacks, so it is one of these when the SDK looks for credentials and finds none that work.
_NO_CREDENTIALS = (
    sdk.NoCredentialsError,
    sdk.PartialCredentialsError,
    sdk.CredentialRetrievalError,
    sdk.TokenRetrievalError,
    sdk.SSOError,
    sdk.ProfileNotFound,
    sdk.ConfigNotFound,
    sdk.ConfigParseError,
    sdk.InvalidConfigError,
    sdk.UnknownCredentialError,
    sdk.InfiniteLoopConfigError,
)
_TOO_MANY_REQUESTS = 429


class WrongStateError(BackendUnavailableError):
    """The key is in a state in which KMS does not do this; only its description says in which."""


def error_code(error: ClientError) -> str:
    """Return what KMS or STS calls the error."""
    return str(error.response.get("Error", {}).get("Code", ""))


def translate(error: Exception, what: str) -> BackendError:
    """Return the backend error for one of the SDK. ``what`` names the key or the place that the call was about."""
    if isinstance(error, BackendError):
        return error
    if isinstance(error, ClientError):
        return _from_answer(error, what)
    if isinstance(error, _NO_CREDENTIALS):
        return BackendAccessError(f"no usable AWS credentials ({type(error).__name__}); give the daemon a role or a profile")
    if isinstance(error, OSError) and not isinstance(error, sdk.BotoCoreError):  # some errors of the SDK are both
        reason = os.strerror(error.errno or 0)
        return BackendAccessError(f"cannot read the file that AWS credentials come from: {reason}; check its path and owner")
    if isinstance(error, RuntimeError):  # so the SDK says that what it got to replace expired credentials has expired too
        return BackendAccessError("the AWS credentials have expired and so have those that replace them; check their source")
    if isinstance(error, sdk.ParamValidationError | sdk.EndpointResolutionError):
        return BackendError(f"the AWS SDK refuses the call for {what} ({type(error).__name__}); check region and endpoint_url")
    return BackendUnavailableError(f"no answer from KMS for {what} ({type(error).__name__}); check the network and the endpoint")


def _from_answer(error: ClientError, what: str) -> BackendError:
    code, operation = error_code(error), error.operation_name
    if code == "LimitExceededException" and operation in ("CreateKey", "CreateAlias"):
        return BackendFullError(f"a quota of KMS is used up, {operation} for {what} is refused; raise it or delete keys")
    if code == "NotFoundException" or code == "InvalidArnException":
        return KeyNotFoundError(f"there is no {what} in KMS")
    if code == "AlreadyExistsException":
        return KeyExistsError(f"{what} is there already")
    if code == "DisabledException":
        return BackendAccessError(f"{what} is disabled; enable it in KMS")
    if code == "KMSInvalidStateException":
        return WrongStateError(f"{what} is in a state in which KMS refuses {operation}")
    if code in _WRONG_MATERIAL:
        return UnsupportedAlgorithmError(f"{what} is not for {operation} with this algorithm ({code})")
    if code in STALE_CREDENTIALS:
        return BackendAccessError(f"AWS does not take the credentials ({code}); renew them where they come from")
    if operation == "AssumeRole" and code in _REFUSED:
        return BackendAccessError(f"the credentials may not assume the role ({code}); check its trust policy and external_id")
    if code in _REFUSED:
        return BackendAccessError(f"{what}: {operation} is refused ({code}); see `keyd backend policy aws`")
    return _from_status(error, code, what)


def _from_status(error: ClientError, code: str, what: str) -> BackendError:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in THROTTLING or status == _TOO_MANY_REQUESTS:
        return BackendThrottledError(f"KMS asks for fewer calls ({code}); raise the request quota or sign less")
    if code in _UNAVAILABLE or status >= 500:
        return BackendUnavailableError(f"KMS fails at {error.operation_name} of {what} ({code})")
    if status in (401, 403):
        return BackendAccessError(f"{what}: {error.operation_name} is refused ({code}); check credentials and proxies")
    return BackendError(f"KMS refuses {error.operation_name} of {what} ({code}); see the documentation of this error")
