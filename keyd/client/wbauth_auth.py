"""Signs the requests of httpx with wbauth-sdk: ``httpx.Client(auth=KeydWebBotAuth(client, "bot", "https://bot.example"))``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from typing import Any

import httpx
from wbauth.adapters.httpx_auth import WebBotAuth
from wbauth.identity import Identity

from keyd.client.keys import PrivateKey
from keyd.client.sync import Client


class KeydWebBotAuth(httpx.Auth):
    """wbauth-sdk's ``WebBotAuth`` with a key in keyd. Follows rotations, which an ``Identity`` cannot: it is pinned to one version.

    httpx sends a redirected request with the signature of the first one, which does not fit it: leave ``follow_redirects`` off
    and send a request of your own.

    Args:
        client: asks keyd; for ``httpx.AsyncClient`` too.
        key: its name; Ed25519, with the profile ``web-bot-auth``.
        signature_agent_url: https URL of the key directory.
        user_agent: as for ``Identity``.
        options: those of ``WebBotAuth``, such as ``hosts`` and ``allow_insecure``.

    Raises:
        KeydClientError: by the request, when keyd does not sign it.
        TypeError: by the request, when the key is not Ed25519.
    """

    requires_request_body = True

    def __init__(
        self, client: Client, key: str, signature_agent_url: str, *, user_agent: str | None = None, **options: Any
    ) -> None:
        self._client = client
        self._key = key
        self._url = signature_agent_url
        self._user_agent = user_agent
        self._options = options

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Sign a request of ``httpx.Client``."""
        request.read()
        self._sign(request)
        yield request

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Sign a request of ``httpx.AsyncClient``, in a thread."""
        await request.aread()
        await asyncio.to_thread(self._sign, request)
        yield request

    def _sign(self, request: httpx.Request) -> None:
        def use(private: PrivateKey) -> None:
            identity = Identity.from_signer(private, self._url, user_agent=self._user_agent)
            next(WebBotAuth(identity, **self._options).sync_auth_flow(request))  # signs it up to where it would be sent

        self._client.with_private_key(self._key, use)
