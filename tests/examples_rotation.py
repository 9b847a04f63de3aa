"""Signs with each library of an environment again and again, while somebody else rotates the keys. Runs where the libraries are.

`python examples_rotation.py ADDRESS LIBRARY...`. For each line on standard input, the number of seconds by which the clients' clocks
are to be ahead, it prints one: what came of it for each library, in three ways.

- ``pinned``: with the key object that was made at the beginning;
- ``follows``: as the documents say, with a client that looks again when its minute is over;
- ``stale``: the same with a client that never looks again by itself.

What came of it is the kid that the signed thing names, or the name of keyd's error.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from keyd.client import Client, KeyStateError
from keyd.client.errors import refusal_behind
from keyd.client.keys import PrivateKey

URL = "http://127.0.0.1/orders"
Sign = Callable[[PrivateKey], str]


def named_in(token: str) -> str:
    """Return the kid in the header of a token."""
    return str(json.loads(base64.urlsafe_b64decode(token.partition(".")[0] + "=="))["kid"])


def bound_by(headers: dict[str, str]) -> str:
    """Return the kid in the ``cnf`` of the token that a request shows."""
    payload = headers.get("Signature-Key", headers.get("signature-key", "")).split(".")[1]
    return str(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["cnf"]["jwk"]["kid"])


def keyid_of(headers: Any) -> str:
    return str(headers["Signature-Input"].partition('keyid="')[2].partition('"')[0])


def agent_token(client: Client, private: PrivateKey) -> str:
    claims = {"iss": "https://agents.example", "dwk": "aauth-agent.json", "sub": "aauth:a@agents.example", "jti": "1"}
    return client.sign_jwt("issuer", {**claims, "cnf": {"jwk": private.jwk}}, "aa-agent+jwt", lifetime=600)


class Message:
    def __init__(self) -> None:
        self.method, self.url, self.headers = "GET", URL, dict[str, str]()


def http_message_signatures(client: Client) -> tuple[str, Sign, Callable[[], str]]:
    from http_message_signatures import HTTPMessageSigner, algorithms

    from keyd.client.message_signatures import KeydKeyResolver, sign_message

    def sign(private: PrivateKey) -> str:
        message, resolver = Message(), KeydKeyResolver(client, "http")
        signer = HTTPMessageSigner(signature_algorithm=algorithms.ED25519, key_resolver=resolver)
        signer.sign(message, key_id=private.kid, covered_component_ids=("@method", "@authority"))
        return keyid_of(message.headers)

    return "http", sign, lambda: sign_message(client, "http", Message(), covered_component_ids=("@method", "@authority"))


def httpx(client: Client) -> tuple[str, None, Callable[[], str]]:
    import httpx

    from keyd.client.httpx_auth import KeydAuth

    return "http", None, lambda: keyid_of(next(KeydAuth(client, "http").sync_auth_flow(httpx.Request("GET", URL))).headers)


def pyjwt(client: Client) -> tuple[str, Sign, None]:
    import jwt

    def sign(private: PrivateKey) -> str:
        claims = {"sub": "a", "exp": int(time.time()) + 600}
        return named_in(jwt.encode(claims, private, algorithm="EdDSA", headers={"kid": private.kid}))  # type: ignore[arg-type]

    return "jwt", sign, None


def joserfc(client: Client) -> tuple[str, Sign, Callable[[], str]]:
    from joserfc import jwt

    from keyd.client.joserfc_keys import joserfc_key, keyd_key

    claims = {"sub": "a", "exp": int(time.time()) + 600}

    def sign(private: PrivateKey) -> str:
        header = {"alg": "Ed25519", "kid": private.kid}
        return named_in(jwt.encode(header, claims, joserfc_key(private), algorithms=["Ed25519"]))

    def follow() -> str:
        for attempt in range(2):  # the second is for a client that does not know yet
            try:
                return named_in(jwt.encode({"alg": "Ed25519"}, claims, keyd_key(client, "jwt"), algorithms=["Ed25519"]))
            except KeyStateError:
                if attempt:
                    raise
        raise AssertionError

    return "jwt", sign, follow


def aauth(client: Client) -> tuple[str, Sign, None]:
    from aauth import AgentRequestSigner

    def sign(private: PrivateKey) -> str:
        return bound_by(AgentRequestSigner(private, agent_token=agent_token(client, private)).sign_request("GET", URL, {}))

    return "aauth", sign, None


def aauth_signing(client: Client) -> tuple[str, Sign, None]:
    from aauth_signing import sign_request

    def sign(private: PrivateKey) -> str:
        return bound_by(sign_request("GET", URL, {}, None, private, sig_scheme="jwt", jwt=agent_token(client, private)))

    return "aauth", sign, None


def introspection_aauth(client: Client) -> tuple[str, Sign, None]:
    from introspection_aauth.protocol import httpsig

    from keyd.client.introspection_keys import KeydSigningKey

    def sign(private: PrivateKey) -> str:
        shown = httpsig.jwt_key(agent_token(client, private))
        return bound_by(httpsig.sign(KeydSigningKey(private), shown, "GET", URL, created=int(time.time())))

    return "aauth", sign, None


def regent_httpsig(client: Client) -> tuple[str, None, Callable[[], str]]:
    from keyd.client.regent_signers import KeydEgressSigner

    signer = KeydEgressSigner(client, "aauth", signature_agent="https://agents.example")
    return "aauth", None, lambda: bound_by(signer.sign_aauth("GET", URL, token=lambda private: agent_token(client, private)))


def regent_bot(client: Client) -> tuple[str, None, Callable[[], str]]:
    from keyd.client.regent_signers import KeydEgressSigner

    signer = KeydEgressSigner(client, "bot", signature_agent="https://agents.example")
    return "bot", None, lambda: keyid_of(signer.sign("GET", URL))


def regent_server(client: Client) -> tuple[str, None, Callable[[], str]]:
    from keyd.client.regent_signers import KeydServerSigner

    signer = KeydServerSigner(client, "server", server_id="https://shop.example", dwk="aauth-resource.json")
    return "server", None, lambda: signer.sign("GET", URL)["Signature-Key"].partition('kid="')[2].rstrip('"')


def wbauth_sdk(client: Client) -> tuple[str, Sign, Callable[[], str]]:
    import httpx
    from wbauth.identity import Identity
    from wbauth.normalized_request import NormalizedRequest
    from wbauth.signer import sign as wbauth_sign

    from keyd.client.wbauth_auth import KeydWebBotAuth

    def sign(private: PrivateKey) -> str:
        request = NormalizedRequest("GET", URL)
        wbauth_sign(request, Identity.from_signer(private, "https://agents.example"))
        return keyid_of(request.headers)

    auth = KeydWebBotAuth(client, "bot", "https://agents.example", allow_insecure=True)
    return "bot", sign, lambda: keyid_of(next(auth.sync_auth_flow(httpx.Request("GET", URL))).headers)


def wbauth_async(client: Client) -> tuple[str, None, Callable[[], str]]:
    import httpx

    from keyd.client.wbauth_auth import KeydWebBotAuth

    auth = KeydWebBotAuth(client, "bot", "https://agents.example", allow_insecure=True)

    async def sign() -> str:
        return keyid_of((await anext(auth.async_auth_flow(httpx.Request("GET", URL)))).headers)

    return "bot", None, lambda: asyncio.run(sign())


def lumoauth(client: Client) -> tuple[str, Sign, None]:
    from keyd.client.lumoauth_client import KeydAAuthClient

    def sign(private: PrivateKey) -> str:
        agent = KeydAAuthClient(private, "https://agents.example")
        agent.sign_request("GET", URL)
        return agent.kid

    return "lumo", sign, None


def outcome(sign: Callable[[], str]) -> str:
    try:
        return sign()
    except Exception as exc:
        refusal = refusal_behind(exc)
        if refusal is None:
            raise
        return f"{type(refusal).__name__} {refusal.metadata.get('active_kid', refusal)}"


def main(address: str, *libraries: str) -> None:
    ahead = 0.0
    looks, never = Client(address, clock=lambda: time.time() + ahead), Client(address, clock=lambda: 0.0)
    ways: dict[str, dict[str, Callable[[], str]]] = {}
    for library in libraries:
        ways[library] = {}
        for way, client in (("follows", looks), ("stale", never)):
            key, sign, follow = globals()[library](client)
            ways[library][way] = follow or partial(client.with_private_key, key, sign)
            if sign is not None and way == "follows":
                ways[library]["pinned"] = partial(sign, client.private_key(key))
    for line in sys.stdin:
        ahead = float(line)
        print(json.dumps({name: {way: outcome(sign) for way, sign in its.items()} for name, its in ways.items()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
