"""Agent tokens and sessions as operators see them: requests to keyd, and its answers as values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from keyd.client.calls import duration
from keyd.client.model import AgentToken, ListedSession, RevokedToken
from keyd.client.session_state import kind_name
from keyd.v1 import session_service_pb2 as pb

_ISSUED = {"aauth": pb.SESSION_KIND_AAUTH, "lumoauth": pb.SESSION_KIND_LUMOAUTH}


def issue_request(
    issuer_key: str,
    subject: str,
    *,
    key: str | None,
    public_jwk: Mapping[str, Any] | str | None,
    kind: str,
    lifetime: float | None,
    claims: Mapping[str, Any] | None,
    audiences: Iterable[str],
) -> pb.IssueAgentTokenRequest:
    """Return a request for a token. Raises ValueError for an unknown ``kind``, or not exactly one of ``key`` and ``public_jwk``."""
    if (key is None) == (public_jwk is None):
        raise ValueError("pass exactly one of key and public_jwk")
    if kind not in _ISSUED:
        raise ValueError(f"kind is one of {', '.join(_ISSUED)}, not {kind[:64]!r}")
    request = pb.IssueAgentTokenRequest(
        issuer_key=issuer_key,
        subject=subject,
        kind=_ISSUED[kind],
        claims=_json(claims) if claims else "",
        audiences=audiences,
    )
    if key is not None:
        request.key = key
    if public_jwk is not None:
        request.public_jwk = public_jwk if isinstance(public_jwk, str) else _json(public_jwk)
    if lifetime is not None:
        request.lifetime.CopyFrom(duration(lifetime))
    return request


def agent_token(response: pb.IssueAgentTokenResponse) -> AgentToken:
    """Return a token that was issued."""
    return AgentToken(
        response.token,
        response.token_id,
        response.kid,
        _seconds(response.expire_time),
        response.thumbprint,
        response.signature_key,
    )


def revoke_request(issuer: str, token_id: str, expires: float) -> pb.RevokeTokenRequest:
    """Return a request to revoke a token; ``expires`` in seconds since the epoch. Raises ValueError for a time that is none."""
    request = pb.RevokeTokenRequest(issuer=issuer, token_id=token_id)
    try:
        request.expire_time.FromDatetime(datetime.fromtimestamp(expires, UTC))
    except (OverflowError, OSError) as exc:
        raise ValueError("that is no time in seconds since 1970") from exc
    return request


def revoked_token(message: pb.RevokedToken, warnings: Iterable[str] = ()) -> RevokedToken:
    """Return an entry of the list."""
    times = _seconds(message.expire_time), _seconds(message.revoke_time)
    return RevokedToken(message.issuer, message.token_id, *times, tuple(warnings))


def listed_session(message: pb.SessionInfo) -> ListedSession:
    """Return what operators see of a session."""
    return ListedSession(
        name=message.name,
        kind=kind_name(message.kind),
        issuer_key=message.issuer_key,
        issuer=message.issuer,
        subject=message.subject,
        parent_agent=message.parent_agent,
        thumbprint=message.thumbprint,
        grant=message.grant,
        principal=message.principal,
        created=_seconds(message.create_time),
        last_used=_seconds(message.last_use_time),
        token_expires=_seconds(message.token_expire_time),
        signatures=message.signatures,
        tokens=message.tokens,
        renewal_error=message.renewal_error,
    )


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(dict(value), allow_nan=False, separators=(",", ":"))


def _seconds(stamp: Timestamp) -> float:
    return stamp.seconds + stamp.nanos / 1e9
