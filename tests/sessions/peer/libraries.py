"""The libraries themselves, as they are installed. Given to them are a clock, and the web that they fetch from."""

from __future__ import annotations

# Each class imports its library itself: a resource has one of them.
import asyncio
import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import urlsplit

from sessions.peer.request import JWKS, RefusedError, Request, Verified, Web


class Library(Protocol):
    """Verifies requests, with caches of its own."""

    def verify(self, request: Request) -> Verified:
        """Return who sent it. Raises RefusedError."""
        ...


class Introspection:
    """``verify_agent`` of introspection-aauth, over its own ``Discovery``."""

    def __init__(self, web: Web, clock: Callable[[], float], provider: str) -> None:
        import httpx2
        from introspection_aauth.protocol.discovery import Discovery

        def answer(request: httpx2.Request) -> httpx2.Response:
            status, headers, body = web.get(str(request.url))
            return httpx2.Response(status, headers=headers, content=body)

        self._discovery = Discovery(httpx2.AsyncClient(transport=httpx2.MockTransport(answer), trust_env=False), clock=clock)
        self._clock = clock
        self._provider = provider

    def verify(self, request: Request) -> Verified:
        from introspection_aauth.protocol.errors import AAuthError
        from introspection_aauth.protocol.httpsig import SignedRequest
        from introspection_aauth.protocol.verification import verify_agent

        signed = SignedRequest(request.method, request.url, request.headers, request.body)
        try:
            agent = _run(verify_agent(signed, self._discovery, {self._provider}, int(self._clock())))
        except AAuthError as exc:
            raise RefusedError(f"{exc.error}: {exc}") from exc
        return Verified(agent.id, agent.token)


class Aauth:
    """``RequestVerifier`` of aauth, over its own ``JWKSFetcher``. It asks ``time.time``, which the resource sets."""

    def __init__(self, web: Web, clock: Callable[[], float], provider: str) -> None:
        from aauth.keys.jwks import JWKSFetcher

        self._web = web
        self._provider = provider
        self._fetcher = JWKSFetcher(http_client=self)

    async def fetch_json(self, url: str) -> Any:
        status, _, body = self._web.get(url)
        if status != 200:
            raise OSError(f"{url} answered {status}")
        return json.loads(body)

    def verify(self, request: Request) -> Verified:
        from aauth.resource.verifier import RequestVerifier

        def keys(issuer: str, dwk: str, kid: str) -> Any:
            if issuer != self._provider:
                raise ValueError("its agent provider is not trusted here")
            return _run(self._fetcher.fetch(issuer, kid, dwk))

        verifier = RequestVerifier({urlsplit(request.url).netloc}, keys, resource_id="https://resource.example")
        answer = verifier.verify_request(request.method, request.url, dict(request.headers), request.body, require_identity=True)
        if not answer["valid"]:
            raise RefusedError(f"{answer['error_code']}: {answer['error']}")
        return Verified(answer["agent_id"], _shown(request.headers["signature-key"]))


class Regent:
    """``HttpsigVerifier`` of regent-httpsig. Its guard against private addresses is told to let the web of the tests through."""

    def __init__(self, web: Web, clock: Callable[[], float], provider: str) -> None:
        import httpx
        import regent_httpsig.verify
        from regent_httpsig import HttpsigVerifier

        def answer(request: httpx.Request) -> httpx.Response:
            status, headers, body = web.get(str(request.url))
            return httpx.Response(status, headers=headers, content=body)

        async def admit(url: str, allow_hosts: frozenset[str] = frozenset()) -> None: ...

        regent_httpsig.verify.assert_public_url = admit
        self._verifier = HttpsigVerifier(http_client=httpx.AsyncClient(transport=httpx.MockTransport(answer), trust_env=False))

    def verify(self, request: Request) -> Verified:
        from regent_httpsig import VerifiedSignature

        found = _run(self._verifier.verify_detailed(request.method, request.url, request.headers, body=request.body))
        if not isinstance(found, VerifiedSignature) or found.scheme != "aauth":
            raise RefusedError(f"{found}")
        token = _shown(request.headers["signature-key"])
        return Verified(_claims(token)["sub"], token)


