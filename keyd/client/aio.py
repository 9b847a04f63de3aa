"""The asyncio client: what :class:`keyd.client.Client` does, without blocking."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, cast

import grpc
import grpc.aio

from keyd.client import agent_tokens, calls
from keyd.client.address import default_address, grpc_target
from keyd.client.aio_session import AsyncSession
from keyd.client.channel import OPTIONS
from keyd.client.errors import KeydClientError, KeyStateError, no_answer
from keyd.client.gathering import Gatherer
from keyd.client.inputs import InputKind, SignInput
from keyd.client.model import AgentToken, JwkSet, KeyInfo, Signature
from keyd.client.retry import Attempts
from keyd.client.session_state import SessionFields, Wanted
from keyd.client.stream import sign_stream
from keyd.client.tls import RenewedChannel, TlsFiles, choose
from keyd.v1 import session_service_pb2_grpc, signing_service_pb2_grpc
from keyd.v1 import signing_service_pb2 as pb

Response = TypeVar("Response")


def _close(channel: grpc.aio.Channel) -> asyncio.Task[None]:
    return asyncio.create_task(channel.close())


class AsyncClient:
    """Asks keyd for signatures, from one event loop. Arguments and errors are those of :class:`keyd.client.Client`.

    Args:
        gather: what several tasks ask to have signed at the same time goes to keyd together, in one SignBatch. Each has its own result.
            For agents with many requests under way: the more there are, the less one costs. keyd charges the rate for all of a call at
            once, so a caller that is over it has all of them wait.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        timeout: float = 5.0,
        retries: int = 2,
        tls: TlsFiles | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        clock: Callable[[], float] = time.time,
        gather: bool = False,
    ) -> None:
        self._address = default_address() if address is None else address
        self._timeout = timeout
        self._retries = retries
        tls = choose(self._address, tls, credentials)
        target = grpc_target(self._address, secure=tls is not None or credentials is not None)
        self._channel: grpc.aio.Channel | RenewedChannel[grpc.aio.Channel, asyncio.Task[None]]
        if tls is not None:
            self._channel = RenewedChannel(tls, lambda new: grpc.aio.secure_channel(target, new, options=OPTIONS), _close)
        elif credentials is not None:
            self._channel = grpc.aio.secure_channel(target, credentials, options=OPTIONS)
        else:
            self._channel = grpc.aio.insecure_channel(target, options=OPTIONS)
        self._stub = signing_service_pb2_grpc.SigningServiceStub(cast("grpc.aio.Channel", self._channel))
        self._gatherer = Gatherer(self._stub.SignBatch) if gather else None
        self._clock = clock
        self._cache = calls.KeyCache(clock)

    async def close(self) -> None:
        """Close the channel. Calls that are under way fail."""
        if isinstance(self._channel, RenewedChannel):
            await asyncio.gather(*self._channel.close())
        else:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._address!r})"

    async def key_info(self, key: str, *, refresh: bool = False) -> KeyInfo:
        """As :meth:`keyd.client.Client.key_info`."""
        known = None if refresh else self._cache.get(key)
        return known or self._cache.put(calls.key_info(await self._call(self._stub.GetKey, pb.GetKeyRequest(key=key))))

    async def sign(self, item: SignInput) -> Signature:
        """As :meth:`keyd.client.Client.sign`."""
        try:
            if self._gatherer is None:
                return await self._sign_alone(item)
            if not self._gatherer.begin_alone():
                return await self._sign_gathered(self._gatherer, item)
            try:
                return await self._sign_alone(item)
            finally:
                self._gatherer.end_alone()
        except KeyStateError:
            self._cache.drop(item.key)
            raise

    async def sign_base(self, key: str, base: bytes, kid: str | None = None) -> Signature:
        """As :meth:`keyd.client.Client.sign_base`."""
        return await self.sign(SignInput(key, base, InputKind.SIGNATURE_BASE, kid))

    async def sign_jws(self, key: str, signing_input: bytes, kid: str | None = None) -> Signature:
        """As :meth:`keyd.client.Client.sign_jws`."""
        return await self.sign(SignInput(key, signing_input, InputKind.JWS_SIGNING_INPUT, kid))

    async def sign_message(self, key: str, message: bytes, kid: str | None = None) -> Signature:
        """As :meth:`keyd.client.Client.sign_message`."""
        return await self.sign(SignInput(key, message, InputKind.MESSAGE, kid))

    async def sign_rebuilding(self, key: str, build: Callable[[KeyInfo], bytes]) -> tuple[Signature, KeyInfo]:
        """As :meth:`keyd.client.Client.sign_rebuilding`."""
        try:
            return await self._build_and_sign(await self.key_info(key), build)
        except KeyStateError:
            return await self._build_and_sign(await self.key_info(key, refresh=True), build)

    async def sign_batch(self, items: Iterable[SignInput]) -> list[Signature | KeydClientError]:
        """As :meth:`keyd.client.Client.sign_batch`."""
        results: list[Signature | KeydClientError] = []
        for request in calls.batch_requests(items):
            results += calls.batch_results(request, await self._call(self._stub.SignBatch, request))
        return results

    def sign_stream(self, items: AsyncIterable[SignInput]) -> AsyncIterator[tuple[int, Signature | KeydClientError]]:
        """Sign inputs as they come, many at a time.

        Args:
            items: the inputs. What it raises ends the stream and comes out here.

        Returns:
            The position of an input in ``items``, from 0, with its result; as they are ready, so perhaps out of order.

        Raises:
            DeadlineExceeded: an input waited longer than the client's timeout for its result.
            KeydClientError: the stream broke. It is not tried again: sign what has no result yet in a new one.
        """
        return sign_stream(self._stub.SignStream, items, self._timeout, self._address)

    async def sign_jwt(
        self, key: str, claims: Mapping[str, Any], typ: str, lifetime: float | None = None, kid: str | None = None
    ) -> str:
        """As :meth:`keyd.client.Client.sign_jwt`."""
        return (await self._call(self._stub.SignJWT, calls.jwt_request(key, claims, typ, lifetime, kid))).token

    async def issue_agent_token(
        self,
        issuer_key: str,
        subject: str = "",
        *,
        key: str | None = None,
        public_jwk: Mapping[str, Any] | str | None = None,
        kind: str = "aauth",
        lifetime: float | None = None,
        claims: Mapping[str, Any] | None = None,
        audiences: Iterable[str] = (),
    ) -> AgentToken:
        """As :meth:`keyd.client.Client.issue_agent_token`."""
        request = agent_tokens.issue_request(
            issuer_key, subject, key=key, public_jwk=public_jwk, kind=kind, lifetime=lifetime, claims=claims, audiences=audiences
        )
        stub = session_service_pb2_grpc.SessionServiceStub(cast("grpc.aio.Channel", self._channel))
        return agent_tokens.agent_token(await self._call(stub.IssueAgentToken, request))

    async def jwks(self, key: str | None = None, *, issuer: str | None = None) -> dict[str, Any]:
        """As :meth:`keyd.client.Client.jwks`."""
        return {"keys": (await self.jwk_set(key, issuer=issuer)).keys}

    async def jwk_set(self, key: str | None = None, *, issuer: str | None = None) -> JwkSet:
        """As :meth:`keyd.client.Client.jwk_set`."""
        return calls.jwk_set(await self._call(self._stub.GetJWKS, pb.GetJWKSRequest(key=key or "", issuer=issuer or "")))

    async def watch(self, watched: Iterable[str], *, retries: float | None = None) -> AsyncIterator[KeyInfo]:
        """As :meth:`keyd.client.Client.watch`."""
        request = pb.WatchKeysRequest(keys=watched)
        attempts = self._endless(retries)
        while True:
            call = self._stub.WatchKeys(request)
            try:
                async for response in call:
                    yield self._cache.put(calls.key_info(response.key))
                    attempts = self._endless(retries)
                return
            except grpc.RpcError as exc:
                await asyncio.sleep(attempts.pause_after(exc))
            finally:
                call.cancel()

    async def open_session(
        self,
        issuer_key: str,
        subject: str | None = None,
        *,
        parent: AsyncSession | None = None,
        **fields: Unpack[SessionFields],
    ) -> AsyncSession:
        """As :meth:`keyd.client.Client.open_session`."""
        wanted = Wanted.of(issuer_key, subject, fields)
        channel = cast("grpc.aio.Channel", self._channel)
        session = AsyncSession(channel, self._call, self._endless, self._clock, wanted, parent)
        await session.info()
        return session

    async def _build_and_sign(self, info: KeyInfo, build: Callable[[KeyInfo], bytes]) -> tuple[Signature, KeyInfo]:
        kid = calls.active_version(info).kid
        return await self.sign_base(info.name, build(info), kid), info

    def _endless(self, retries: float | None) -> Attempts:
        return Attempts(float("inf"), self._retries if retries is None else retries, self._address)

    async def _call(self, method: Callable[..., Awaitable[Response]], request: object) -> Response:
        attempts = Attempts(self._timeout, self._retries, self._address)
        while True:
            try:
                return await method(request, timeout=attempts.remaining())
            except grpc.RpcError as exc:
                await asyncio.sleep(attempts.pause_after(exc))

    async def _sign_alone(self, item: SignInput) -> Signature:
        return calls.signature(await self._call(self._stub.Sign, calls.sign_request(item)), item.kid)

    async def _sign_gathered(self, gatherer: Gatherer, item: SignInput) -> Signature:
        attempts = Attempts(self._timeout, self._retries, self._address)
        request = calls.sign_request(item)
        while True:
            try:
                result = calls.result(await gatherer.sign(request, attempts.remaining()), item.kid)
            except TimeoutError:
                raise no_answer(self._address) from None
            except grpc.RpcError as exc:
                await asyncio.sleep(attempts.pause_after(exc))
            else:
                if isinstance(result, Signature):
                    return result
                await asyncio.sleep(attempts.pause_for(result))
