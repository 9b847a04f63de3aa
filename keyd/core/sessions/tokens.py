"""Agent tokens: what stands in them. Pure; :mod:`keyd.core.sessions.issuing` has them signed.

Three kinds: ``aa-agent+jwt`` of AAuth draft -11 (draft-hardt-oauth-aauth-protocol), ``agent+jwt`` of LumoAuth, and the self-issued
``jkt-s256+jwt`` of draft-hardt-httpbis-signature-key-08.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from backends.api import Algorithm
from keyd.core import jwk, jws, material
from keyd.core.errors import InvalidArgumentError
from keyd.core.sessions.grant import SessionKind

#: ``typ`` of each kind.
TYPES: Mapping[SessionKind, str] = {
    SessionKind.AAUTH: "aa-agent+jwt",
    SessionKind.LUMOAUTH: "agent+jwt",
    SessionKind.JKT_JWT: "jkt-s256+jwt",
}
#: Label of the signature that ``Signature-Key`` is for.
LABEL = "sig"
#: An agent identifier of AAuth draft -11.
_AGENT = re.compile(r"aauth:([A-Za-z0-9_+.\-]{1,255})@([a-z0-9](?:[a-z0-9.\-]{0,253}[a-z0-9])?)")
_VISIBLE = re.compile(r"[!-~]{1,517}")
_MAX_JWK = 2048


@dataclass(frozen=True)
class Bound:
    """The key that a token binds.

    Attributes:
        jwk: its public JWK, with ``alg``.
    """

    algorithm: Algorithm
    jwk: Mapping[str, str]
    thumbprint: str


@dataclass(frozen=True)
class Token:
    """A token that was signed. Times in seconds since the epoch.

    Attributes:
        text: in the compact form of RFC 7515.
        token_id: its ``jti``.
        issuer: its ``iss``.
        kid: of the version that signed it.
        number: of that version.
    """

    text: str = field(repr=False)
    token_id: str
    issuer: str
    kid: str
    number: int
    issued: float
    expires: float
    kind: SessionKind

    @property
    def signature_key(self) -> str:
        """Value of the field ``Signature-Key`` that shows it."""
        scheme = "jkt-jwt" if self.kind is SessionKind.JKT_JWT else "jwt"
        return f'{LABEL}={scheme};jwt="{self.text}"'

    @property
    def agent_auth(self) -> str:
        """Value of LumoAuth's field ``Agent-Auth``; empty for other kinds."""
        return f"agent_token={self.text}" if self.kind is SessionKind.LUMOAUTH else ""


@dataclass(frozen=True)
class Wanted:
    """What is asked for.

    Attributes:
        lifetime: in seconds; None: as long as the grant allows.
        claims: those that the caller adds.
        parent_agent: ``sub`` of the agent of which this is a sub-agent; empty: it is none.
    """

    issuer_key: str
    kind: SessionKind
    subject: str = ""
    lifetime: float | None = None
    claims: Mapping[str, Any] = field(default_factory=dict)
    audiences: tuple[str, ...] = ()
    parent_agent: str = ""


def bound(public: Mapping[str, Any], algorithm: Algorithm, thumbprint: str) -> Bound:
    """Return the binding of a key whose public JWK is ``public``."""
    return Bound(algorithm, {**public, "alg": algorithm.value}, thumbprint)


def foreign(text: str) -> Bound:
    """Return the binding of a key that somebody sent as a public JWK.

    Raises:
        InvalidArgumentError: it is no public JWK of a key that keyd knows how to verify with; RSA keys say their ``alg``.
    """
    wrong = InvalidArgumentError("public_jwk is not a public JWK for Ed25519, ES256, ES384, PS512 or RS256")
    if len(text) > _MAX_JWK:
        raise wrong
    try:
        members = json.loads(text)
        thumbprint = jwk.thumbprint(members) if isinstance(members, dict) else None
        if thumbprint is None:
            raise wrong
        named = members.get("alg")
        asked = Algorithm(named) if named in [algorithm.value for algorithm in Algorithm] else None
        if named is not None and asked is None and named != "EdDSA":
            raise wrong
        public = jwk.to_public_key(
            json.dumps({name: members[name] for name in ("kty", "crv", "x", "y", "n", "e") if name in members})
        )
        canonical, computed = jwk.from_public_key(public)
        algorithm = material.algorithm_of(public, asked)
    except InvalidArgumentError:
        raise
    except Exception:  # noqa: BLE001 - what parsers raise for hostile input is theirs to choose, and quotes it
        raise wrong from None
    if computed != thumbprint:
        raise wrong  # another spelling of the same numbers
    return bound(json.loads(canonical), algorithm, thumbprint)


