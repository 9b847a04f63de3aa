"""Run in an environment with wbauth-sdk: reads a signed request and a JWK Set from standard input, prints its verifier's verdict."""

from __future__ import annotations

import asyncio
import json
import sys

from wbauth.verifier import VerificationError, Verifier

case = json.load(sys.stdin)


async def resolve(kid: str, signature_agent: str | None) -> dict[str, str] | None:
    return next((jwk for jwk in case["jwks"]["keys"] if jwk["kid"] == kid), None)


try:
    agent = asyncio.run(Verifier(key_resolver=resolve).verify(case["method"], case["url"], case["headers"]))
except VerificationError as exc:
    print("refused:", exc)
else:
    print("verified:", agent.kid)
