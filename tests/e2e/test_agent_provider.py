"""Strangers' verifiers find keyd's keys by what keyd says of the issuer, and take or refuse its tokens."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from daemon_process import DaemonProcess

from keyd.client import AsyncClient, InvalidRequest, NotFound
from keyd.client.model import AgentToken
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


def issue(daemon: DaemonProcess, key: str) -> AgentToken:
    with daemon.client() as client:
        return client.issue_agent_token(key, f"aauth:shop@{key.split('-')[0]}.example", public_jwk=FOREIGN)


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
    with shared.admin() as admin:
        revoked = admin.revoke_token("https://agents.example", issued.token_id, issued.expires)
        assert admin.revoked_tokens("https://agents.example") == [revoked]
        assert admin.revoked_tokens("https://undescribed.example") == []
    found = verdicts(shared, token=issued.token)
    assert found["aauth"] == "refused: revoked_jwt"
    assert found["introspection-aauth"].startswith("verified"), "it does not look; that is what the docs say of the list"
    assert verdicts(shared, token=other.token)["aauth"].startswith("verified")


def test_the_list_survives_a_restart_and_operators_end_sessions() -> None:
    daemon = DaemonProcess(sections=CONFIG).start()
    try:
        with daemon.admin() as admin, grpc.insecure_channel(daemon.address) as channel:
            admin.create_key("agents-1", purposes=["jwt"], profile="aauth")
            sessions = session_service_pb2_grpc.SessionServiceStub(channel)
            request = session_service_pb2.OpenSessionRequest(issuer_key="agents-1", subject="aauth:shop@agents.example")
            opened = sessions.OpenSession(request, timeout=20).session
            (listed,) = admin.list_sessions("agents-1")
            assert (listed.subject, listed.thumbprint, listed.kind) == (opened.subject, opened.thumbprint, "aauth")
            assert opened.id not in repr(listed)
            assert admin.list_sessions("other") == []
            (revoked,) = admin.revoke_session(listed.name)
            assert (revoked.issuer, revoked.token_id) == ("https://agents.example", opened.token_id)
            assert admin.list_sessions() == []
            with pytest.raises(NotFound):
                admin.revoke_session(listed.name)
            with pytest.raises(InvalidRequest):
                admin.revoke_token("https://agents.example", "late", time.time() + 2 * 86400)
        daemon.stop()
        daemon.start()
        command = [sys.executable, "-m", "keyd", "token", "list", "--address", daemon.address, "--json"]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert [each["token_id"] for each in json.loads(ran.stdout)["tokens"]] == [opened.token_id]
    finally:
        daemon.close()


async def test_the_async_client_issues_the_same(shared: DaemonProcess) -> None:
    async with AsyncClient(shared.address) as client:
        issued = await client.issue_agent_token(
            "agents-1", "aauth:shop@agents.example", public_jwk=json.loads(FOREIGN), lifetime=600
        )
        assert issued.signature_key == f'sig=jwt;jwt="{issued.token}"'
        assert issued.token not in repr(issued)
        assert 590 < issued.expires - time.time() < 601
        for wrong in ({}, {"key": "agents-1", "public_jwk": FOREIGN}, {"key": "agents-1", "kind": "other"}):
            with pytest.raises(ValueError, match=r"exactly one|kind is one of"):
                await client.issue_agent_token("agents-1", **wrong)  # type: ignore[arg-type]
