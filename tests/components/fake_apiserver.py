"""A fake of the part of kube-apiserver that talks to an external signer of service account tokens (KEP-740).

There is no kube-apiserver among the packages that the tests can have, so this refuses and accepts what that of Kubernetes does: it
starts in the same steps, has a cache of keys that behaves alike, and checks what it is given by the same rules. Its HTTP side is
not there: :meth:`token_request` is the TokenRequest API, :meth:`authenticate` is what happens to a bearer token, :meth:`discovery` is
the JWK Set of the OIDC documents. Time for the next fetch passes when the test says so.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc.aio
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from keyd.externaljwt.v1 import api_pb2 as pb
from keyd.externaljwt.v1 import api_pb2_grpc

ALGORITHMS = ("RS256", "ES256", "ES384", "ES512")
HEADER_MEMBERS = {"alg", "kid", "typ"}
MIN_EXPIRATION, YEAR = 600, 365 * 86400
RETRY = 10.0  # seconds after a fetch that failed


class RefusedError(Exception):
    """kube-apiserver does not take what the signer said."""


class FatalError(Exception):
    """kube-apiserver does not start."""


@dataclass(frozen=True)
class CachedKey:
    kid: str
    key: Any
    excluded: bool


@dataclass(frozen=True)
class VerificationKeys:
    keys: tuple[CachedKey, ...] = ()
    data_timestamp: tuple[int, int] | None = None
    hint: int = 0


class KeyCache:
    """The keys as last fetched. One fetch at a time, whoever wants one; a bad answer changes nothing."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self._flight: asyncio.Task[None] | None = None
        self.current = VerificationKeys()
        self.fetches = 0
        self.broadcasts = 0

    async def sync(self) -> None:
        if self._flight is None:
            self._flight = asyncio.ensure_future(self._fetch())
            self._flight.add_done_callback(self._landed)
        await asyncio.shield(self._flight)

    def _landed(self, flight: asyncio.Task[None]) -> None:
        self._flight = None
        if not flight.cancelled():
            flight.exception()

    async def _fetch(self) -> None:
        self.fetches += 1
        new = verified(await self._stub.FetchKeys(pb.FetchKeysRequest(), wait_for_ready=True, timeout=60))
        old, self.current = self.current, new
        if changed(old, new):
            self.broadcasts += 1

    def find(self, kid: str) -> list[CachedKey]:
        return [key for key in self.current.keys if key.kid == kid]

    async def get(self, kid: str) -> list[CachedKey]:
        found = self.find(kid)
        if not found:
            try:
                await self.sync()
            except (RefusedError, grpc.aio.AioRpcError):
                return []
            found = self.find(kid)
        return found


def verified(answer: Any) -> VerificationKeys:
    """Hold an answer to the rules of kube-apiserver's key cache. One bad key spoils all of it."""
    if answer.refresh_hint_seconds <= 0:
        raise RefusedError("invalid refresh hint")
    if not answer.keys:
        raise RefusedError("found no keys")
    stamp = answer.data_timestamp
    if not answer.HasField("data_timestamp") or not 0 <= stamp.nanos < 10**9 or not -62135596800 <= stamp.seconds < 253402300800:
        raise RefusedError("invalid data timestamp")
    keys = []
    for each in answer.keys:
        if not 1 <= len(each.key_id.encode()) <= 1024:
            raise RefusedError("invalid public key id")
        if not each.key:
            raise RefusedError("empty public key")
        try:
            keys.append(CachedKey(each.key_id, load_der_public_key(each.key), each.exclude_from_oidc_discovery))
        except ValueError:
            raise RefusedError("public key does not parse") from None
    return VerificationKeys(tuple(keys), (stamp.seconds, stamp.nanos), answer.refresh_hint_seconds)


def changed(old: VerificationKeys, new: VerificationKeys) -> bool:
    """Say what kube-apiserver takes for a change; it does not look at the keys themselves."""
    return old.data_timestamp != new.data_timestamp or [(k.kid, k.excluded) for k in old.keys] != [
        (k.kid, k.excluded) for k in new.keys
    ]


