"""What the return values of PKCS#11 functions (PKCS#11 v3.1 section 5.1.6) mean for keyd."""

from __future__ import annotations

import re

from pkcs11 import exceptions as p11

from backends.errors import (
    BackendAccessError,
    BackendError,
    BackendFullError,
    BackendThrottledError,
    BackendUnavailableError,
    UnsupportedAlgorithmError,
)

#: An object was destroyed, or its token is gone; some tokens know the first name only, some the second.
OBJECT_GONE = (p11.ObjectHandleInvalid, p11.KeyHandleInvalid)
#: The token refused the PIN, or refuses every PIN from now on.
PIN_REFUSED = (p11.PinIncorrect, p11.PinInvalid, p11.PinLenRange, p11.PinExpired, p11.PinLocked, p11.UserPinNotInitialized)

# What opening the module again may mend.
_BROKEN = (
    *OBJECT_GONE,
    p11.DeviceError,
    p11.DeviceRemoved,
    p11.FunctionFailed,
    p11.GeneralError,
    p11.HostMemory,
    p11.OperationActive,
    p11.OperationNotInitialized,
    p11.SessionClosed,
    p11.SessionHandleInvalid,
    p11.SlotIDInvalid,
    p11.TokenNotPresent,
    p11.TokenNotRecognised,
    p11.UserNotLoggedIn,
)
_CANNOT = (
    p11.DomainParamsInvalid,
    p11.FunctionNotSupported,
    p11.KeySizeRange,
    p11.KeyTypeInconsistent,
    p11.MechanismInvalid,
    p11.MechanismParamInvalid,
)
# Return values that the library has no class for.
_UNMAPPED = {0x68: "CKR_KEY_FUNCTION_NOT_PERMITTED", 0x140: "CKR_CURVE_NOT_SUPPORTED"}
_NOT_INITIALIZED = "CKR_CRYPTOKI_NOT_INITIALIZED"
_VENDOR_DEFINED = 0x80000000


class StoreDoubtError(Exception):
    """The token shows less than it did, or is not there: no proof that anything was destroyed."""


def code(error: p11.PKCS11Error) -> str:
    """Return the name that the standard gives to a return value."""
    if type(error) is not p11.PKCS11Error:
        words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(error).__name__)
        return f"CKR_{words.upper()}"
    value = _unmapped(error)
    if value is not None:
        return _UNMAPPED.get(value, f"return value {value:#x}")
    return _NOT_INITIALIZED if "not initialized" in str(error) else "an unknown error"


def is_broken(error: p11.PKCS11Error) -> bool:
    """Say whether opening the module again may mend this. Modules of network HSMs report lost links by codes of their own."""
    value = _unmapped(error)
    return isinstance(error, _BROKEN) or code(error) == _NOT_INITIALIZED or (value is not None and value >= _VENDOR_DEFINED)


def translate(error: p11.PKCS11Error, action: str) -> BackendError:
    """Return the backend error for a return value; ``action`` is the start of its message."""
    message = f"{action}: {code(error)}"
    if is_broken(error):
        return BackendUnavailableError(message)
    if isinstance(error, _CANNOT) or code(error) == _UNMAPPED[0x140]:
        return UnsupportedAlgorithmError(f"{message}; the token does not do this, leave it out of the field algorithms")
    if isinstance(error, p11.SessionCount):
        return BackendThrottledError(f"{message}; the token has no session left, lower the field threads")
    if isinstance(error, p11.DeviceMemory):
        return BackendFullError(f"{message}; the token has no room for another object")
    if isinstance(error, (p11.TokenWriteProtected, p11.SessionReadOnly)):
        return BackendAccessError(f"{message}; the token is write-protected")
    if code(error) == _UNMAPPED[0x68]:
        return BackendAccessError(f"{message}; the token does not let this key sign, set its CKA_SIGN")
    return BackendError(message)


def _unmapped(error: p11.PKCS11Error) -> int | None:
    match = re.search(r"error code (0x[0-9a-fA-F]+)", str(error)) if type(error) is p11.PKCS11Error else None
    return int(match[1], 16) if match else None
