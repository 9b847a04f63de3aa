"""What is to be signed, as a grant looks at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from keyd.core.jws import JwsSigningInput
from keyd.core.model import Purpose
from keyd.core.signature_base import SignatureBase

_NOTHING: Mapping[str, str] = MappingProxyType({})
_OF_REQUEST: Mapping[str, str | bool] = MappingProxyType({"req": True})
_LONGEST_PATH, _LONGEST_CLAIM, _MOST_AUDIENCES = 1024, 256, 16


@dataclass(slots=True)
class SigningRequest:
    """One input, parsed. What it says was held to the key's profile before.

    Attributes:
        profile: name of the key's profile.
        now: seconds since the epoch.
        base: for purposes ``http`` and ``directory``.
        token: for purpose ``jwt``.
        covered: the derived components that the signature covers, by name, without ``@query-param``. They are those of the request: of this
            message, or for a response of a key directory of the one that it answers.
    """

    purpose: Purpose
    profile: str
    now: float
    base: SignatureBase | None = None
    token: JwsSigningInput | None = None
    covered: Mapping[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.covered = self._derived()

    def _derived(self) -> Mapping[str, str]:
        if self.base is None:
            return _NOTHING
        components = self.base.components
        if self.purpose is Purpose.DIRECTORY:
            return {c.name: c.value for c in components if c.name[0] == "@" and c.params == _OF_REQUEST}
        return {name: value for name, params, value, _ in components if not params and name[0] == "@"}


def authority_of(covered: Mapping[str, str]) -> str | None:
    """Return the authority that covered components name, for the record: as it is written."""
    authority = covered.get("@authority")
    if authority is None and "@target-uri" in covered:
        authority = _split(covered["@target-uri"])[0]
    return authority


def path_of(covered: Mapping[str, str]) -> str | None:
    """Return the path that covered components name, for the record: as it is written, at most 1024 characters."""
    path = covered.get("@path")
    if path is None and "@target-uri" in covered:
        path = _split(covered["@target-uri"])[1] or "/"
    return None if path is None else path[:_LONGEST_PATH]


def issuer_of(token: JwsSigningInput) -> str | None:
    """Return ``iss`` for the record, at most 256 characters; None when it is missing or no string."""
    issuer = token.claims.get("iss")
    return issuer[:_LONGEST_CLAIM] if isinstance(issuer, str) else None


def audience_of(token: JwsSigningInput) -> tuple[str, ...]:
    """Return ``aud`` for the record: at most 16 strings of at most 256 characters."""
    audience = token.claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    return tuple(aud[:_LONGEST_CLAIM] for aud in audiences[:_MOST_AUDIENCES] if isinstance(aud, str))


def _split(uri: str) -> tuple[str, str]:
    rest = uri.partition("?")[0].partition("://")[2]
    host, slash, path = rest.partition("/")
    return host, slash + path
