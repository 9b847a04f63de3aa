"""Logging in to PKCS#11 tokens, which lock themselves after a few wrong PINs: a PIN that was refused is never tried again."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Any

from pkcs11 import TokenFlag
from pkcs11 import exceptions as p11

from backends._pkcs11_errors import PIN_REFUSED, StoreDoubtError, code
from backends._pkcs11_module import MAPPER, Module
from backends.errors import BackendAccessError, BackendConfigError
from backends.secrets import SecretRef

_KEY = os.urandom(32)  # what is remembered of a PIN is of no use outside this process


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One PIN at one token."""

    module: str
    serial: bytes
    label: str
    pin: bytes


_refused: dict[_Attempt, str] = {}


def log_in(module: Module, token: Any, pin: SecretRef) -> Any:
    """Return the read-write session that is logged in to a token. Call it under the module's mutex.

    The login belongs to the token, for all sessions of the process: closing this session would log out all of them. So there is
    one per token and generation, shared by the backends, that only the module's end closes.

    Raises:
        BackendAccessError: the token refuses the PIN, or did before, or is locked or close to it.
        BackendConfigError: the PIN cannot be read, or another backend uses the token with another one.
        StoreDoubtError: another token than before is in the slot.
        pkcs11.exceptions.PKCS11Error: anything else.
    """
    text = _text(pin)
    attempt = _Attempt(module.path, token.serial, token.label, hashlib.blake2b(text.encode(), key=_KEY).digest())
    slot = token.slot.slot_id
    if slot in module.logins:
        session, other = module.logins[slot]
        if other.serial != attempt.serial:
            raise StoreDoubtError(f"the token {other.label!r} was replaced by another")
        if other != attempt:
            raise BackendConfigError(f"two backends use the token {token.label!r} with different PINs; one of them is wrong")
        return session
    if attempt in _refused:
        raise BackendAccessError(_refused[attempt])
    _check_tries(token)
    try:
        session = token.open(rw=True, user_pin=text, attribute_mapper=MAPPER)
    except PIN_REFUSED as error:
        _refused[attempt] = (
            f"the token {token.label!r} refuses the PIN in the {pin} ({code(error)}); "
            "it is not tried again, for the token may lock itself: correct it and restart keyd"
        )
        raise BackendAccessError(_refused[attempt]) from error
    except p11.UserAlreadyLoggedIn as error:
        raise BackendConfigError(
            f"something else in this process is logged in to the token {token.label!r}, so the PIN cannot be checked; remove it"
        ) from error
    module.logins[slot] = (session, attempt)
    return session


def _check_tries(token: Any) -> None:
    """Refuse to use up the last try: a supervisor that restarts keyd would lock the token."""
    if token.flags & TokenFlag.USER_PIN_LOCKED:
        raise BackendAccessError(f"the PIN of the token {token.label!r} is locked; unlock it with the security officer's PIN")
    if token.flags & TokenFlag.USER_PIN_FINAL_TRY:
        raise BackendAccessError(
            f"one more wrong PIN would lock the token {token.label!r}; log in once by hand, for example with "
            "pkcs11-tool --login, and restart keyd"
        )


def _text(pin: SecretRef) -> str:
    try:
        return pin.read_line().reveal().decode()
    except UnicodeDecodeError:  # the cause would show bytes of the PIN
        raise BackendConfigError(f"the PIN in the {pin} is not UTF-8; write it again") from None
