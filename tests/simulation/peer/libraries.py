"""The libraries themselves, as they are installed. Replaced are only their clock (:meth:`Web.rule_time`) and their transport."""

from __future__ import annotations

import base64
import datetime as dt
import io
import urllib.error
import urllib.request
from math import inf
from types import SimpleNamespace
from typing import Any

import http_message_signatures.signatures
import httpx
import httpx2
import jwt.jwks_client
import regent_httpsig.verify
from aauth.keys.jwks import JWKSFetcher
from aauth.tokens.common import verify_jwt
from introspection_aauth.protocol.discovery import Discovery
from introspection_aauth.protocol.keys import verify as introspection_verify
from jwt import PyJWKClient
from regent_httpsig import HttpsigVerifier
from wbauth.verifier import JwksCache, Verifier

from simulation.peer.verifier import Artifact, Jwk, UntrustedError, check_signature
from simulation.peer.web import DIRECTORY, Web, issuer

_JWT, _WBA = frozenset({"jwt"}), frozenset({"wba"})
_BOTH, _ED25519 = frozenset({"Ed25519", "ES256"}), frozenset({"Ed25519"})
_DWK = "aauth-agent.json"


class Aauth:
    """``aauth.keys.jwks.JWKSFetcher.fetch``, given an HTTP client (its constructor takes one), and ``verify_jwt``. ``time.time``."""

    name, known_as, forms, algorithms = "aauth", "aauth", _JWT, _BOTH
    longest, learns, forgets = inf, 60.0, 3600.0

    def __init__(self, web: Web) -> None:
        self._web = web
        self._fetcher = JWKSFetcher(http_client=self)

    async def fetch_json(self, url: str) -> Any:
        status, _, body = self._web.get(url)
        if status != 200:
            raise OSError(f"{url} answered {status}")
        return httpx.Response(status, content=body).json()

    async def key(self, key: str, kid: str) -> Jwk:
        jwks = await self._fetcher.fetch(issuer(key), kid, _DWK)
        jwk: Jwk | None = self._fetcher.get_key_by_kid(jwks, kid)
        if jwk is None:
            raise UntrustedError(f"no kid {kid!r}")
        return jwk

    async def verify(self, artifact: Artifact) -> None:
        verify_jwt(artifact.token, await self._fetcher.fetch(issuer(artifact.key), artifact.kid, _DWK))


class Introspection:
    """``Discovery.key`` over an ``httpx2`` client with a transport of ours, its ``clock`` given, and ``keys.verify``."""

    name, known_as, forms, algorithms = "introspection-aauth", "introspection-aauth", _JWT, _BOTH
    longest, learns, forgets = inf, 30.0, 300.0

    def __init__(self, web: Web) -> None:
        def answer(request: httpx2.Request) -> httpx2.Response:
            status, headers, body = web.get(str(request.url))
            return httpx2.Response(status, headers=headers, content=body)

        self._discovery = Discovery(httpx2.AsyncClient(transport=httpx2.MockTransport(answer), trust_env=False), clock=web.clock)

    async def key(self, key: str, kid: str) -> Jwk:
        found = await self._discovery.key(issuer(key), _DWK, kid)
        return {"kty": found.kty, "crv": found.crv, "x": found.x, "y": found.y}

    async def verify(self, artifact: Artifact) -> None:
        found = await self._discovery.key(issuer(artifact.key), _DWK, artifact.kid)
        if not introspection_verify(found, artifact.data, artifact.signature):
            raise UntrustedError("the signature is not that key's")


class Pyjwt:
    """One ``PyJWKClient`` a URL, with ``urllib.request.build_opener`` of its module replaced. ``time.monotonic``.

    It skips keys whose ``alg`` is "Ed25519", which it does not know, so it is given the document that spells it "EdDSA".
    """

    name, known_as, forms, algorithms = "PyJWT PyJWKClient", "PyJWT", _JWT, _BOTH
    longest, learns, forgets = inf, 30.0, 300.0

    def __init__(self, web: Web) -> None:
        self._clients: dict[str, PyJWKClient] = {}

        class Opener:
            def open(self, request: urllib.request.Request, timeout: float) -> io.BytesIO:
                status, _, body = web.get(request.full_url)
                if status != 200:
                    raise urllib.error.URLError(f"answered {status}")
                return io.BytesIO(body)

        seen = {**vars(urllib.request), "build_opener": lambda *handlers: Opener()}
        jwt.jwks_client.urllib = SimpleNamespace(request=SimpleNamespace(**seen))  # type: ignore[attr-defined]

    def _key(self, key: str, kid: str) -> jwt.PyJWK:
        client = self._clients.get(key)
        if client is None:
            client = self._clients[key] = PyJWKClient(issuer(key) + "/legacy.json")
        return client.get_signing_key(kid)

    async def key(self, key: str, kid: str) -> Jwk:
        return self._key(key, kid)._jwk_data

    async def verify(self, artifact: Artifact) -> None:
        found = self._key(artifact.key, artifact.kid)
        if not found.Algorithm.verify(artifact.data, found.key, artifact.signature):
            raise UntrustedError("the signature is not that key's")


