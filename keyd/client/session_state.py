"""What blocking and asyncio sessions have in common: the request that opens one, and what is known of it since. No I/O."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from keyd.client import calls, keys
from keyd.client.errors import KeydClientError, NotFound
from keyd.client.inputs import InputKind
from keyd.client.model import KeyInfo, SessionInfo, VersionInfo
from keyd.v1 import session_service_pb2 as pb
from keyd.v1 import signing_service_pb2, types_pb2

_ASK_INTERVAL = 1.0  # seconds; a token that is late is not asked for with every request
_LONGEST = 60.0  # seconds; after a compromise the next token comes sooner than was said


class SessionFields(TypedDict, total=False):
    """What kind of session to open. What is left out, the caller's grant says, or keyd's default.

    Attributes:
        kind: ``aauth`` (the default), ``lumoauth`` or ``jkt-jwt``.
        algorithm: of the session key, ``Ed25519`` (the default) or ``ES256``.
        token_lifetime: seconds for which each token is good; as long as the grant allows by default.
        claims: further claims, JSON values; only those that the grant lets the caller choose.
        audiences: ``aud`` of the tokens; for ``lumoauth`` only.
        close_on_disconnect: True ends the session in keyd a few seconds after this process is gone. It is watched in the
            background for that, so its token is new without asking.
    """

    kind: Literal["aauth", "lumoauth", "jkt-jwt"]
    algorithm: Literal["Ed25519", "ES256"]
    token_lifetime: float
    claims: Mapping[str, Any]
    audiences: Iterable[str]
    close_on_disconnect: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for, to ask for it again when keyd has lost the session."""

    message: pb.OpenSessionRequest

    @classmethod
    def of(cls, issuer_key: str, subject: str | None, fields: SessionFields) -> Wanted:
        """Return it. Raises ValueError or TypeError for a kind, an algorithm or claims that there are none of."""
        message = pb.OpenSessionRequest(
            issuer_key=issuer_key,
            subject=subject or "",
            kind=pb.SessionKind.Value(_enum_name("session_kind", fields.get("kind", "aauth"))),
            algorithm=types_pb2.Algorithm.Value(_enum_name("algorithm", fields.get("algorithm", "Ed25519"))),
            audiences=fields.get("audiences", ()),
            close_on_disconnect=fields.get("close_on_disconnect", False),
        )
        if "token_lifetime" in fields:
            message.token_lifetime.CopyFrom(calls.duration(fields["token_lifetime"]))
        if "claims" in fields:
            message.claims = json.dumps(dict(fields["claims"]), allow_nan=False, separators=(",", ":"))
        return cls(message)

    def request(self, parent: str = "") -> pb.OpenSessionRequest:
        """Return the request; ``parent`` is the id of the session that it is for a sub-agent of."""
        request = pb.OpenSessionRequest()
        request.CopyFrom(self.message)
        request.parent = parent
        request.request_id = secrets.token_urlsafe(
            16
        )  # so that a call whose answer is lost opens no second one when it is tried again
        return request

    def sub_agent(self, subject: str) -> Wanted:
        """Return the same for a sub-agent. It gets no further claims."""
        message = self.request()
        message.subject = subject
        message.ClearField("claims")
        return Wanted(message)

    @property
    def watched(self) -> bool:
        """Whether the session ends when nobody watches it."""
        return self.message.close_on_disconnect


