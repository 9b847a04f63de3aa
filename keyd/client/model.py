"""What the clients return."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature.

    Attributes:
        signature: raw octets as RFC 9421 section 3.3 and RFC 7518 section 3 define them; never DER, never text.
        kid: of the version that signed.
        version: its number.
        http_algorithm: name in the HTTP Signature Algorithms registry, such as ``ed25519``.
        jose_algorithm: name in the JOSE registry, such as ``Ed25519``.
    """

    signature: bytes
    kid: str
    version: int
    http_algorithm: str
    jose_algorithm: str


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """One key version. Times are seconds since the epoch; None lies in an open future.

    Attributes:
        version: its number, from 1.
        kid: value for ``kid`` in JOSE and ``keyid`` in RFC 9421.
        thumbprint: RFC 7638 SHA-256 thumbprint, base64url without padding.
        public_jwk: the public JWK, JSON, as it stands in the JWK Set.
        state: ``pre_activation``, ``active``, ``deactivated``, ``compromised`` or ``destroyed``.
        published: whether it is in the JWK Set.
        publish_time: when it entered, or will enter, the JWK Set.
        activate_time: when it began, or will begin, to sign by default.
        deactivate_time: when its successor takes over.
        sign_until: until when it signs what names its kid.
        unpublish_time: when it leaves the JWK Set.
    """

    version: int
    kid: str
    thumbprint: str
    public_jwk: str
    state: str
    published: bool
    publish_time: float | None
    activate_time: float | None
    deactivate_time: float | None
    sign_until: float | None
    unpublish_time: float | None

    @property
    def jwk(self) -> dict[str, Any]:
        """The public JWK (RFC 7517), a new dict each time."""
        jwk: dict[str, Any] = json.loads(self.public_jwk)
        return jwk


@dataclass(frozen=True, slots=True)
class WellKnownDocument:
    """A document that says who an issuer is, or which of its tokens are revoked, as the HTTP endpoint serves it.

    Attributes:
        host: at which it is served, in lower case.
        name: below ``/.well-known/``.
        document: JSON, UTF-8; empty where there is none now.
        etag: strong entity tag, with its quotes.
        max_age: for how many seconds it may be cached.
        failure: why there is none now; else empty.
    """

    host: str
    name: str
    document: bytes
    etag: str
    max_age: int
    failure: str = ""


@dataclass(frozen=True, slots=True)
class AgentToken:
    """An agent token for a key that is no session's.

    Attributes:
        token: in the compact form of RFC 7515; not in the repr.
        token_id: its ``jti``.
        kid: of the version that signed it.
        expires: its ``exp``, in seconds since the epoch.
        thumbprint: of the key that it binds, RFC 7638 SHA-256, base64url.
        signature_key: value of the field Signature-Key that shows it, with the label ``sig``.
    """

    token: str = field(repr=False)
    token_id: str
    kid: str
    expires: float
    thumbprint: str
    signature_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class RevokedToken:
    """A token that is no longer good. Times in seconds since the epoch.

    Attributes:
        issuer: its ``iss``.
        token_id: its ``jti``.
        expires: its ``exp``, with which it leaves the list.
        revoked: when it was revoked.
        warnings: what an operator who revoked it should know.
    """

    issuer: str
    token_id: str
    expires: float
    revoked: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ListedSession:
    """What operators see of a session: not its id, with which its owner signs, and not its token. Times in seconds since the epoch.

    Attributes:
        name: names it for operators; of no use for signing.
        kind: ``aauth``, ``lumoauth`` or ``jkt-jwt``.
        issuer_key: name of the key that signs its tokens.
        issuer: ``iss`` of its tokens.
        subject: ``sub`` of its tokens.
        parent_agent: ``sub`` of the session of which it is a sub-agent's; else empty.
        thumbprint: of its key, RFC 7638 SHA-256, base64url.
        grant: name of the grant that allowed it.
        principal: who opened it.
        created: when it was opened.
        last_used: when it was last used.
        token_expires: ``exp`` of its token.
        signatures: how many its key has made.
        tokens: how many it has had.
        renewal_error: why its token could not be renewed the last time; empty: it could.
    """

    name: str
    kind: str
    issuer_key: str
    issuer: str
    subject: str
    parent_agent: str
    thumbprint: str
    grant: str
    principal: str
    created: float
    last_used: float
    token_expires: float
    signatures: int
    tokens: int
    renewal_error: str


