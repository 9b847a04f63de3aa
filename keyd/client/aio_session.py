"""The asyncio session: what :class:`keyd.client.Session` is, without blocking."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from keyd.client import calls, session_state
from keyd.client.errors import DeadlineExceeded, KeydClientError, NotFound, Unavailable
from keyd.client.inputs import InputKind
from keyd.client.model import SessionInfo, Signature
from keyd.client.retry import Attempts
from keyd.client.session_state import Wanted
from keyd.v1 import session_service_pb2 as pb
from keyd.v1 import session_service_pb2_grpc, signing_service_pb2_grpc

_PAUSE = 1.0  # seconds between two watches, when keyd ended the first without a reason


class AsyncSession:
    """An open session, made by :meth:`keyd.client.AsyncClient.open_session`, for one event loop. Otherwise as :class:`Session`.

    A property cannot wait, so the properties say what was known last. ``await session.info()`` returns what is good now, and
    everything that signs asks for it first.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        call: Callable[..., Awaitable[Any]],
        attempts: Callable[[float], Attempts],
        clock: Callable[[], float],
        wanted: Wanted,
        parent: AsyncSession | None,
    ) -> None:
        """Prepare it; the first :meth:`info` opens it."""
        self._channel = channel
        self._stub = session_service_pb2_grpc.SessionServiceStub(channel)
        self._signing = signing_service_pb2_grpc.SigningServiceStub(channel)
        self._call = call
        self._attempts = attempts
        self._clock = clock
        self._wanted = wanted
        self._parent = parent
        self._known = session_state.Known(clock)
        self._lock = asyncio.Lock()
        self._closed = False
        self._watching: asyncio.Task[None] | None = None

    async def info(self, *, refresh: bool = False) -> SessionInfo:
        """As :meth:`Session.info`."""
        if not refresh and (fresh := self._known.fresh()):
            return fresh
        if not refresh and self._lock.locked() and (usable := self._known.usable()):
            return usable  # another task asks; until it knows more, the token at hand is good
        async with self._lock:
            if self._closed:
                raise ValueError(f"{self!r} is closed; open another one")
            return (None if refresh else self._known.fresh()) or self._known.take(await self._ask())

    @property
    def signature_key(self) -> str:
        """Value of the field Signature-Key, as known last, with the label ``sig``. It belongs to be covered."""
        return self._last.signature_key

    @property
    def token(self) -> str:
        """The token, as known last, compact."""
        return self._last.token

    @property
    def agent_auth(self) -> str:
        """Value of the field Agent-Auth, as known last, for kind ``lumoauth``; else empty."""
        return self._last.agent_auth

    @property
    def thumbprint(self) -> str:
        """RFC 7638 SHA-256 thumbprint of the session key, base64url without padding."""
        return self._last.thumbprint

    @property
    def jwk(self) -> dict[str, Any]:
        """The public session key (RFC 7517), a new dict each time."""
        return self._last.jwk

    @property
    def subject(self) -> str:
        """The agent's identifier; empty for kind ``jkt-jwt``."""
        return self._last.subject

    async def sign_base(self, base: bytes) -> Signature:
        """As :meth:`Session.sign_base`."""
        return await self._sign(await self.info(), base)

    async def sign_rebuilding(self, build: Callable[[SessionInfo], bytes]) -> tuple[Signature, SessionInfo]:
        """As :meth:`Session.sign_rebuilding`."""
        info = await self.info()
        try:
            return await self._sign(info, build(info)), info
        except KeydClientError as exc:
            newer = await self._newer(info, exc)
        return await self._sign(newer, build(newer)), newer

    async def open_sub_agent(self, subject: str) -> AsyncSession:
        """As :meth:`Session.open_sub_agent`."""
        wanted = self._wanted.sub_agent(subject)
        session = AsyncSession(self._channel, self._call, self._attempts, self._clock, wanted, self)
        await session.info()
        return session

    async def close(self) -> None:
        """As :meth:`Session.close`."""
        async with self._lock:
            self._closed = True
            info = self._known.info
            if info is not None:
                self._known.lose(info)
        if self._watching is not None:  # also of a session that keyd has lost: it may still try to reach keyd
            self._watching.cancel()
            await asyncio.wait((self._watching,))
        if info is None:
            return
        with contextlib.suppress(NotFound, Unavailable, DeadlineExceeded, grpc.aio.UsageError):  # the last: of a closed channel
            await self._call(self._stub.CloseSession, pb.CloseSessionRequest(id=info.id))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(*([KeydClientError] if error is not None else [])):  # the program's own error says more
            await self.close()

    def __repr__(self) -> str:
        return session_state.describe(type(self).__name__, self._wanted)

    @property
    def _last(self) -> SessionInfo:
        info = self._known.info
        if info is None:
            raise ValueError(f"{self!r} is closed, or keyd has lost it; await its info() to open it again")
        return info

    async def _sign(self, info: SessionInfo, base: bytes) -> Signature:
        request = session_state.sign_request(info, base, InputKind.SIGNATURE_BASE)
        try:
            response = await self._call(self._signing.Sign, request)
        except KeydClientError as exc:
            if session_state.is_lost(exc):
                self._known.lose(info)
            raise
        return calls.signature(response, info.thumbprint)

    async def _newer(self, info: SessionInfo, error: KeydClientError) -> SessionInfo:
        """Return the session after one that keyd did not sign with. Raises ``error`` when there is no other."""
        if session_state.is_lost(error):
            return await self.info()
        newer = await self.info(refresh=True) if session_state.is_outdated(error) else info
        if newer.token == info.token:
            raise error
        return newer

    async def _ask(self) -> SessionInfo:
        known = self._known.info
        if known is not None:
            try:
                answer = await self._call(self._stub.GetSession, pb.GetSessionRequest(id=known.id))
                return session_state.session_info(answer.session)
            except NotFound as exc:
                if not session_state.is_lost(exc):
                    raise
                self._known.lose(known)
        opened = session_state.session_info((await self._open()).session)
        if self._wanted.watched:
            if self._watching is not None:
                self._watching.cancel()
            self._watching = asyncio.create_task(self._watch(opened))
        return opened

    async def _open(self) -> pb.OpenSessionResponse:
        if self._parent is None:
            return await self._opened(self._wanted.request())
        parent = await self._parent.info()
        try:
            return await self._opened(self._wanted.request(parent.id))
        except NotFound as exc:
            if not session_state.is_lost(exc):
                raise
            self._parent._known.lose(parent)
        return await self._opened(self._wanted.request((await self._parent.info()).id))

    async def _opened(self, request: pb.OpenSessionRequest) -> pb.OpenSessionResponse:
        response: pb.OpenSessionResponse = await self._call(self._stub.OpenSession, request)
        return response

    async def _watch(self, info: SessionInfo) -> None:
        """Follow one session to its end."""
        attempts = self._attempts(math.inf)
        while True:
            call = self._stub.WatchSession(pb.WatchSessionRequest(id=info.id))
            try:
                async for response in call:
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
            await asyncio.sleep(pause)
