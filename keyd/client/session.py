"""The blocking session: an agent's key in keyd's memory, and the token of an issuer key that binds it."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from keyd.client import calls, session_state
from keyd.client.errors import DeadlineExceeded, KeydClientError, NotFound, Unavailable, unwrapped
from keyd.client.inputs import InputKind, kind_of
from keyd.client.keys import PrivateKey
from keyd.client.model import SessionInfo, Signature
from keyd.client.retry import Attempts
from keyd.client.session_state import Wanted
from keyd.v1 import session_service_pb2 as pb
from keyd.v1 import session_service_pb2_grpc, signing_service_pb2_grpc

Made = TypeVar("Made")

_PAUSE = 1.0  # seconds between two watches, when keyd ended the first without a reason


class Session:
    """An open session, made by :meth:`keyd.client.Client.open_session`. Safe to share between threads.

    It stays fresh by itself: it asks for the new token when there is one, and when keyd has lost the session (it was started
    anew, or is another replica) it opens another one like it. That one has another key, so take everything of a request from one
    :meth:`info`, or let :meth:`sign_rebuilding` or an HTTP adapter do it.

    As a context manager it closes the session at the end. One that is not closed ends after keyd's ``idle_timeout``.

    Methods raise :class:`keyd.client.errors.KeydClientError`, and ValueError when the session is closed.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        call: Callable[..., Any],
        attempts: Callable[[float], Attempts],
        clock: Callable[[], float],
        wanted: Wanted,
        parent: Session | None,
    ) -> None:
        """Open it. ``call`` makes a call within the client's patience; ``attempts`` are those of a watch."""
        self._channel = channel
        self._stub = session_service_pb2_grpc.SessionServiceStub(channel)
        self._signing = signing_service_pb2_grpc.SigningServiceStub(channel)
        self._call = call
        self._attempts = attempts
        self._clock = clock
        self._wanted = wanted
        self._parent = parent
        self._known = session_state.Known(clock)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._watch_call: Any = None
        self.info()

    def info(self, *, refresh: bool = False) -> SessionInfo:
        """Return the session as it is now, with a token that is good.

        Args:
            refresh: ask keyd in any case.
        """
        if not refresh and (fresh := self._known.fresh()):
            return fresh
        usable = None if refresh else self._known.usable()
        if not self._lock.acquire(blocking=usable is None):
            assert usable is not None  # another thread asks; until it knows more, the token at hand is good
            return usable
        try:
            if self._closed.is_set():
                raise ValueError(f"{self!r} is closed; open another one")
            return (None if refresh else self._known.fresh()) or self._known.take(self._ask())
        finally:
            self._lock.release()

    @property
    def signature_key(self) -> str:
        """Value of the field Signature-Key, good now, with the label ``sig``. It belongs to be covered."""
        return self.info().signature_key

    @property
    def token(self) -> str:
        """The token that is good now, compact."""
        return self.info().token

    @property
    def agent_auth(self) -> str:
        """Value of the field Agent-Auth, good now, for kind ``lumoauth``; else empty."""
        return self.info().agent_auth

    @property
    def thumbprint(self) -> str:
        """RFC 7638 SHA-256 thumbprint of the session key, base64url without padding."""
        return self.info().thumbprint

    @property
    def jwk(self) -> dict[str, Any]:
        """The public session key (RFC 7517), a new dict each time."""
        return self.info().jwk

    @property
    def subject(self) -> str:
        """The agent's identifier; empty for kind ``jkt-jwt``."""
        return self.info().subject

    def sign_base(self, base: bytes) -> Signature:
        """Sign an RFC 9421 section 2.5 signature base, whole.

        Raises:
            NotFound: with reason SESSION, keyd has lost the session. The next :meth:`info` opens another one: build the base again.
        """
        return self._sign(self.info(), base, InputKind.SIGNATURE_BASE)

    def sign_rebuilding(self, build: Callable[[SessionInfo], bytes]) -> tuple[Signature, SessionInfo]:
        """Build a signature base and sign it; when keyd has lost the session, or its token is over, build and sign once more.

        Args:
            build: returns the base; called once or twice.

        Returns:
            The signature, and the session for which the base that was signed was built.
        """
        info = self.info()
        try:
            return self._sign(info, build(info), InputKind.SIGNATURE_BASE), info
        except KeydClientError as exc:
            newer = self._newer(info, exc)
        return self._sign(newer, build(newer), InputKind.SIGNATURE_BASE), newer

    def private_key(self) -> PrivateKey:
        """Return an object that the ``cryptography`` library and those on top of it take for a private key.

        It is pinned to the session key of now, and signs signature bases only. When keyd has lost the session it raises NotFound
        with reason SESSION: get another one, and the token that goes with it, or use :meth:`with_private_key`.
        """
        return self._private_key(self.info())

    def with_private_key(self, use: Callable[[PrivateKey, SessionInfo], Made]) -> Made:
        """Let a library sign with the session key, and once more when keyd has lost the session, or its token is over.

        Args:
            use: called once or twice, with what :meth:`private_key` returns and the session of that key. It takes the token from there.

        Returns:
            What ``use`` returned.

        Raises:
            KeydClientError: keyd does not sign; this, and not what the library makes of it.
        """
        info = self.info()
        try:
            return self._use(use, info)
        except KeydClientError as exc:
            newer = self._newer(info, exc)
        return self._use(use, newer)

    def open_sub_agent(self, subject: str) -> Session:
        """Open a session of the same kind for a sub-agent (AAuth, claim ``parent_agent``). It ends with this one.

        Args:
            subject: its identifier: this one's local part, ``+`` and a name, at the same domain.
        """
        return Session(self._channel, self._call, self._attempts, self._clock, self._wanted.sub_agent(subject), self)

    def close(self) -> None:
        """End the session and those of its sub-agents.

        Where keyd cannot be reached, or the client is closed, they end by themselves after a while.
        """
        with self._lock:
            self._closed.set()
            info = self._known.info
            if info is not None:
                self._known.lose(info)
        if self._watch_call is not None:
            self._watch_call.cancel()
        if info is None:
            return
        with contextlib.suppress(NotFound, Unavailable, DeadlineExceeded, ValueError):  # the last: of a closed channel
            self._call(self._stub.CloseSession, pb.CloseSessionRequest(id=info.id))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(*([KeydClientError] if error is not None else [])):  # the program's own error says more
            self.close()

    def __repr__(self) -> str:
        return session_state.describe(type(self).__name__, self._wanted)

    def _use(self, use: Callable[[PrivateKey, SessionInfo], Made], info: SessionInfo) -> Made:
        with unwrapped():
            return use(self._private_key(info), info)

    def _private_key(self, info: SessionInfo) -> PrivateKey:
        return session_state.private_key(info, lambda data: self._sign(info, data, kind_of(data)).signature)

    def _sign(self, info: SessionInfo, data: bytes, kind: InputKind) -> Signature:
        try:
            response = self._call(self._signing.Sign, session_state.sign_request(info, data, kind))
        except KeydClientError as exc:
            if session_state.is_lost(exc):
                self._known.lose(info)
            raise
        return calls.signature(response, info.thumbprint)

    def _newer(self, info: SessionInfo, error: KeydClientError) -> SessionInfo:
        """Return the session after one that keyd did not sign with. Raises ``error`` when there is no other."""
        if session_state.is_lost(error):
            return self.info()
        newer = self.info(refresh=True) if session_state.is_outdated(error) else info
        if newer.token == info.token:
            raise error
        return newer

    def _ask(self) -> SessionInfo:
        known = self._known.info
        if known is not None:
            try:
                return session_state.session_info(self._call(self._stub.GetSession, pb.GetSessionRequest(id=known.id)).session)
            except NotFound as exc:
                if not session_state.is_lost(exc):
                    raise
                self._known.lose(known)
        opened = session_state.session_info(self._open().session)
        if self._wanted.watched:
            threading.Thread(target=self._watch, args=(opened,), name="keyd-session", daemon=True).start()
        return opened

    def _open(self) -> pb.OpenSessionResponse:
        if self._parent is None:
            return self._opened(self._wanted.request())
        parent = self._parent.info()
        try:
            return self._opened(self._wanted.request(parent.id))
        except NotFound as exc:
            if not session_state.is_lost(exc):
                raise
            self._parent._known.lose(parent)
        return self._opened(self._wanted.request(self._parent.info().id))

    def _opened(self, request: pb.OpenSessionRequest) -> pb.OpenSessionResponse:
        response: pb.OpenSessionResponse = self._call(self._stub.OpenSession, request)
        return response

    def _watch(self, info: SessionInfo) -> None:
        """Follow one session to its end, in a thread of its own."""
        attempts = self._attempts(math.inf)
        while not self._closed.is_set():
            call = self._watch_call = self._stub.WatchSession(pb.WatchSessionRequest(id=info.id))
            try:
                for response in call:
                    self._known.renew(session_state.session_info(response.session))
                    attempts = self._attempts(math.inf)
                pause = _PAUSE
            except grpc.RpcError as exc:
                try:
                    pause = attempts.pause_after(exc)
                except KeydClientError:
                    self._known.lose(info)  # it is over, or is about to be
                    return
            finally:
                call.cancel()
            self._closed.wait(pause)
