"""Run in the environment `peers`: reads a case from standard input, and prints what each library makes of its token.

They find the keys as they do on the internet: by ``iss`` and ``dwk`` of the token. Replaced is only where HTTPS leads to: every host is
keyd's endpoint at ``base``, told apart by ``Host``.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import httpx2
from aauth.keys.jwks import JWKSFetcher
from aauth.tokens.common import parse_jwt, verify_token
from aauth.tokens.resource_token import verify_resource_token
from introspection_aauth.protocol import jwt
from introspection_aauth.protocol.claims import ResourceTokenClaims
from introspection_aauth.protocol.discovery import Discovery
from introspection_aauth.protocol.verification import verify_agent_token

case: dict[str, Any] = json.load(sys.stdin)
fetched: list[str] = []


def get(url: str) -> httpx.Response:
    parts = urlsplit(url)
    assert parts.scheme == "https"
    fetched.append(url)
    return httpx.get(case["base"] + parts.path, headers={"Host": parts.netloc}, trust_env=False)


class Http:
    """What ``JWKSFetcher`` takes as its HTTP client."""

    async def fetch_json(self, url: str) -> Any:
        return get(url).raise_for_status().json()


def keys(issuer: str, dwk: str, kid: str) -> Any:
    """Return the keys that aauth's verifier asks for; those that the test has itself are not keyd's."""
    if issuer in case.get("others", {}):
        return case["others"][issuer]
    return asyncio.run(JWKSFetcher(http_client=Http()).fetch(issuer, kid, dwk))


def revoked(issuer: str, jti: str) -> bool:
    """Look the token up in the list that the issuer's own document leads to."""
    if issuer in case.get("others", {}):
        return False
    uri = get(f"{issuer}/.well-known/aauth-agent.json").json().get("revoked_tokens_uri")
    return uri is not None and any(entry["jti"] == jti for entry in get(uri).json()["revoked"])


def aauth() -> str:
    if parse_jwt(case["token"])[0]["typ"] == "aa-resource+jwt":
        claims = verify_resource_token(
            case["token"],
            keys,
            presented_token=case["presented"],
            expected_aud=case["aud"],
            expected_agent_jkt=case["agent_jkt"],
        )
    else:
        claims = verify_token(case["token"], keys, revocation_checker=revoked)
    return str(claims["sub"])


async def introspection() -> str:
    def answer(request: httpx2.Request) -> httpx2.Response:
        response = get(str(request.url))
        return httpx2.Response(response.status_code, headers=dict(response.headers), content=response.content)

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer), trust_env=False) as http:
        discovery, now = Discovery(http), int(time.time())
        header, claims = jwt.peek(case["token"])
        if header.typ == jwt.AGENT_TOKEN:
            return (await verify_agent_token(case["token"], discovery, {str(claims.iss)}, now)).sub
        read = await discovery.verified(
            str(claims.iss),
            str(claims.dwk),
            lambda found: jwt.verify(case["token"], found, jwt.RESOURCE_TOKEN, now, ResourceTokenClaims),
        )
        return str(read.sub)


def verdict(check: Any) -> str:
    try:
        return f"verified: {check()}"
    except Exception as exc:
        return f"refused: {getattr(exc, 'error_code', '') or getattr(exc, 'code', '') or type(exc).__name__}"


verdicts = {"aauth": verdict(aauth), "introspection-aauth": verdict(lambda: asyncio.run(introspection()))}
print(json.dumps({**verdicts, "fetched": sorted(set(fetched))}))