class FakeApiserver:
    """``max_expiration`` is ``--service-account-max-token-expiration``; ``clock`` tells the seconds since the epoch."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        clock: Callable[[], float],
        *,
        issuer: str = "https://kubernetes.default.svc",
        max_expiration: int | None = None,
    ) -> None:
        self._stub = api_pb2_grpc.ExternalJWTSignerStub(channel)  # type: ignore[arg-type]
        self._clock = clock
        self._issuer = issuer
        self._flag = max_expiration
        self.cache = KeyCache(self._stub)
        self.max_expiration = 0
        self.next_fetch = 0.0

    @staticmethod
    def dial(endpoint: str) -> grpc.aio.Channel:
        """Connect as kube-apiserver does with ``--service-account-signing-endpoint``: a path, or ``@name`` for an abstract socket."""
        target = f"unix-abstract:{endpoint[1:]}" if endpoint.startswith("@") else f"unix:{endpoint}"
        options = [("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
        return grpc.aio.insecure_channel(target, options=options)

    async def start(self) -> None:
        """Fetch keys, within 60 s, and metadata, within 10 s."""
        try:
            await self.cache.sync()
            metadata = await self._stub.Metadata(pb.MetadataRequest(), wait_for_ready=True, timeout=10)
        except (grpc.aio.AioRpcError, RefusedError) as error:
            raise FatalError(str(error)) from error
        longest = metadata.max_token_expiration_seconds
        if longest < MIN_EXPIRATION:
            raise FatalError("max token expiration of the signer is too short")
        if self._flag is not None and self._flag > longest:
            raise FatalError("service-account-max-token-expiration is more than the signer supports")
        self.max_expiration = longest if self._flag is None else self._flag
        self.next_fetch = self._clock() + self.cache.current.hint

    async def tick(self) -> None:
        """Fetch, if it is time."""
        if self._clock() < self.next_fetch:
            return
        try:
            await self.cache.sync()
            self.next_fetch = self._clock() + self.cache.current.hint
        except (RefusedError, grpc.aio.AioRpcError):
            self.next_fetch = self._clock() + RETRY

    async def token_request(self, seconds: int = 3600, **claims: Any) -> str:
        """Have a token signed; its life is capped, as the TokenRequest API does."""
        now = int(self._clock())
        life = min(seconds, self.max_expiration)
        payload = {
            "aud": [self._issuer],
            "exp": now + life,
            "iat": now,
            "iss": self._issuer,
            "jti": "7d1b6a1e-2f3c-4b8e-9a51-3c0e8f4f2f10",
            "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "till", "uid": "a1b2"}},
            "nbf": now,
            "sub": "system:serviceaccount:shop:till",
            **claims,
        }
        return await self.sign(json.dumps(payload, separators=(",", ":")).encode())

    async def sign(self, payload: bytes) -> str:
        """Have exactly these octets signed, and assemble the token."""
        claims = base64.urlsafe_b64encode(payload).rstrip(b"=").decode()
        answer = await self._stub.Sign(pb.SignJWTRequest(claims=claims), wait_for_ready=True, timeout=30)
        await self._check_header(answer.header)
        if not answer.signature:
            raise RefusedError("empty signature")
        return f"{answer.header}.{claims}.{answer.signature}"

    async def _check_header(self, encoded: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]*", encoded) or len(encoded) % 4 == 1:
            raise RefusedError("header is not base64url without padding")
        try:
            header = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
        except ValueError:
            raise RefusedError("header is not JSON") from None
        if not isinstance(header, dict) or not header.keys() <= HEADER_MEMBERS:
            raise RefusedError("header has unknown fields")
        kid = header.get("kid", "")
        if header.get("typ") != "JWT":
            raise RefusedError("bad type")
        if not kid:
            raise RefusedError("key id missing")
        if len(kid.encode()) > 1024:
            raise RefusedError("key id longer than 1 kb")
        if header.get("alg") not in ALGORITHMS:
            raise RefusedError("bad signing algorithm")
        if any(key.excluded for key in await self.cache.get(kid)):
            raise RefusedError("key is excluded from OIDC discovery docs")

    async def authenticate(self, token: str) -> dict[str, Any]:
        """Verify a bearer token with the keys of its kid, any of which will do. Raises RefusedError."""
        header = jwt.get_unverified_header(token)
        for each in await self.cache.get(header["kid"]):
            try:
                claims: dict[str, Any] = jwt.decode(
                    token,
                    each.key,
                    algorithms=algorithms_of(each.key),
                    options={"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False},
                )
            except jwt.InvalidTokenError:
                continue
            if claims["exp"] <= self._clock():
                raise RefusedError("token has expired")
            if claims["iss"] == self._issuer and self._issuer in claims["aud"]:
                return claims
        raise RefusedError("invalid bearer token")

    def discovery(self) -> list[str]:
        """Return the kids of the keys that the OIDC documents show."""
        return [key.kid for key in self.cache.current.keys if not key.excluded]


def algorithms_of(key: Any) -> list[str]:
    if isinstance(key, rsa.RSAPublicKey):
        return ["RS256"]
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return [{"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}[key.curve.name]]
