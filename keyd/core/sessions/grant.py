"""What a grant says about sessions and agent tokens. Values only."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

from keyd.core import globs

#: A claim's value, as the configuration and callers may have it.
Claim = str | int | bool | list[str]


class SessionKind(enum.Enum):
    """What kind of token binds the key of a session."""

    AAUTH = "aauth"
    LUMOAUTH = "lumoauth"
    JKT_JWT = "jkt-jwt"


@dataclass(frozen=True)
class SessionGrant:
    """Which sessions and agent tokens a grant allows. What the keys of those sessions sign, the grant's other limits say.

    Attributes:
        issuer_keys: globs of key names: whose tokens.
        kinds: of tokens.
        subjects: globs of agent identifiers, where ``*`` is any text; the token says one of them as ``sub``.
        person_server: the claim ``ps``; None: there is none.
        claims: further claims that every token has.
        caller_claims: names of claims that the caller may add.
        audiences: values of ``aud`` that a LumoAuth token may have; None: any.
        max_token_lifetime: in seconds.
        max_sessions: open at once, for each principal.
        sub_agents: sessions may have sub-agents, whose identifiers are among ``subjects`` too.
        foreign_keys: tokens may bind keys that are not in keyd.
    """

    issuer_keys: tuple[str, ...]
    kinds: frozenset[SessionKind] = frozenset({SessionKind.AAUTH})
    subjects: tuple[str, ...] = ()
    person_server: str | None = None
    claims: Mapping[str, Claim] = field(default_factory=lambda: MappingProxyType({}))
    caller_claims: frozenset[str] = frozenset()
    audiences: frozenset[str] | None = None
    max_token_lifetime: float = 3600.0
    max_sessions: int = 16
    sub_agents: bool = False
    foreign_keys: bool = False

    def has_issuer_key(self, name: str) -> bool:
        """Say whether a key may sign the tokens."""
        return len(name) <= 63 and any(matches(name) for matches in self._issuer_key_matchers)

    def has_subject(self, subject: str) -> bool:
        """Say whether a token may have this ``sub``."""
        return any(matches(subject) for matches in self._subject_matchers)

    @cached_property
    def _issuer_key_matchers(self) -> tuple[globs.Matcher, ...]:
        return tuple(globs.matcher(glob) for glob in self.issuer_keys)

    @cached_property
    def _subject_matchers(self) -> tuple[globs.Matcher, ...]:
        return tuple(globs.matcher(glob) for glob in self.subjects)
