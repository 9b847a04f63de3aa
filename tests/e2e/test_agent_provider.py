"""Strangers' verifiers find keyd's keys by what keyd says of the issuer, and take or refuse its tokens."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from daemon_process import DaemonProcess

from keyd.v1 import session_service_pb2, session_service_pb2_grpc

CONFIG = f"""
[issuers.agents]
hosts = ["agents.example"]
keys = ["agents-*"]
origin = "https://agents.example"
[issuers.agents.agent]
name = "Agents"
[issuers.undescribed]
hosts = ["undescribed.example"]
keys = ["undescribed-*"]
origin = "https://undescribed.example"
[grants.operator]
principals = [{{ uid = {os.geteuid()} }}]
keys = ["*"]
purposes = ["http", "jwt"]
operations = ["*"]
[grants.operator.sessions]
issuer_keys = ["*"]
subjects = ["aauth:shop@*"]
foreign_keys = true
"""
PEER = Path(__file__).parents[1] / "peers/agent_provider.py"
#: The public key of RFC 8037 appendix A.2.
FOREIGN = '{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}'


@pytest.fixture(scope="module")
def shared() -> Iterator[DaemonProcess]:
    daemon = DaemonProcess(sections=CONFIG).start()
    with daemon.admin() as admin:
        for name in ("agents-1", "undescribed-1"):
            admin.create_key(name, purposes=["jwt"], profile="aauth")
        admin.create_key("agents-es256", purposes=["jwt"], profile="aauth", algorithm="ES256")
    yield daemon
    daemon.close()


def issue(daemon: DaemonProcess, key: str) -> session_service_pb2.IssueAgentTokenResponse:
    request = session_service_pb2.IssueAgentTokenRequest(
        issuer_key=key, subject=f"aauth:shop@{key.split('-')[0]}.example", public_jwk=FOREIGN
    )
    with grpc.insecure_channel(daemon.address) as channel:
        return session_service_pb2_grpc.SessionServiceStub(channel).IssueAgentToken(request, timeout=20)


def verdicts(daemon: DaemonProcess, **case: Any) -> dict[str, Any]:
    peers = os.environ.get("KEYD_PEERS_PYTHON")
    assert peers, "set KEYD_PEERS_PYTHON to the Python of an environment with the dependency group `peers`, as `make test` does"
    case["base"] = daemon.jwks_url.removesuffix("/.well-known/jwks.json")
    ran = subprocess.run([peers, str(PEER)], input=json.dumps(case), capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.mark.parametrize("key", ["agents-1", "agents-es256"])
def test_both_libraries_find_the_keys_and_verify_a_token(shared: DaemonProcess, key: str) -> None:
    found = verdicts(shared, token=issue(shared, key).token)
    assert found["aauth"] == found["introspection-aauth"] == "verified: aauth:shop@agents.example"
    assert found["fetched"] == [
        f"https://agents.example/.well-known/{name}" for name in ("aauth-agent.json", "aauth-revoked-tokens.json", "jwks.json")
    ]


def test_neither_takes_one_that_was_altered(shared: DaemonProcess) -> None:
    header, claims, signature = issue(shared, "agents-1").token.split(".")
    other = json.loads(base64.urlsafe_b64decode(claims + "==")) | {"sub": "aauth:mallory@agents.example"}
    altered = base64.urlsafe_b64encode(json.dumps(other).encode()).rstrip(b"=").decode()
    found = verdicts(shared, token=f"{header}.{altered}.{signature}")
    assert found["aauth"] == found["introspection-aauth"] == "refused: invalid_jwt"


def test_neither_finds_keys_of_an_issuer_that_does_not_say_who_it_is(shared: DaemonProcess) -> None:
    found = verdicts(shared, token=issue(shared, "undescribed-1").token)
    assert {found[name].split(":")[0] for name in ("aauth", "introspection-aauth")} == {"refused"}
    assert found["fetched"] == ["https://undescribed.example/.well-known/aauth-agent.json"]


def test_a_verifier_that_reads_the_list_refuses_a_revoked_token(shared: DaemonProcess) -> None:
    issued, other = issue(shared, "agents-1"), issue(shared, "agents-1")
    request = session_service_pb2.RevokeTokenRequest(
        issuer="https://agents.example", token_id=issued.token_id, expire_time=issued.expire_time
    )
    with grpc.insecure_channel(shared.address) as channel:
        session_service_pb2_grpc.SessionAdminServiceStub(channel).RevokeToken(request, timeout=20)
    found = verdicts(shared, token=issued.token)
    assert found["aauth"] == "refused: revoked_jwt"
    assert found["introspection-aauth"].startswith("verified"), "it does not look; that is what the docs say of the list"
    assert verdicts(shared, token=other.token)["aauth"].startswith("verified")
