"""Capture the signature bases that real clients make: `pip install aauth==0.5.0 introspection-aauth==0.1.0 lumoauth==1.1.0`, then run.

Writes clients.json beside this file. The key is the Ed25519 key that RFC 9421 prints in appendix B.1.4; every clock stands still.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

NOW = 1_800_000_000
HERE = Path(__file__).parent
PEM = json.loads((HERE / "rfc9421_appendix_b.json").read_text())["keys"]["Example Ed25519 Test Key"]["pem"][-1]


class Recorder(Ed25519PrivateKey):
    """Signs with the key inside, and keeps what it signed."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.signed: list[bytes] = []

    def sign(self, data: bytes) -> bytes:
        self.signed.append(bytes(data))
        return self._key.sign(bytes(data))

    def public_key(self) -> Ed25519PublicKey:
        return self._key.public_key()

    def private_bytes(self, *_: Any) -> NoReturn:
        raise NotImplementedError

    private_bytes_raw = private_bytes

    def __copy__(self) -> Recorder:
        return self

    __deepcopy__ = __copy__  # type: ignore[assignment]


def main() -> None:
    time.time = lambda: float(NOW)  # type: ignore[assignment]
    os.urandom = lambda size: bytes(range(size))  # type: ignore[assignment]
    key = load_pem_private_key(PEM.encode(), None)
    assert isinstance(key, Ed25519PrivateKey)
    issuer = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    vectors: list[dict[str, str]] = []

    def add(library: str, name: str, profile: str, recorder: Recorder) -> None:
        base = recorder.signed.pop()
        signature = key.sign(base).hex()
        version = importlib.metadata.version(library)
        vectors.append(
            {
                "library": f"{library} {version}",
                "name": name,
                "profile": profile,
                "base": base.decode(),
                "signature": signature,
            }
        )

    capture_aauth(Recorder(key), issuer, add)
    capture_introspection(Recorder(key), issuer, add)
    capture_lumoauth(Recorder(key), add)
    document = {"made_with": "capture_clients.py", "now": NOW, "vectors": vectors}
    (HERE / "clients.json").write_text(json.dumps(document, indent=1) + "\n")
    sys.stdout.write(f"{len(vectors)} bases\n")


def capture_aauth(recorder: Recorder, issuer: Ed25519PrivateKey, add: Any) -> None:
    from aauth.agent.signer import AgentRequestSigner
    from aauth_signing.keys.jwk import public_key_to_jwk
    from aauth_signing.signer import sign_request
    from aauth_signing.tokens.agent_token import create_agent_token

    token = create_agent_token(
        "https://agents.example", "aauth:shopper@agents.example", public_key_to_jwk(recorder.public_key()), issuer, "issuer-1"
    )
    signer = AgentRequestSigner(recorder, agent_token=token)
    signer.sign_request("GET", "https://shop.example/orders?id=7", {})
    add("aauth", "agent", "aauth", recorder)
    signer.sign_request("POST", "https://person.example/token", {"Content-Type": "application/json"}, b"{}", recipient_role="ps")
    add("aauth", "agent with a body", "aauth", recorder)
    signer.sign_request("GET", "https://shop.example/", {"Authorization": "AAuth-Access session"})
    add("aauth", "agent with a session", "aauth", recorder)
    thumbprint = "poqkLGiymh_W0uP6PZFw-dvez3QJT5SolqXBCW38r0U"
    server = {"id": "https://shop.example", "dwk": "aauth-resource.json", "kid": thumbprint}
    sign_request("GET", "https://person.example/", {}, None, recorder, "jwks_uri", **server)
    add("aauth-signing", "server", "aauth-server", recorder)
    sign_request("GET", "https://shop.example/", {}, None, recorder, "hwk")
    add("aauth-signing", "pseudonymous", "hwk", recorder)


def capture_introspection(recorder: Recorder, issuer: Ed25519PrivateKey, add: Any) -> None:
    from introspection_aauth.protocol import jwt
    from introspection_aauth.protocol.claims import AgentTokenClaims, Confirmation
    from introspection_aauth.protocol.httpsig import signing
    from introspection_aauth.protocol.keys import SigningKey

    mine, theirs = SigningKey(recorder), SigningKey(issuer)
    claims = AgentTokenClaims(
        iss="https://agents.example",
        sub="aauth:shopper@agents.example",
        dwk="aauth-agent.json",
        jti="token-1",
        iat=NOW,
        exp=NOW + 3600,
        cnf=Confirmation(jwk=mine.public_jwk),
    )
    shown = signing.jwt_key(jwt.encode(claims, theirs, "aa-agent+jwt"))
    signing.sign(mine, shown, "GET", "https://shop.example/orders?id=7", created=NOW)
    add("introspection-aauth", "agent", "aauth", recorder)
    signing.sign(mine, shown, "POST", "https://person.example/token", body=b"{}", authorization="AAuth-Access s", created=NOW)
    add("introspection-aauth", "agent with a body and a session", "aauth", recorder)
    named = signing.jwks_uri_key("https://shop.example", "aauth-resource.json", mine.kid)
    signing.sign(mine, named, "GET", "https://person.example/", created=NOW)
    add("introspection-aauth", "server", "aauth-server", recorder)


def capture_lumoauth(recorder: Recorder, add: Any) -> None:
    from lumoauth.aauth import AAuthClient

    client = AAuthClient.__new__(AAuthClient)  # its constructor wants the private key as text
    client._private_key = recorder
    client.sign_request("POST", "https://app.lumoauth.dev/orgs/acme/api/v1/aauth/agent/token", body=b'{"request_type":"auth"}')
    add("lumoauth", "agent", "lumoauth", recorder)
    client.sign_request("GET", "https://api.mail.example/inbox", authorization="Bearer token")
    add("lumoauth", "agent with a token", "lumoauth", recorder)


if __name__ == "__main__":
    main()
