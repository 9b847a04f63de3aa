"""``[sessions]``, and ``sessions`` of ``[grants.NAME]``: keys in memory, and the tokens that bind them."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from keyd.config.durations import Duration
from keyd.config.section import Section
from keyd.core import authorities
from keyd.core.sessions.book import Limits
from keyd.core.sessions.grant import Claim, SessionGrant, SessionKind

_GLOB = re.compile(r"[A-Za-z0-9._\-*?]{1,255}")
_SUBJECT = re.compile(r"[!-~]{1,255}")
_CLAIM = re.compile(r"[A-Za-z][A-Za-z0-9._:/\-]{0,62}")
#: Claims that keyd itself writes, or that say what only another issuer can say.
RESERVED_CLAIMS = frozenset({"iss", "dwk", "sub", "jti", "cnf", "iat", "exp", "nbf", "ps", "parent_agent", "aud"})


def https_origin(value: str) -> str:
    """Return a server identifier of AAuth draft -11: ``https://host``, in lower case, nothing behind. Raises ValueError."""
    parts = urlsplit(value)
    if parts.scheme != "https" or value != f"https://{parts.netloc}" or value != value.lower() or ":" in parts.netloc:
        raise ValueError('an origin is written "https://host", in lower case, without port, path and slash at the end')
    authorities.check(parts.netloc)
    if "*" in parts.netloc:
        raise ValueError("an origin is written out; there are no wildcards here")
    return value


def _glob(value: str) -> str:
    if not _GLOB.fullmatch(value):
        raise ValueError("a glob of key names has A-Z a-z 0-9 . _ - and the signs * and ?")
    return value


def _subject(value: str) -> str:
    if not _SUBJECT.fullmatch(value):
        raise ValueError('an agent identifier has 1 to 255 visible ASCII characters, such as "aauth:shop@agents.example"')
    return value


def _claim_name(value: str) -> str:
    if not _CLAIM.fullmatch(value):
        raise ValueError("a claim's name starts with a letter and has at most 63 letters, digits, and . _ : / -")
    if value.lower() in RESERVED_CLAIMS:
        raise ValueError("keyd writes this claim itself, or another field here says what it is")
    return value


_Some = Field(min_length=1, max_length=256)
_Origin = Annotated[str, AfterValidator(https_origin)]
_ClaimName = Annotated[str, AfterValidator(_claim_name)]


class GrantSessions(Section):
    """``sessions`` of a grant. Durations in seconds."""

    issuer_keys: Annotated[tuple[Annotated[str, AfterValidator(_glob)], ...], _Some]
    kinds: Annotated[frozenset[SessionKind], _Some] = frozenset({SessionKind.AAUTH})
    subjects: Annotated[tuple[Annotated[str, AfterValidator(_subject)], ...], Field(max_length=256)] = ()
    person_server: _Origin | None = None
    claims: Annotated[dict[_ClaimName, Claim], Field(max_length=32)] = Field(default_factory=dict)
    caller_claims: Annotated[frozenset[_ClaimName], Field(max_length=32)] = frozenset()
    audiences: Annotated[frozenset[Annotated[str, AfterValidator(_subject)]], _Some] | None = None
    max_token_lifetime: Annotated[Duration, Field(ge=60, le=86400)] = 3600.0
    max_sessions: Annotated[int, Field(ge=1, le=100_000)] = 16
    sub_agents: bool = False
    foreign_keys: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> GrantSessions:
        if not self.subjects and self.kinds != {SessionKind.JKT_JWT}:
            raise ValueError('subjects is missing: which agents are these? for example ["aauth:shop@agents.example"]')
        if self.audiences is not None and SessionKind.LUMOAUTH not in self.kinds:
            raise ValueError("audiences limits nothing without kind lumoauth: tokens of the others have no aud")
        if self.person_server is not None and SessionKind.AAUTH not in self.kinds:
            raise ValueError("person_server says nothing without kind aauth")
        if not self.caller_claims.isdisjoint(self.claims):
            raise ValueError("a claim is in claims and in caller_claims; leave it out of one of them")
        return self

    def to_grant(self) -> SessionGrant:
        """Return it as the core has it."""
        return SessionGrant(**{**dict(self), "claims": MappingProxyType(self.claims)})


class Sessions(Section):
    """``[sessions]``: what bounds them. Durations in seconds."""

    max_sessions: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    idle_timeout: Annotated[Duration, Field(ge=60, le=30 * 86400)] = 2 * 3600.0

    def to_limits(self) -> Limits:
        """Return them as the core has them."""
        return Limits(self.max_sessions, self.idle_timeout)
