"""A request of aiohttp, signed in keyd."""

import asyncio
import os
import sys

import aiohttp

from keyd.client import AsyncClient, KeydClientError
from keyd.client.aiohttp_auth import keyd_middleware


async def main() -> bool:
    async with (
        AsyncClient() as keyd,
        aiohttp.ClientSession(middlewares=[keyd_middleware(keyd, os.environ["KEYD_KEY"])]) as http,
        http.post(os.environ["RESOURCE_URL"], json={"item": 7}) as response,
    ):
        print(response.status, await response.text())
        return response.ok


try:
    sys.exit(not asyncio.run(main()))
except KeydClientError as refusal:
    sys.exit(f"keyd signed nothing: {refusal}")