class _Regent:
    """``HttpsigVerifier`` with an ``httpx`` client of ours; the guard that resolves host names lets ours through. ``time.monotonic``.

    One cache of 256 documents, whatever number of issuers: with more it forgets some sooner.
    """

    def __init__(self, web: Web) -> None:
        def answer(request: httpx.Request) -> httpx.Response:
            status, headers, body = web.get(str(request.url))
            return httpx.Response(status, headers=headers, content=body)

        async def admit(url: str, allow_hosts: frozenset[str] = frozenset()) -> None: ...

        class Datetime(dt.datetime):
            @classmethod
            def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:
                return dt.datetime.fromtimestamp(web.now, tz)

        regent_httpsig.verify.assert_public_url = admit
        seen = {**vars(dt), "datetime": Datetime}
        http_message_signatures.signatures.datetime = SimpleNamespace(**seen)  # type: ignore[assignment]
        self._verifier = HttpsigVerifier(http_client=httpx.AsyncClient(transport=httpx.MockTransport(answer), trust_env=False))


class RegentJwks(_Regent):
    """The path of AAuth servers and tokens: ``_jwks_key``, through which both of its public ways get an issuer's key."""

    name, known_as, forms, algorithms = "regent-httpsig, JWKS", "regent-httpsig", _JWT, _BOTH
    longest, learns, forgets = inf, 0.0, 600.0

    async def key(self, key: str, kid: str) -> Jwk:
        url = await self._verifier._issuer_jwks_url(issuer(key), _DWK)
        jwk: Jwk = await self._verifier._jwks_key(url, kid)
        return jwk

    async def verify(self, artifact: Artifact) -> None:
        check_signature(await self.key(artifact.key, artifact.kid), artifact)


class RegentBots(_Regent):
    """Web Bot Auth: ``verify_detailed``, all of it; between whiles only ``_fetch_json`` and ``_keys_from_jwks``, which it uses."""

    name, known_as, forms, algorithms = "regent-httpsig, Web Bot Auth", "regent-httpsig (key directory)", _WBA, _ED25519
    longest, learns, forgets = inf, 600.0, 600.0

    async def key(self, key: str, kid: str) -> Jwk:
        document = await self._verifier._fetch_json(issuer(key) + DIRECTORY)
        found = regent_httpsig.verify._keys_from_jwks(document or {}).get(kid)
        if found is None:
            raise UntrustedError(f"no kid {kid!r}")
        return {"kty": "OKP", "crv": "Ed25519", "x": base64.urlsafe_b64encode(found.public_bytes_raw()).rstrip(b"=").decode()}

    async def verify(self, artifact: Artifact) -> None:
        verified = await self._verifier.verify_detailed("GET", "https://shop.example/", request_headers(artifact))
        if not isinstance(verified, regent_httpsig.verify.VerifiedSignature):
            raise UntrustedError(f"{verified}")


class Wbauth:
    """``wbauth.verifier.Verifier.verify`` over a ``JwksCache`` with an ``httpx`` client of ours. ``time.monotonic``, ``time.time``."""

    name, known_as, forms, algorithms = "wbauth-sdk", "wbauth-sdk", _WBA, _ED25519
    longest, learns, forgets = 3600.0, 300.0, 300.0

    def __init__(self, web: Web) -> None:
        def answer(request: httpx.Request) -> httpx.Response:
            status, headers, body = web.get(str(request.url))
            return httpx.Response(status, headers=headers, content=body)

        client = httpx.AsyncClient(transport=httpx.MockTransport(answer), trust_env=False)
        self._verifier = Verifier(jwks_cache=JwksCache(client=client, allow_private=True))

    async def key(self, key: str, kid: str) -> Jwk:
        return await self._verifier._resolve(kid, issuer(key))

    async def verify(self, artifact: Artifact) -> None:
        await self._verifier.verify("GET", "https://shop.example/", request_headers(artifact))


def request_headers(artifact: Artifact) -> dict[str, str]:
    """Return the header fields of a request with that signature base."""
    parameters = artifact.data.decode().rpartition('"@signature-params": ')[2]
    return {
        "signature-agent": f'"{issuer(artifact.key)}"',
        "signature-input": f"sig={parameters}",
        "signature": f"sig=:{base64.b64encode(artifact.signature).decode()}:",
    }


LIBRARIES = (Aauth, Introspection, Pyjwt, RegentJwks, RegentBots, Wbauth)
