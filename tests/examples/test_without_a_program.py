"""What the examples do not show: tokens that keyd makes whole, and requests-http-signature."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator

import jwt
import pytest
import requests
from daemon_process import DaemonProcess
from examples_run import ALGORITHMS, GRANTS, ROOT, make_keys
from http_message_signatures import algorithms
from joserfc import jws
from joserfc.errors import BadSignatureError
from joserfc.jwk import KeySet
from requests_http_signature import HTTPSignatureAuth

from keyd.client import Client
from keyd.client.message_signatures import ALGORITHMS as BY_HTTP_NAME
from keyd.client.message_signatures import KeydKeyResolver
from keyd.client.requests_auth import KeydAuth


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    daemon = DaemonProcess(sections=GRANTS)
    try:
        daemon.start()
        make_keys(daemon)
        with daemon.client() as client:
            yield client
    finally:
        daemon.close()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_tokens_that_keyd_makes(client: Client, algorithm: str) -> None:
    """PyJWT knows Ed25519 as EdDSA only: such tokens it cannot read, others it can."""
    token = client.sign_jwt(f"jwt-{algorithm}", {"sub": "agent"}, "JWT", lifetime=60)
    jwks = client.jwks(f"jwt-{algorithm}")
    keys = KeySet.import_key_set(jwks)  # type: ignore[arg-type]
    assert json.loads(jws.deserialize_compact(token, keys, algorithms=[algorithm]).payload)["sub"] == "agent"
    with pytest.raises(BadSignatureError):
        jws.deserialize_compact(tampered(token), keys, algorithms=[algorithm])
    if algorithm != "Ed25519":
        (key,) = jwt.PyJWKSet.from_dict(jwks).keys
        assert jwt.decode(token, key, algorithms=[algorithm])["sub"] == "agent"
        with pytest.raises(jwt.InvalidSignatureError):
            jwt.decode(tampered(token), key, algorithms=[algorithm])


def tampered(token: str) -> str:
    header, _, signature = token.split(".")
    claims = base64.urlsafe_b64encode(b'{"sub":"mallory"}').decode().rstrip("=")
    return f"{header}.{claims}.{signature}"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_requests_http_signature(client: Client, algorithm: str) -> None:
    """Its verifier, of what keyd's adapter signs and of what it signs itself, with a resolver in place of keys."""
    name = f"http-{algorithm}"
    info = client.key_info(name)
    assert info.active is not None
    verifying = {"signature_algorithm": BY_HTTP_NAME[info.http_algorithm], "key_resolver": KeydKeyResolver(client, name)}
    for auth in (
        KeydAuth(client, name, components=("@method", "@authority", "@target-uri")),
        HTTPSignatureAuth(key_id=info.active.kid, **verifying),
    ):
        sent = requests.Request("POST", "https://a.example/x?y=1", data=b"body", auth=auth).prepare()
        HTTPSignatureAuth.verify(sent, **verifying)
        sent.url = "https://a.example/x?y=2"
        with pytest.raises(Exception, match=r"(?i)signature|verif|^$"):
            HTTPSignatureAuth.verify(sent, **verifying)


def test_there_is_an_algorithm_of_the_library_for_each_of_ours() -> None:
    assert set(BY_HTTP_NAME.values()) >= {algorithms.ED25519, algorithms.ECDSA_P256_SHA256, algorithms.ECDSA_P384_SHA384}


def test_the_private_key_of_the_readme(client: Client) -> None:
    block = (ROOT / "README.md").read_text().split("```python\n")[2].partition("```")[0]
    names = {"Client": lambda: client, "jwt": jwt, "time": time}
    exec(block.replace("my-tokens", "jwt-Ed25519"), names)
    token = str(names["token"])
    (key,) = jwt.PyJWKSet.from_dict({"keys": [names["key"].jwk | {"alg": "EdDSA"}]}).keys  # type: ignore[attr-defined]
    assert jwt.decode(token, key, algorithms=["EdDSA"])["iss"] == "https://agent.example"
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(tampered(token), key, algorithms=["EdDSA"])
