"""``[issuers.NAME.agent]`` and ``[issuers.NAME.resource]``: what an issuer says of itself beside its keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from keyd.config.section import Section
from keyd.core import authorities
from keyd.core.documents import AGENT, LUMOAUTH_AGENT, LUMOAUTH_RESOURCE, RESOURCE

_VISIBLE = re.compile(r"[!-~]{1,2048}")
_COMPONENT = re.compile(r"@?[a-z0-9][a-z0-9\-]{0,62}")
_SCOPE = re.compile(r"[!#-\[\]-~]{1,128}")  # RFC 6749 section 3.3
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:\-]{0,62}")


def _https(value: str) -> str:
    if not _VISIBLE.fullmatch(value):
        raise ValueError("a URL has at most 2048 visible ASCII characters")
    parts = urlsplit(value)
    if parts.scheme != "https" or not parts.hostname or "@" in parts.netloc:
        raise ValueError("a URL here begins with https://, and has a host and no user")
    authorities.check(parts.hostname if ":" not in parts.hostname else f"[{parts.hostname}]")
    return value


def _endpoint(value: str) -> str:
    if "?" in _https(value) or "#" in value:
        raise ValueError("an endpoint has neither query nor fragment")
    return value


def _matching(pattern: re.Pattern[str], message: str) -> AfterValidator:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(message)
        return value

    return AfterValidator(check)


_Url = Annotated[str, AfterValidator(_https)]
_Endpoint = Annotated[str, AfterValidator(_endpoint)]
_Words = Annotated[str, Field(min_length=1, max_length=200)]
_Markdown = Annotated[str, Field(min_length=1, max_length=4096)]
_Some = Field(min_length=1, max_length=64)
#: Fully specified names of the JOSE registry for signatures with public keys; draft -11 allows no others.
_ALGORITHMS = frozenset(
    {"Ed25519", "Ed448", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"}
    | {"ML-DSA-44", "ML-DSA-65", "ML-DSA-87"}
)


def _algorithm(value: str) -> str:
    if value not in _ALGORITHMS:
        raise ValueError(f"an algorithm here is named in full, one of {', '.join(sorted(_ALGORITHMS))}")
    return value


_Scope = Annotated[str, _matching(_SCOPE, "a scope has visible ASCII characters without quotes and backslashes")]
_Component = Annotated[str, _matching(_COMPONENT, 'a component is named as in RFC 9421, without quotes: "content-digest"')]
_Name = Annotated[str, _matching(_NAME, "a name here has A-Z a-z 0-9 . _ : -")]


class _Metadata(Section):
    """What every metadata document of draft -11 may have."""

    name: _Words | None = None
    description: _Markdown | None = None
    logo_uri: _Url | None = None
    logo_dark_uri: _Url | None = None
    documentation_uri: _Url | None = None
    tos_uri: _Url | None = None
    policy_uri: _Url | None = None
    accept_signature_algs: Annotated[tuple[Annotated[str, AfterValidator(_algorithm)], ...], _Some] | None = None


class AgentMetadata(_Metadata):
    """``[issuers.NAME.agent]``: the issuer is an agent provider."""

    callback_endpoint: _Endpoint | None = None
    event_endpoint: _Endpoint | None = None
    localhost_callback_allowed: bool | None = None
    capabilities: Annotated[tuple[_Name, ...], _Some] | None = None

    def documents(self) -> dict[str, Mapping[str, object]]:
        """Return what its documents have beside issuer and keys, by name."""
        return _both(self, AGENT, LUMOAUTH_AGENT, "capabilities")


class ResourceMetadata(_Metadata):
    """``[issuers.NAME.resource]``: the issuer is a resource."""

    access_mode: Literal["agent-token", "person-token", "session-token", "auth-token", "per-call"] | None = None
    authorization_endpoint: _Endpoint | None = None
    revocation_endpoint: _Endpoint | None = None
    scope_descriptions: Annotated[dict[_Scope, _Markdown], _Some] | None = None
    signature_window: Annotated[int, Field(ge=1, le=3600)] | None = None
    additional_signature_components: Annotated[tuple[_Component, ...], _Some] | None = None
    auth_levels: Annotated[tuple[Literal["none", "authenticated", "authorized", "user"], ...], _Some] | None = None

    def documents(self) -> dict[str, Mapping[str, object]]:
        """Return what its documents have beside issuer and keys, by name."""
        return _both(self, RESOURCE, LUMOAUTH_RESOURCE, "auth_levels")


def _both(section: Section, draft: str, lumoauth: str, only_lumoauth: str) -> dict[str, Mapping[str, object]]:
    members: dict[str, Any] = section.model_dump(mode="json", exclude_none=True)
    return {draft: {name: value for name, value in members.items() if name != only_lumoauth}, lumoauth: members}
