"""What each library's own verifier says of a request. Where a library has none, an independent check of the raw signature."""

from __future__ import annotations

# Each function imports its library itself: no environment has them all.
import asyncio
import base64
import hashlib
import json
import time
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from peers.request import Alter, Request, Verify, another_authority, another_path, another_token

ISSUER = "https://agents.example"
METADATA = f"{ISSUER}/.well-known/aauth-agent.json"


def fetch(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=10) as response:
        document: dict[str, Any] = json.load(response)
        return document


class Web:
    """What the verifiers fetch of the issuer, from where keyd serves it in the clear. Its metadata keyd does not serve."""

    def __init__(self, issuer_jwks_url: str) -> None:
        self._url = issuer_jwks_url

    def get(self, url: str) -> bytes:
        if url == METADATA:
            return json.dumps({"issuer": ISSUER, "jwks_uri": f"{ISSUER}/jwks.json"}).encode()
        assert url in (f"{ISSUER}/jwks.json", f"{ISSUER}/.well-known/http-message-signatures-directory"), url
        return json.dumps(fetch(self._url)).encode()


def http_message_signatures(algorithm: str, jwks_url: str, issuer_jwks_url: str) -> Verify:
    from http_message_signatures import HTTPMessageVerifier, HTTPSignatureKeyResolver, algorithms
    from joserfc.jwk import import_key

    class Resolver(HTTPSignatureKeyResolver):
        def resolve_public_key(self, key_id: str) -> Any:
            return import_key(next(jwk for jwk in fetch(jwks_url)["keys"] if jwk["kid"] == key_id)).public_key

        def resolve_private_key(self, key_id: str) -> Any:
            raise AssertionError("a verifier asks for no private key")

    names = {
        "Ed25519": "ED25519",
        "ES256": "ECDSA_P256_SHA256",
        "ES384": "ECDSA_P384_SHA384",
        "PS512": "RSA_PSS_SHA512",
        "RS256": "RSA_V1_5_SHA256",
    }
    verifier = HTTPMessageVerifier(signature_algorithm=getattr(algorithms, names[algorithm]), key_resolver=Resolver())

    def verify(request: Request) -> str:
        (result,) = verifier.verify(request)
        if request.body:
            assert f"sha-256=:{base64.b64encode(hashlib.sha256(request.body).digest()).decode()}:" in str(
                result.covered_components
            )
        return str(result.parameters["keyid"])

    return verify


def pyjwt(algorithm: str, jwks_url: str, issuer_jwks_url: str) -> Verify:
    import jwt

    accepted = "EdDSA" if algorithm == "Ed25519" else algorithm  # PyJWT takes no JWK whose `alg` is Ed25519

    def verify(request: Request) -> str:
        token = request.headers["authorization"].removeprefix("Bearer ")
        kid = jwt.get_unverified_header(token)["kid"]
        (key,) = [jwt.PyJWK(jwk | {"alg": accepted}) for jwk in fetch(jwks_url)["keys"] if jwk["kid"] == kid]
        return str(jwt.decode(token, key, algorithms=[accepted], audience="https://shop.example")["iss"])

    return verify


def joserfc(algorithm: str, jwks_url: str, issuer_jwks_url: str) -> Verify:
    from joserfc import jwt
    from joserfc.jwk import KeySet

    def verify(request: Request) -> str:
        keys = KeySet.import_key_set(fetch(jwks_url))  # type: ignore[arg-type]
        token = jwt.decode(request.headers["authorization"].removeprefix("Bearer "), keys, algorithms=[algorithm])
        jwt.JWTClaimsRegistry(aud={"essential": True, "value": "https://shop.example"}).validate(token.claims)
        return str(token.claims["iss"])

    return verify


def aauth(algorithm: str, jwks_url: str, issuer_jwks_url: str) -> Verify:
    from aauth.resource.verifier import RequestVerifier

    def verify(request: Request) -> str:
        verifier = RequestVerifier(
            {urlsplit(request.url).netloc}, lambda iss, dwk, kid: fetch(issuer_jwks_url), resource_id="https://shop.example"
        )
        result = verifier.verify_request(request.method, request.url, dict(request.headers), request.body or None)
        if not result["valid"]:
            raise ValueError(result["error"])
        return str(result["agent_id"])

    return verify


def aauth_signing(algorithm: str, jwks_url: str, issuer_jwks_url: str) -> Verify:
    from aauth_signing import parse_signature_key, verify_signature
    from aauth_signing.tokens.agent_token import verify_agent_token

    def fetcher(iss: str, dwk: str, kid: str) -> dict[str, Any]:
        return fetch(issuer_jwks_url)

    def verify(request: Request) -> str:
        shown = [request.headers[name] for name in ("Signature-Input", "Signature", "Signature-Key")]
        body = request.body or None
        if not verify_signature(request.method, request.url, dict(request.headers), body, *shown, jwks_fetcher=fetcher):
            raise ValueError("the signature does not verify")
        return str(verify_agent_token(parse_signature_key(shown[2])["params"]["jwt"], fetcher)["sub"])

    return verify