def check_subject(wanted: Wanted) -> None:
    """Refuse an agent identifier that the kind does not have. Raises InvalidArgumentError."""
    if wanted.kind is SessionKind.JKT_JWT:
        if wanted.subject or wanted.parent_agent:
            raise InvalidArgumentError("a jkt-jwt token names no agent: leave subject and parent out")
        return
    if not wanted.subject:
        raise InvalidArgumentError("subject is empty; say which agent, where a grant has more than one, or it is a sub-agent")
    if not _VISIBLE.fullmatch(wanted.subject):
        raise InvalidArgumentError("subject has visible ASCII characters, and at most 517 of them")
    if wanted.kind is not SessionKind.AAUTH:
        if wanted.parent_agent:
            raise InvalidArgumentError("sub-agents are of AAuth; a LumoAuth session has no parent")
        return
    own = _AGENT.fullmatch(wanted.subject)
    if own is None:
        raise InvalidArgumentError("an agent of AAuth is named aauth:local@domain, in ASCII, the domain in lower case")
    _check_parent(own, wanted.parent_agent)


def _check_parent(own: re.Match[str], parent_agent: str) -> None:
    """Hold names to section 5.1 of AAuth draft -11: a plus sign is in those of sub-agents, whose tokens name their parent."""
    if not parent_agent:
        if "+" in own[1]:
            raise InvalidArgumentError("an agent with + in its name is a sub-agent; open a session with that of its parent")
        return
    parent = _AGENT.fullmatch(parent_agent)
    # The parent's local part, a plus sign, and something that tells it from others.
    if parent is None or own[2] != parent[2] or not own[1].startswith(f"{parent[1]}+") or len(own[1]) <= len(parent[1]) + 1:
        raise InvalidArgumentError("a sub-agent is named like its parent, with + and a word before the @")


def claims(
    wanted: Wanted, key: Bound, *, issuer: str, token_id: str, now: float, expires: float, person_server: str | None
) -> dict[str, Any]:
    """Return the claims of a token, without those that the grant has beyond. Times in seconds since the epoch; whole in the token."""
    times = {"iat": int(now), "exp": int(expires)}
    if wanted.kind is SessionKind.JKT_JWT:
        return {**wanted.claims, "iss": issuer, "jti": token_id, "cnf": {"jwk": dict(key.jwk)}, **times}
    common = {**wanted.claims, "iss": issuer, "sub": wanted.subject, "jti": token_id}
    if wanted.kind is SessionKind.LUMOAUTH:
        # Its documents bind by thumbprint, its SDK by key. Both name the same one.
        audience = {"aud": list(wanted.audiences)} if wanted.audiences else {}
        return {**common, **audience, "cnf": {"jkt": key.thumbprint, "jwk": dict(key.jwk)}, **times}
    person = {"ps": person_server} if person_server is not None else {}
    parent = {"parent_agent": wanted.parent_agent} if wanted.parent_agent else {}
    return {**common, "dwk": "aauth-agent.json", **person, **parent, "cnf": {"jwk": dict(key.jwk)}, **times}


def signing_input(
    kind: SessionKind, claims: Mapping[str, Any], *, algorithm: Algorithm, kid: str, public_jwk: Mapping[str, Any]
) -> bytes:
    """Return what the issuer key signs (RFC 7515 section 5.1). ``public_jwk`` is its own, for kind ``jkt-jwt``."""
    eddsa = kind is SessionKind.LUMOAUTH and algorithm is Algorithm.ED25519
    header: dict[str, Any] = {"alg": "EdDSA" if eddsa else algorithm.value, "typ": TYPES[kind]}
    if kind is SessionKind.JKT_JWT:
        header["jwk"] = {**public_jwk, "alg": algorithm.value}
    else:
        header["kid"] = kid
    return b".".join(jws.b64url(json.dumps(part, separators=(",", ":")).encode()).encode() for part in (header, claims))
