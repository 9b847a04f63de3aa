"""Resource tokens of AAuth: by aauth's own issuer with keyd's key, and by SignJWT; taken by strangers, or refused by keyd."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_process import DaemonProcess

from keyd.client import Client, PermissionDenied

CONFIG = """
[issuers.shop]
hosts = ["shop.example"]
keys = ["shop-*"]
origin = "https://shop.example"
[issuers.shop.resource]
access_mode = "auth-token"
"""
PEERS = Path(__file__).parents[1] / "peers"
TYP = "aa-resource+jwt"


@pytest.fixture(scope="module")
def shared() -> Iterator[DaemonProcess]:
    daemon = DaemonProcess(sections=CONFIG).start()
    with daemon.admin() as admin:
        admin.create_key("shop-1", purposes=["jwt"], profile="aauth-server")
    yield daemon
    daemon.close()


@pytest.fixture
def client(shared: DaemonProcess) -> Iterator[Client]:
    with shared.client() as client:
        yield client


def python() -> str:
    found = os.environ.get("KEYD_PEERS_PYTHON")
    assert found, "set KEYD_PEERS_PYTHON to the Python of an environment with the dependency group `peers`, as `make test` does"
    return found


def issued_by_aauth(client: Client, exp: int | None = None) -> dict[str, Any]:
    """Have aauth make a resource token, and sign with keyd's key object what it asks to be signed."""
    key, info = client.private_key("shop-1"), client.key_info("shop-1")
    assert info.active is not None
    public = {**info.active.jwk, "alg": "Ed25519"}
    case = {"resource": "https://shop.example", "kid": info.active.kid, "public_jwk": public, "exp": exp}
    command = [python(), str(PEERS / "resource_token.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
        assert peer.stdin is not None and peer.stdout is not None
        try:
            peer.stdin.write(json.dumps(case) + "\n")
            peer.stdin.flush()
            while True:
                said: dict[str, Any] = json.loads(peer.stdout.readline())
                if "sign" not in said:
                    return said
                signature = key.sign(base64.b64decode(said["sign"]))  # type: ignore[call-arg]
                peer.stdin.write(base64.b64encode(signature).decode() + "\n")
                peer.stdin.flush()
        finally:
            peer.kill()


def verdicts(daemon: DaemonProcess, case: dict[str, Any]) -> dict[str, Any]:
    case = {**case, "base": daemon.jwks_url.removesuffix("/.well-known/jwks.json")}
    command = [python(), str(PEERS / "agent_provider.py")]
    ran = subprocess.run(command, input=json.dumps(case), capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def claims_of(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


def test_what_aauth_issues_with_keyds_key_both_libraries_verify(shared: DaemonProcess, client: Client) -> None:
    made = issued_by_aauth(client)
    found = verdicts(shared, made)
    assert found["aauth"] == found["introspection-aauth"] == "verified: person-7"
    assert found["fetched"] == [f"https://shop.example/.well-known/{name}" for name in ("aauth-resource.json", "jwks.json")]
    assert verdicts(shared, {**made, "agent_jkt": "another"})["aauth"] == "refused: invalid_resource_token"


def test_what_keyd_issues_both_libraries_verify(shared: DaemonProcess, client: Client) -> None:
    made = issued_by_aauth(client)
    claims = claims_of(made["token"]) | {"jti": "by-keyd"}
    token = client.sign_jwt("shop-1", {name: claims[name] for name in claims if name not in ("iat", "exp")} | now(), TYP)
    found = verdicts(shared, {**made, "token": token})
    assert found["aauth"] == found["introspection-aauth"] == "verified: person-7"
    header, _, signature = token.split(".")
    altered = base64.urlsafe_b64encode(json.dumps({**claims, "scope": "orders.write"}).encode()).rstrip(b"=").decode()
    found = verdicts(shared, {**made, "token": f"{header}.{altered}.{signature}"})
    assert {found[name].split(":")[0] for name in ("aauth", "introspection-aauth")} == {"refused"}


def now(lifetime: int = 60) -> dict[str, int]:
    issued = int(time.time())
    return {"iat": issued, "exp": issued + lifetime}


CLAIMS = {
    "iss": "https://shop.example",
    "dwk": "aauth-resource.json",
    "aud": "https://person.example",
    "jti": "1",
    "ps": "https://person.example",
    "sub": "person-7",
    "presented_jti": "2",
    "agent_jkt": "t" * 43,
}


@pytest.mark.parametrize("name", CLAIMS)
def test_keyd_signs_none_that_lacks_a_claim(client: Client, name: str) -> None:
    client.sign_jwt("shop-1", {**CLAIMS, **now()}, TYP)
    for claims in ({k: v for k, v in CLAIMS.items() if k != name}, {**CLAIMS, name: ""}, {**CLAIMS, name: None}):
        with pytest.raises(PermissionDenied) as caught:
            client.sign_jwt("shop-1", {**claims, **now()}, TYP)
        assert caught.value.reason == "CLAIMS"
        assert name in str(caught.value)


def test_keyd_signs_none_that_lasts_longer_than_five_minutes(client: Client) -> None:
    client.sign_jwt("shop-1", CLAIMS, TYP, lifetime=299)
    with pytest.raises(PermissionDenied) as caught:
        client.sign_jwt("shop-1", CLAIMS, TYP, lifetime=301)
    assert caught.value.reason == "FRESHNESS"
    with pytest.raises(PermissionDenied) as caught:
        issued_by_aauth(client, exp=int(time.time()) + 600)
    assert caught.value.reason == "FRESHNESS"


def test_keyd_signs_none_under_the_old_name_of_the_algorithm(client: Client) -> None:
    info = client.key_info("shop-1")
    assert info.active is not None

    def signing_input(alg: str) -> bytes:
        parts = ({"alg": alg, "typ": TYP, "kid": info.active.kid}, {**CLAIMS, **now()})  # type: ignore[union-attr]
        return b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)

    client.sign_jws("shop-1", signing_input("Ed25519"))
    with pytest.raises(PermissionDenied) as caught:
        client.sign_jws("shop-1", signing_input("EdDSA"))
    assert caught.value.reason == "ALGORITHM"