class Lumoauth:
    """What LumoAuth's server checks, as its SDK tells of it. The SDK has no verifier, so this is one of ours, with `cryptography`."""

    _COVERED = "@method @authority @path signature-key content-digest content-type authorization"
    _INPUT = re.compile(r'sig1=(?P<parameters>\((?P<covered>[^)]*)\);created=(?P<created>[0-9]+);nonce="(?P<nonce>[\w-]{16,})")')
    _SIGNATURE = re.compile(r"sig1=:(?P<text>[\w-]+):")

    def __init__(self, web: Web, clock: Callable[[], float], provider: str) -> None:
        self._web = web
        self._clock = clock
        self._provider = provider

    def verify(self, request: Request) -> Verified:
        from cryptography.exceptions import InvalidSignature

        try:
            return self._verify(request)
        except (InvalidSignature, AssertionError, KeyError, StopIteration, ValueError) as exc:
            raise RefusedError(f"{type(exc).__name__}: {exc}") from exc

    def _verify(self, request: Request) -> Verified:
        token = request.headers["agent-auth"].removeprefix("agent_token=")
        header, claims = json.loads(_decode(token.split(".")[0])), _claims(token)
        assert (header["typ"], header["alg"], claims["iss"]) == ("agent+jwt", "EdDSA", self._provider)
        assert claims["iat"] <= self._clock() < claims["exp"], "the token is over"
        keys = json.loads(self._web.get(self._provider + JWKS)[2])["keys"]
        signed, _, signature = token.rpartition(".")
        _check(next(key for key in keys if key["kid"] == header["kid"]), _decode(signature), signed.encode())

        given = self._INPUT.fullmatch(request.headers["signature-input"])
        assert given is not None, "Signature-Input is not LumoAuth's"
        assert given["covered"].replace('"', "") == self._COVERED, "other components"
        assert abs(self._clock() - int(given["created"])) <= 60, "stale"
        digest = base64.b64encode(hashlib.sha256(request.body or b"").digest()).decode()
        assert request.headers["content-digest"] == f"sha-256=:{digest}:", "another body"
        parts = urlsplit(request.url)
        derived = {"@method": request.method, "@authority": parts.netloc, "@path": parts.path}
        values = {"signature-key": "", "authorization": ""} | dict(request.headers) | derived
        lines = [f'"{name}": {values[name]}' for name in self._COVERED.split()]
        base = "\n".join([*lines, f'"@signature-params": {given["parameters"]}']).encode()
        shown = self._SIGNATURE.fullmatch(request.headers["signature"])
        assert shown is not None, "Signature is not in base64url"
        _check(claims["cnf"]["jwk"], _decode(shown["text"]), base)
        return Verified(claims["sub"], token)


LIBRARIES: dict[str, Callable[[Web, Callable[[], float], str], Library]] = {
    "aauth": Aauth,
    "introspection-aauth": Introspection,
    "lumoauth": Lumoauth,
    "regent-httpsig": Regent,
}


_loop = asyncio.new_event_loop()
threading.Thread(target=_loop.run_forever, daemon=True).start()


def _run(coroutine: Any) -> Any:
    """Run in the one loop that the clients of the libraries live in."""
    return asyncio.run_coroutine_threadsafe(coroutine, _loop).result(30)


def _shown(signature_key: str) -> str:
    return signature_key.partition('jwt="')[2].removesuffix('"')


def _claims(token: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_decode(token.split(".")[1]))
    return found


def _check(jwk: dict[str, str], signature: bytes, data: bytes) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    Ed25519PublicKey.from_public_bytes(_decode(jwk["x"])).verify(signature, data)


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