def introspection(algorithm: str, jwks_url: str, issuer_jwks_url: str) -> Verify:
    import httpx2
    from introspection_aauth.protocol.discovery import Discovery
    from introspection_aauth.protocol.errors import Unauthorized
    from introspection_aauth.protocol.httpsig import SignedRequest
    from introspection_aauth.protocol.verification import verify_agent

    web = Web(issuer_jwks_url)

    def answer(asked: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=web.get(str(asked.url)))

    def verify(request: Request) -> str:
        discovery = Discovery(httpx2.AsyncClient(transport=httpx2.MockTransport(answer), trust_env=False))
        signed = SignedRequest(request.method, request.url, request.headers, request.body or None)
        try:
            return str(asyncio.run(verify_agent(signed, discovery, {ISSUER}, int(time.time()))).id)
        except Unauthorized as exc:
            raise ValueError(f"{exc.__cause__ or exc.__context__ or exc}") from exc

    return verify


def regent(algorithm: str, jwks_url: str, issuer_jwks_url: str) -> Verify:
    import httpx
    from regent_httpsig import HttpsigConfig, HttpsigVerifier, VerifiedSignature

    web = Web(issuer_jwks_url)

    def answer(asked: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=web.get(str(asked.url)))

    def verify(request: Request) -> str:
        config = HttpsigConfig(insecure_hosts=frozenset({"agents.example"}))  # so that it does not look the name up
        client = httpx.AsyncClient(transport=httpx.MockTransport(answer), trust_env=False)
        checked = HttpsigVerifier(config, http_client=client)
        result = asyncio.run(checked.verify_detailed(request.method, request.url, request.headers, request.body or None))
        if not isinstance(result, VerifiedSignature):
            raise ValueError(f"{result}")  # noqa: TRY004 - what it answers instead of raising
        return f"{result.scheme} {result.sub or result.agent}"

    return verify


def wbauth(algorithm: str, jwks_url: str, issuer_jwks_url: str) -> Verify:
    from wbauth.verifier import Verifier

    async def resolve(kid: str, signature_agent: str | None) -> dict[str, Any] | None:
        assert signature_agent == ISSUER
        return next((jwk for jwk in fetch(jwks_url)["keys"] if jwk["kid"] == kid), None)

    def verify(request: Request) -> str:
        return str(
            asyncio.run(Verifier(key_resolver=resolve).verify(request.method, request.url, request.headers, request.body)).kid
        )

    return verify


def raw_lumoauth(algorithm: str, jwks_url: str, issuer_jwks_url: str) -> Verify:
    """The SDK has no verifier: its base is built here once more, from what its documents say is covered."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from joserfc import jws
    from joserfc.jwk import KeySet

    def octets(text: str) -> bytes:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

    def verify(request: Request) -> str:
        token = request.headers["agent-auth"].removeprefix("agent_token=")
        issued = jws.deserialize_compact(token, KeySet.import_key_set(fetch(issuer_jwks_url)), algorithms=["Ed25519"])  # type: ignore[arg-type]
        claims = json.loads(issued.payload)
        (bound,) = [jwk for jwk in KeySet.import_key_set(fetch(jwks_url)).keys if jwk.thumbprint() == claims["cnf"]["jkt"]]  # type: ignore[arg-type]
        digest = f"sha-256=:{base64.b64encode(hashlib.sha256(request.body).digest()).decode()}:"
        parts = urlsplit(request.url)
        params = request.headers["signature-input"].removeprefix("sig1=")
        lines = {
            "@method": request.method,
            "@authority": parts.netloc,
            "@path": parts.path,
            "signature-key": "",
            "content-digest": digest,
            "content-type": request.headers["content-type"],
            "authorization": "",
        }
        base = "".join(f'"{name}": {value}\n' for name, value in lines.items()) + f'"@signature-params": {params}'
        assert params.startswith("(" + " ".join(f'"{name}"' for name in lines) + ");created=")
        signature = octets(request.headers["signature"].removeprefix("sig1=:").removesuffix(":"))
        Ed25519PublicKey.from_public_bytes(octets(str(bound["x"]))).verify(signature, base.encode())
        return str(claims["sub"])

    return verify


VERIFIERS: dict[str, tuple[Any, Alter]] = {
    "http-message-signatures": (http_message_signatures, another_path),
    "PyJWT": (pyjwt, another_token),
    "joserfc": (joserfc, another_token),
    "aauth": (aauth, another_path),
    "aauth-signing": (aauth_signing, another_path),
    "introspection-aauth": (introspection, another_path),
    "regent-httpsig": (regent, another_path),
    "wbauth-sdk": (wbauth, another_authority),
    "lumoauth": (raw_lumoauth, another_path),
}
