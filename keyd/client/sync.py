"""The blocking client. Safe to share between threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar, Unpack

import grpc

from keyd.client import agent_tokens, calls, keys
from keyd.client.channel import SyncChannel
from keyd.client.errors import KeydClientError, KeyStateError, unwrapped
from keyd.client.inputs import InputKind, SignInput, kind_of
from keyd.client.model import AgentToken, JwkSet, KeyInfo, Signature
from keyd.client.retry import Attempts
from keyd.client.session import Session
from keyd.client.session_state import SessionFields, Wanted
from keyd.client.tls import TlsFiles
from keyd.v1 import session_service_pb2_grpc, signing_service_pb2_grpc
from keyd.v1 import signing_service_pb2 as pb

Made = TypeVar("Made")


class Client(SyncChannel):
    """Asks keyd for signatures.

    Every method raises :class:`keyd.client.errors.KeydClientError` or one of its subclasses. Calls that meet an UNAVAILABLE
    daemon are tried again within ``timeout``: to sign twice does no harm.

    Args:
        address: ``unix:/path``, ``/path`` or ``host:port``; by default ``$KEYD_ADDRESS``, else the user's or the system's socket.
        timeout: seconds for one call, its retries included.
        retries: how often a call is tried again.
        tls: files for mutual TLS, which any address that is not on this machine needs; for TCP, those that the environment names
            by default (:meth:`keyd.client.TlsFiles.from_environment`).
        credentials: instead of ``tls``, what gRPC offers otherwise.
        clock: seconds since the epoch; rules how long keys are remembered.

    Raises:
        ValueError: the address cannot be used, or not without TLS; or the files cannot.
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
    ) -> None:
        super().__init__(address, timeout=timeout, retries=retries, tls=tls, credentials=credentials)
        self._stub = signing_service_pb2_grpc.SigningServiceStub(self._channel)
        self._clock = clock
        self._cache = calls.KeyCache(clock)

    def key_info(self, key: str, *, refresh: bool = False) -> KeyInfo:
        """Return what there is to know of a key, remembered for at most 60 s and never past its next rotation.

        Args:
            key: its name.
            refresh: ask keyd in any case.
        """
        known = None if refresh else self._cache.get(key)
        return known or self._cache.put(calls.key_info(self._call(self._stub.GetKey, pb.GetKeyRequest(key=key))))

    def sign(self, item: SignInput) -> Signature:
        """Sign one input of any kind."""
        try:
            return calls.signature(self._call(self._stub.Sign, calls.sign_request(item)), item.kid)
        except KeyStateError:
            self._cache.drop(item.key)
            raise

    def sign_base(self, key: str, base: bytes, kid: str | None = None) -> Signature:
        """Sign an RFC 9421 section 2.5 signature base, whole, with the active version or with ``kid``."""
        return self.sign(SignInput(key, base, InputKind.SIGNATURE_BASE, kid))

    def sign_jws(self, key: str, signing_input: bytes, kid: str | None = None) -> Signature:
        """Sign an RFC 7515 section 5.1 JWS signing input: base64url header, ".", base64url payload."""
        return self.sign(SignInput(key, signing_input, InputKind.JWS_SIGNING_INPUT, kid))

    def sign_message(self, key: str, message: bytes, kid: str | None = None) -> Signature:
        """Sign bytes that keyd does not read; only a key with purpose raw does that."""
        return self.sign(SignInput(key, message, InputKind.MESSAGE, kid))

    def sign_rebuilding(self, key: str, build: Callable[[KeyInfo], bytes]) -> tuple[Signature, KeyInfo]:
        """Build a signature base for the active kid and sign it; when the key was rotated in between, build and sign once more.

        Args:
            key: its name.
            build: returns the base; called once or twice, with ``active`` set.

        Returns:
            The signature, and the key for which the base that was signed was built.
        """
        try:
            return self._build_and_sign(self.key_info(key), build)
        except KeyStateError:
            return self._build_and_sign(self.key_info(key, refresh=True), build)

    def sign_batch(self, items: Iterable[SignInput]) -> list[Signature | KeydClientError]:
        """Sign many inputs in as few calls as possible; each has its own result or error, in their order."""
        results: list[Signature | KeydClientError] = []
        for request in calls.batch_requests(items):
            results += calls.batch_results(request, self._call(self._stub.SignBatch, request))
        return results

    def sign_jwt(
        self, key: str, claims: Mapping[str, Any], typ: str, lifetime: float | None = None, kid: str | None = None
    ) -> str:
        """Return a signed JWT (RFC 7519), compact; keyd builds its header.

        Args:
            key: name of the key.
            claims: JSON values; keyd adds ``iat`` where it is missing.
            typ: of the header; one that the key's profile lists.
            lifetime: seconds from now until ``exp``; not together with an ``exp`` claim.
            kid: sign with this version; None for the active one.
        """
        return self._call(self._stub.SignJWT, calls.jwt_request(key, claims, typ, lifetime, kid)).token

    def issue_agent_token(
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
        """Have an agent token made for a key that is no session's.

        Args:
            issuer_key: name of the key that signs it.
            subject: the agent's identifier; may be empty where the grant has exactly one.
            key: name of the key in keyd that it binds. Either this or ``public_jwk``.
            public_jwk: the public JWK of a key elsewhere, where the grant allows that.
            kind: ``aauth`` or ``lumoauth``.
            lifetime: in seconds; None: as long as the grant allows.
            claims: further ones, of those that the grant lets the caller choose.
            audiences: ``aud``, for ``lumoauth``.

        Raises:
            ValueError: an unknown ``kind``, or not exactly one of ``key`` and ``public_jwk``.
        """
        request = agent_tokens.issue_request(
            issuer_key, subject, key=key, public_jwk=public_jwk, kind=kind, lifetime=lifetime, claims=claims, audiences=audiences
        )
        stub = session_service_pb2_grpc.SessionServiceStub(self._channel)
        return agent_tokens.agent_token(self._call(stub.IssueAgentToken, request))

    def jwks(self, key: str | None = None, *, issuer: str | None = None) -> dict[str, Any]:
        """Return the JWK Set (RFC 7517 section 5) as it is published, of one key, of an issuer, or of all."""
        return {"keys": self.jwk_set(key, issuer=issuer).keys}

    def jwk_set(self, key: str | None = None, *, issuer: str | None = None) -> JwkSet:
        """Return the same with its octets, entity tag and max-age, for whoever serves it on."""
        return calls.jwk_set(self._call(self._stub.GetJWKS, pb.GetJWKSRequest(key=key or "", issuer=issuer or "")))

    def watch(self, watched: Iterable[str], *, retries: float | None = None) -> Iterator[KeyInfo]:
        """Return each of these keys now, and again whenever it changes, without end.

        Connects again when keyd goes away, and raises Unavailable after ``retries`` attempts in a row that brought nothing: by
        default those of the client; with ``math.inf`` it never gives up, and tries every 5 s in the end. Each key comes again after
        that, changed or not. What it returns also refreshes what :meth:`key_info` remembers.
        """
        request = pb.WatchKeysRequest(keys=watched)
        attempts = self._endless(retries)
        while True:
            call = self._stub.WatchKeys(request)
            try:
                for response in call:
                    yield self._cache.put(calls.key_info(response.key))
                    attempts = self._endless(retries)
                return
            except grpc.RpcError as exc:
                time.sleep(attempts.pause_after(exc))
            finally:
                call.cancel()

    def private_key(self, key: str, kid: str | None = None) -> keys.PrivateKey:
        """Return an object that the ``cryptography`` library and those on top of it take for a private key.

        It is pinned to one version, its ``kid``: after a rotation get another, or use :meth:`with_private_key`. Its ``sign`` asks keyd.

        Args:
            key: its name.
            kid: of the version; None for the one that is active now.

        Raises:
            NotFound: no version that is published or may sign has this kid.
        """
        info = self.key_info(key)
        if kid is not None and all(version.kid != kid for version in info.versions):
            info = self.key_info(key, refresh=True)  # it may be newer than what is remembered
        version = calls.active_version(info) if kid is None else calls.version_of(info, kid)

        def sign(data: bytes) -> bytes:
            return self.sign(SignInput(key, data, kind_of(data), version.kid)).signature

        return keys.private_key(info, version, sign)

    def with_private_key(self, key: str, use: Callable[[keys.PrivateKey], Made]) -> Made:
        """Let a library sign with a key, and once more with its new version when it was rotated in between.

        Args:
            key: its name.
            use: called once or twice, with what :meth:`private_key` returns. Whatever names the key, such as a ``kid`` or the ``cnf`` of
                a token, it takes from there.

        Returns:
            What ``use`` returned.

        Raises:
            KeydClientError: keyd does not sign; this, and not what the library makes of it.
        """
        try:
            with unwrapped():
                return use(self.private_key(key))
        except KeyStateError:
            self.key_info(key, refresh=True)
            with unwrapped():
                return use(self.private_key(key))

    def open_session(
        self, issuer_key: str, subject: str | None = None, *, parent: Session | None = None, **fields: Unpack[SessionFields]
    ) -> Session:
        """Open a session: a new key in keyd's memory, and a token by ``issuer_key`` that binds it. A grant has to allow it.

        Args:
            issuer_key: name of the key that signs the tokens.
            subject: the agent's identifier; may be left out where the grant has exactly one.
            parent: a session of this client; the new one is for a sub-agent of it, and ends with it.
            fields: see :class:`keyd.client.session_state.SessionFields`.

        Raises:
            ValueError: there is no such kind or algorithm.
        """
        wanted = Wanted.of(issuer_key, subject, fields)
        return Session(self._channel, self._call, self._endless, self._clock, wanted, parent)

    def _build_and_sign(self, info: KeyInfo, build: Callable[[KeyInfo], bytes]) -> tuple[Signature, KeyInfo]:
        kid = calls.active_version(info).kid
        return self.sign_base(info.name, build(info), kid), info

    def _endless(self, retries: float | None) -> Attempts:
        return Attempts(float("inf"), self._retries if retries is None else retries, self._address)