class Known:
    """What is known of a session, and until when that needs no asking. Threads may share it: what is read is one entry.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # of who replaces the entry of one session, and no other's
        self._entry: tuple[SessionInfo, float, float] | None = None

    @property
    def info(self) -> SessionInfo | None:
        """What was known last; None: there is no session, or keyd has lost it."""
        entry = self._entry
        return entry[0] if entry else None

    def fresh(self) -> SessionInfo | None:
        """Return what is known if it needs no asking."""
        entry = self._entry
        if entry is None:
            return None
        info, since, until = entry
        return info if since <= self._clock() < until else None  # a clock that was set back has it asked for too

    def usable(self) -> SessionInfo | None:
        """Return what is known if its token is good, although there may be a newer one."""
        entry = self._entry
        return entry[0] if entry and entry[1] <= self._clock() < entry[0].token_expires - _ASK_INTERVAL else None

    def take(self, info: SessionInfo) -> SessionInfo:
        """Remember what keyd said just now, and return it."""
        entry = self._now(info)
        with self._lock:
            self._entry = entry
        return info

    def renew(self, info: SessionInfo) -> None:
        """Remember what keyd said of a session, unless it is another one by now."""
        self._replace(info, self._now(info))

    def lose(self, info: SessionInfo) -> None:
        """Forget a session, unless it is another one by now."""
        self._replace(info, None)

    def _now(self, info: SessionInfo) -> tuple[SessionInfo, float, float]:
        now = self._clock()
        return info, now, min(max(info.renew_time, now + _ASK_INTERVAL), now + _LONGEST)

    def _replace(self, info: SessionInfo, entry: tuple[SessionInfo, float, float] | None) -> None:
        with self._lock:
            if self._entry is not None and self._entry[0].id == info.id:
                self._entry = entry


def session_info(session: pb.Session) -> SessionInfo:
    """Return what keyd says of a session."""
    return SessionInfo(
        id=session.id,
        kind=kind_name(session.kind),
        issuer_key=session.issuer_key,
        issuer=session.issuer,
        subject=session.subject,
        parent_agent=session.parent_agent,
        http_algorithm=session.http_algorithm,
        jose_algorithm=session.jose_algorithm,
        public_jwk=session.public_jwk,
        thumbprint=session.thumbprint,
        token=session.token,
        token_id=session.token_id,
        token_kid=session.token_kid,
        token_expires=session.token_expire_time.ToNanoseconds() / 1e9,
        renew_time=session.renew_time.ToNanoseconds() / 1e9,
        signature_key=session.signature_key,
        agent_auth=session.agent_auth,
        profile=session.profile,
    )


def sign_request(info: SessionInfo, data: bytes, kind: InputKind) -> signing_service_pb2.SignRequest:
    """Return a request for a signature by the key of a session."""
    request = signing_service_pb2.SignRequest(session=info.id)
    setattr(request, kind.value, bytes(data))
    return request


def private_key(info: SessionInfo, sign: Callable[[bytes], bytes]) -> keys.PrivateKey:
    """Return the key object of a session.

    Args:
        info: the session.
        sign: takes a whole input, returns raw octets as keyd does.

    Raises:
        ValueError: the public JWK is not one for the algorithm of the session.
    """
    name, http = f"session of {info.subject or info.issuer_key}", frozenset({"http"})
    version = VersionInfo(0, info.thumbprint, info.thumbprint, info.public_jwk, "active", False, *[None] * 5)
    key = KeyInfo(name, info.jose_algorithm, info.http_algorithm, http, version, (version,))
    return keys.private_key(key, version, sign)


def is_lost(error: KeydClientError) -> bool:
    """Say whether keyd has no such session any more, so that another one has to be opened."""
    return isinstance(error, NotFound) and error.reason == "SESSION"


def is_outdated(error: KeydClientError) -> bool:
    """Say whether what was to be signed shows a token that is not good, or not this session's."""
    return error.reason == "BINDING"


def describe(kind: str, wanted: Wanted) -> str:
    """Return the repr of a session, which has neither its id nor its token."""
    return f"<{kind} {wanted.message.subject or 'agent'!r} by issuer key {wanted.message.issuer_key!r}>"


def kind_name(number: int) -> str:
    """Return the name of a kind of session, such as ``aauth``."""
    value = pb.SessionKind.DESCRIPTOR.values_by_number.get(number)  # none when the daemon is newer than this client
    return value.name.removeprefix("SESSION_KIND_").lower().replace("_", "-") if value else f"unknown-{number}"


def _enum_name(prefix: str, word: str) -> str:
    return f"{prefix}_{word}".upper().replace("-", "_")
