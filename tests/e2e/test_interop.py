"""What strangers' libraries and the RFC's own vectors say of signatures made through the daemon."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from daemon_process import DaemonProcess
from http_message_signatures import HTTPMessageVerifier, HTTPSignatureKeyResolver, algorithms
from joserfc import jws
from joserfc.errors import BadSignatureError
from joserfc.jwk import KeySet
from requests_http_signature import HTTPSignatureAuth

from backends.api import Algorithm
from backends.encoding import verify_raw
from keyd.client import Client
from keyd.client.http import OutgoingRequest, sign_request
from keyd.client.requests_auth import KeydAuth
from keyd.core.jwk import to_public_key

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/rfc9421_appendix_b.json").read_text())
PEMS = {name: entry["pem"][-1] for name, entry in VECTORS["keys"].items() if entry["pem"]}
KEYS = {  # label of the vector -> algorithm, key, kid in the vector
    "sig-b21": (Algorithm.PS512, "Example RSA PSS Key", "test-key-rsa-pss"),
    "sig-b22": (Algorithm.PS512, "Example RSA PSS Key", "test-key-rsa-pss"),
    "sig-b23": (Algorithm.PS512, "Example RSA PSS Key", "test-key-rsa-pss"),
    "sig-b24": (Algorithm.ES256, "Example ECC P-256 Test Key", "test-key-ecc-p256"),
    "sig-b26": (Algorithm.ED25519, "Example Ed25519 Test Key", "test-key-ed25519"),
}


@pytest.fixture(scope="module")
def shared() -> Iterator[DaemonProcess]:
    daemon = DaemonProcess()
    daemon.start()
    with daemon.admin() as admin:
        for algorithm in Algorithm:
            admin.create_key(name=f"http-{algorithm.value}", algorithm=algorithm.value)
            admin.create_key(name=f"jwt-{algorithm.value}", algorithm=algorithm.value, purposes=["jwt"])
        admin.create_key(name="bot", profile="web-bot-auth")
        for algorithm, key, kid in set(KEYS.values()):
            private = load_pem_private_key(PEMS[key].encode(), None)
            pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            admin.import_key(name=kid, pkcs8_pem=pem, kid=kid, algorithm=algorithm.value, profile="vectors")
    yield daemon
    daemon.close()


@pytest.fixture
def client(shared: DaemonProcess) -> Iterator[Client]:
    with shared.client() as client:
        yield client


def public_key(client: Client, name: str) -> Any:
    return to_public_key(json.dumps(client.jwks(name)["keys"][0]))


@pytest.mark.parametrize("label", KEYS)
def test_rfc_9421_appendix_b(client: Client, label: str) -> None:
    (vector,) = [vector for vector in VECTORS["vectors"] if vector["label"] == label]
    algorithm, _, kid = KEYS[label]
    base, expected = vector["base"].encode(), base64.b64decode(vector["signature_b64"])
    public = public_key(client, kid)
    verify_raw(public, algorithm, expected, base)
    signed = client.sign_base(kid, base)
    verify_raw(public, algorithm, signed.signature, base)
    if algorithm is Algorithm.ED25519:  # the deterministic one: to the byte
        assert signed.signature == expected
    for wrong in (base[:-1] + b"x", base.replace(b"16188", b"16189")):
        with pytest.raises(InvalidSignature):
            verify_raw(public, algorithm, signed.signature, wrong)


HTTP_ALGORITHMS = {
    Algorithm.ED25519: algorithms.ED25519,
    Algorithm.ES256: algorithms.ECDSA_P256_SHA256,
    Algorithm.PS512: algorithms.RSA_PSS_SHA512,
    Algorithm.RS256: algorithms.RSA_V1_5_SHA256,
}


class Resolver(HTTPSignatureKeyResolver):
    def __init__(self, client: Client, name: str) -> None:
        self.keys = {jwk["kid"]: to_public_key(json.dumps(jwk)) for jwk in client.jwks(name)["keys"]}

    def resolve_public_key(self, key_id: str) -> Any:
        return self.keys[key_id]

    def resolve_private_key(self, key_id: str) -> Any:
        raise AssertionError("a verifier asks for no private key")


@pytest.mark.parametrize("algorithm", HTTP_ALGORITHMS, ids=lambda a: a.value)
def test_http_message_signatures_and_requests_http_signature(client: Client, algorithm: Algorithm) -> None:
    name = f"http-{algorithm.value}"
    auth = KeydAuth(client, name, components=("@method", "@authority", "@target-uri"))
    sent = requests.Request("POST", "https://a.example/x?y=1", data=b"body", auth=auth).prepare()
    resolver = Resolver(client, name)
    verifier = HTTPMessageVerifier(signature_algorithm=HTTP_ALGORITHMS[algorithm], key_resolver=resolver)
    assert verifier.verify(sent)[0].parameters["keyid"] in resolver.keys
    HTTPSignatureAuth.verify(sent, signature_algorithm=HTTP_ALGORITHMS[algorithm], key_resolver=resolver)
    sent.url = "https://a.example/x?y=2"
    with pytest.raises(Exception, match=r"(?i)signature|verif|^$"):
        verifier.verify(sent)
    with pytest.raises(Exception, match=r"(?i)signature|verif|^$"):
        HTTPSignatureAuth.verify(sent, signature_algorithm=HTTP_ALGORITHMS[algorithm], key_resolver=resolver)


@pytest.mark.parametrize("algorithm", Algorithm, ids=lambda a: a.value)
def test_joserfc(client: Client, algorithm: Algorithm) -> None:
    name = f"jwt-{algorithm.value}"
    token = client.sign_jwt(name, {"sub": "agent"}, "JWT", lifetime=60)
    keys = KeySet.import_key_set(client.jwks(name))
    assert json.loads(jws.deserialize_compact(token, keys, algorithms=[algorithm.value]).payload)["sub"] == "agent"
    with pytest.raises(BadSignatureError):
        jws.deserialize_compact(tampered(token), keys, algorithms=[algorithm.value])


@pytest.mark.parametrize("algorithm", Algorithm, ids=lambda a: a.value)
def test_pyjwt(client: Client, algorithm: Algorithm) -> None:
    """PyJWT knows Ed25519 only as EdDSA, so there the caller builds the header."""
    name = f"jwt-{algorithm.value}"
    pyjwt_name = "EdDSA" if algorithm is Algorithm.ED25519 else algorithm.value
    claims = {"sub": "agent", "exp": int(time.time()) + 60}
    key = client.private_key(name)
    token = jwt.encode(claims, key, algorithm=pyjwt_name, headers={"kid": key.kid})  # type: ignore[arg-type]
    public = public_key(client, name)
    assert jwt.decode(token, public, algorithms=[pyjwt_name]) == claims
    if algorithm is not Algorithm.ED25519:
        jwt.decode(client.sign_jwt(name, claims, "JWT"), public, algorithms=[pyjwt_name])
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(tampered(token), public, algorithms=[pyjwt_name])


def tampered(token: str) -> str:
    header, _, signature = token.split(".")
    claims = base64.urlsafe_b64encode(b'{"sub":"mallory"}').decode().rstrip("=")
    return f"{header}.{claims}.{signature}"


def test_wbauth_sdk(client: Client) -> None:
    peers = os.environ.get("KEYD_PEERS_PYTHON")
    assert peers, "set KEYD_PEERS_PYTHON to the Python of an environment with the dependency group `peers`, as `make test` does"
    request = OutgoingRequest("GET", "https://shop.example/x", [("Signature-Agent", '"https://agent.example"')], b"")
    options: Any = {"components": ("@authority", "signature-agent"), "tag": "web-bot-auth"}
    case = {
        "method": "GET",
        "url": request.url,
        "headers": dict(request.headers) | sign_request(client, "bot", request, options),
        "jwks": client.jwks("bot"),
    }
    script = Path(__file__).parents[1] / "peers/verify_with_wbauth.py"

    def verdict(case: dict[str, Any]) -> str:
        ran = subprocess.run([peers, str(script)], input=json.dumps(case), capture_output=True, text=True, timeout=60, check=True)
        return ran.stdout.strip()

    assert verdict(case) == f"verified: {case['jwks']['keys'][0]['kid']}"
    assert verdict({**case, "url": "https://evil.example/x"}) == "refused: signature does not verify"
