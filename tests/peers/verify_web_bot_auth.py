"""Run in an environment with wbactl and wbauth-sdk: what they make of requests and of the directory that they fetch."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict

import httpx
from wbactl.directory import _parse_jwks
from wbactl.keys import try_jwk_thumbprint
from wbactl.verify import verify_request
from wbauth.verifier import JwksCache, VerificationError, Verifier

case = json.load(sys.stdin)
URL = f"{case['origin']}/.well-known/http-message-signatures-directory"


class Via(httpx.AsyncHTTPTransport):
    """Takes requests for the origin to keyd, as a proxy that ends TLS does."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        via = httpx.URL(case["via"])
        request.url = request.url.copy_with(scheme=via.scheme, host=via.host, port=via.port)
        return await super().handle_async_request(request)


async def wbauth() -> dict[str, object]:
    async with httpx.AsyncClient(transport=Via()) as client:
        cache = JwksCache(client=client, allow_private=True)
        verifier, verdicts = Verifier(jwks_cache=cache), []
        for request in case["requests"]:
            try:
                verdicts.append((await verifier.verify(request["method"], request["url"], request["headers"])).kid)
            except VerificationError as exc:
                verdicts.append(f"refused: {exc}")
        return {"listed": [key["kid"] for key in await cache.keys(URL)], "requests": verdicts}


async def wbactl() -> dict[str, object]:
    # Its own fetch takes no address that is not public, so only what it does with the answer is run.
    async with httpx.AsyncClient(transport=Via()) as client:
        jwks = _parse_jwks((await client.get(URL)).content)
    results = [asdict(verify_request(r["method"], r["url"], r["headers"], jwks)) for r in case["requests"]]
    verdicts = [result["keyid"] if result["ok"] else f"refused: {result['reason']}" for result in results]
    return {
        "listed": [try_jwk_thumbprint(key) for key in jwks["keys"]],
        "requests": verdicts,
        "agents": [result["signature_agent"] for result in results],
    }


print(json.dumps({"wbauth": asyncio.run(wbauth()), "wbactl": asyncio.run(wbactl())}))
