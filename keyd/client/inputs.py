"""What can be signed. The kinds are disjoint by their form, so that none passes for another."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

_JWS_SIGNING_INPUT = re.compile(rb"eyJ[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*")


class InputKind(enum.Enum):
    """Kind of an input; the value is its field in the API."""

    SIGNATURE_BASE = "signature_base"
    JWS_SIGNING_INPUT = "jws_signing_input"
    MESSAGE = "message"


@dataclass(frozen=True, slots=True)
class SignInput:
    """One thing to sign, in a batch or stream.

    Attributes:
        key: name of the key.
        data: the whole input, never a digest; at most 64 KiB.
        kind: what ``data`` is.
        kid: sign with this version; None for the active one.
    """

    key: str
    data: bytes
    kind: InputKind = InputKind.SIGNATURE_BASE
    kid: str | None = None


def kind_of(data: bytes) -> InputKind:
    """Return what bytes that a library wants signed are, by their form.

    RFC 9421 section 2.5: a signature base starts with a double quote. RFC 7515 section 5.1: a JWS signing input is two
    base64url parts, and its header, a JSON object with a member, starts ``eyJ``. Everything else is a message, which only a
    key with purpose raw signs.
    """
    if data.startswith(b'"'):
        return InputKind.SIGNATURE_BASE
    if _JWS_SIGNING_INPUT.fullmatch(data):
        return InputKind.JWS_SIGNING_INPUT
    return InputKind.MESSAGE