@dataclass(frozen=True, slots=True)
class JwkSet:
    """A JWK Set (RFC 7517 section 5) as the JWKS endpoint serves it.

    Attributes:
        document: JSON, UTF-8.
        etag: strong entity tag, with its quotes; another whenever the document is.
        max_age: for how many seconds it may be cached.
        issuers: hosts of the issuers that the daemon is configured for, by name: with the set of all published keys, all of them;
            with that of an issuer, this one.
        documents: with the set of an issuer, what is served beside it at the host of its origin.
    """

    document: bytes
    etag: str
    max_age: int
    issuers: Mapping[str, tuple[str, ...]]
    documents: tuple[WellKnownDocument, ...] = ()

    @property
    def keys(self) -> list[dict[str, Any]]:
        """The JWKs, new ones each time."""
        keys: list[dict[str, Any]] = json.loads(self.document)["keys"]
        return keys


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What an agent must know of a key before it builds an input.

    Attributes:
        name: of the key.
        jose_algorithm: name in the JOSE registry, such as ``Ed25519``.
        http_algorithm: name in the HTTP Signature Algorithms registry, such as ``ed25519``.
        purposes: of ``http``, ``jwt``, ``directory`` and ``raw``.
        active: the version that signs by default; None while the key is disabled or has none.
        versions: all that are published or may still sign, newest first.
    """

    name: str
    jose_algorithm: str
    http_algorithm: str
    purposes: frozenset[str]
    active: VersionInfo | None
    versions: tuple[VersionInfo, ...]


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session as it is now: a key in keyd's memory, and the token that binds it. Times are seconds since the epoch.

    Attributes:
        id: names it to keyd; a secret, like the token not in the repr.
        kind: ``aauth``, ``lumoauth`` or ``jkt-jwt``.
        issuer_key: name of the key that signs its tokens.
        issuer: ``iss`` of its tokens.
        subject: ``sub`` of its tokens, the agent's identifier; empty for ``jkt-jwt``.
        parent_agent: ``sub`` of the session of which it is a sub-agent's; else empty.
        http_algorithm: of the session key, such as ``ed25519``.
        jose_algorithm: of the session key, such as ``Ed25519``.
        public_jwk: the public session key, a JWK as JSON.
        thumbprint: its RFC 7638 SHA-256 thumbprint, base64url without padding.
        token: the token that is good now, compact.
        token_id: ``jti`` of the token.
        token_kid: kid of the version that signed the token.
        token_expires: ``exp`` of the token.
        renew_time: when keyd makes the next token. The session key stays; a token that was replaced is good until its own end.
        signature_key: value of the field Signature-Key, with the label ``sig``.
        agent_auth: value of the field Agent-Auth, for ``lumoauth``; else empty.
        profile: name of the profile that what is signed must meet.
    """

    id: str = field(repr=False)
    kind: str
    issuer_key: str
    issuer: str
    subject: str
    parent_agent: str
    http_algorithm: str
    jose_algorithm: str
    public_jwk: str
    thumbprint: str
    token: str = field(repr=False)
    token_id: str
    token_kid: str
    token_expires: float
    renew_time: float
    signature_key: str = field(repr=False)
    agent_auth: str = field(repr=False)
    profile: str

    @property
    def jwk(self) -> dict[str, Any]:
        """The public session key (RFC 7517), a new dict each time."""
        jwk: dict[str, Any] = json.loads(self.public_jwk)
        return jwk
