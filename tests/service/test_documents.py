"""The documents beside a JWK Set: at the issuer's origin alone, whoever asks, and the same after a restart."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import httpx
import pytest
from components import postgres
from service_conftest import Running, refused, running_in
from support import START, FakeClock

from keyd import config
from keyd.core import documents
from keyd.v1 import key_service_pb2, session_service_pb2, session_service_pb2_grpc
from keyd.v1 import signing_service_pb2 as signing_pb

ISSUERS = """
[issuers.agents]
hosts = ["agents.example", "spare.example", "agents.example:8443"]
keys = ["agents-*"]
origin = "https://agents.example"
max_age = "2m"
[issuers.agents.agent]
name = "Agents"
callback_endpoint = "https://agents.example/callback"
capabilities = ["delegation"]
[issuers.shop]
hosts = ["shop.example"]
keys = ["shop-*"]
origin = "https://shop.example"
[issuers.shop.resource]
access_mode = "auth-token"
scope_descriptions = { "orders.read" = "Read your orders" }
auth_levels = ["authorized"]
[issuers.plain]
hosts = ["plain.example"]
keys = ["*"]
"""
AGENT, REVOKED = "/.well-known/aauth-agent.json", "/.well-known/aauth-revoked-tokens.json"


@pytest.fixture
def directory() -> AsyncIterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="keyd-t-"))
    (made / "kek").write_bytes(os.urandom(32))
    (made / "kek").chmod(0o400)
    yield made
    shutil.rmtree(made)


@pytest.fixture
async def running(directory: Path) -> AsyncIterator[Running]:
    async with running_in(directory, FakeClock(), ISSUERS) as daemon:
        yield daemon


async def get(running: Running, path: str, host: str = "agents.example", method: str = "GET", **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=running.http, trust_env=False) as http:
        return await http.request(method, path, headers={"Host": host, **headers})


async def figures(running: Running) -> str:
    async with httpx.AsyncClient(trust_env=False) as http:
        return (await http.get(f"http://127.0.0.1:{running.daemon.metrics_port}/metrics")).text


@asynccontextmanager
async def admin(running: Running) -> AsyncIterator[session_service_pb2_grpc.SessionAdminServiceAsyncStub]:
    async with grpc.aio.insecure_channel(running.address) as channel:
        yield session_service_pb2_grpc.SessionAdminServiceStub(channel)  # type: ignore[misc]


def token(number: int = 1, issuer: str = "https://agents.example") -> session_service_pb2.RevokeTokenRequest:
    request = session_service_pb2.RevokeTokenRequest(issuer=issuer, token_id=f"token-{number}")
    request.expire_time.FromSeconds(int(START) + 600)
    return request


async def test_the_agent_document_and_its_headers(running: Running) -> None:
    response = await get(running, AGENT)
    assert response.status_code == 200
    assert response.json() == {
        "issuer": "https://agents.example",
        "jwks_uri": "https://agents.example/.well-known/jwks.json",
        "name": "Agents",
        "callback_endpoint": "https://agents.example/callback",
        "revoked_tokens_uri": "https://agents.example/.well-known/aauth-revoked-tokens.json",
    }
    assert [response.headers[name] for name in ("content-type", "cache-control", "access-control-allow-origin")] == [
        "application/json",
        "public, max-age=120",
        "*",
    ]
    lumoauth = await get(running, "/.well-known/aauth-agent")
    assert lumoauth.json() == {**response.json(), "capabilities": ["delegation"]}
    head = await get(running, AGENT, method="HEAD")
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", response.headers["etag"])
    for etag, status in ((response.headers["etag"], 304), ('"other"', 200)):
        again = await get(running, AGENT, **{"If-None-Match": etag})
        assert (again.status_code, bool(again.content)) == (status, status == 200)


async def test_the_resource_document(running: Running) -> None:
    response = await get(running, "/.well-known/aauth-resource.json", "shop.example")
    assert response.json() == {
        "issuer": "https://shop.example",
        "jwks_uri": "https://shop.example/.well-known/jwks.json",
        "access_mode": "auth-token",
        "scope_descriptions": {"orders.read": "Read your orders"},
    }
    lumoauth = await get(running, "/.well-known/aauth-resource", "shop.example")
    assert lumoauth.json() == {**response.json(), "auth_levels": ["authorized"]}
    assert (await get(running, AGENT, "shop.example")).status_code == 404
    assert (await get(running, "/.well-known/aauth-resource.json")).status_code == 404


async def test_at_the_origin_alone(running: Running) -> None:
    """Whoever fetches it elsewhere would have to refuse it, for it names another origin."""
    for path in (AGENT, "/.well-known/aauth-agent", REVOKED):
        await check_hosts(running, path)


async def check_hosts(running: Running, path: str) -> None:
    for host in ("agents.example", "AGENTS.example", "agents.example:443"):
        assert (await get(running, path, host)).status_code == 200
    for host in ("spare.example", "plain.example", "localhost", "evil.example", "agents.example.evil.example"):
        answer = await get(running, path, host)
        assert (answer.status_code, answer.headers["cache-control"]) == (404, "no-store")
    assert (await get(running, path, "agents.example/x")).status_code == 400
    assert (await get(running, f"{path}/")).status_code == 404
    assert (await get(running, path, method="POST")).status_code == 405


async def test_the_key_set_that_it_leads_to_is_there(running: Running) -> None:
    await running.keys.CreateKey(key_service_pb2.CreateKeyRequest(spec=key_service_pb2.KeySpec(name="agents-1")))
    uri = (await get(running, AGENT)).json()["jwks_uri"]
    keys = (await get(running, uri.removeprefix("https://agents.example"))).json()["keys"]
    assert [key["alg"] for key in keys] == ["Ed25519"], "AAuth wants it named"


async def test_a_revoked_token_is_published_until_it_is_over_also_after_a_restart(directory: Path) -> None:
    clock = FakeClock()
    async with running_in(directory, clock, ISSUERS) as running, admin(running) as operator:
        empty = await get(running, REVOKED)
        assert (empty.json(), empty.headers["cache-control"]) == (
            {"issuer": "https://agents.example", "revoked": []},
            "public, max-age=60",
        )
        await operator.RevokeToken(token())
        await operator.RevokeToken(token(2, "https://shop.example"))
        published = await get(running, REVOKED, **{"If-None-Match": empty.headers["etag"]})
        assert published.json()["revoked"] == [{"jti": "token-1", "exp": int(START) + 600}]
        shown = await figures(running)
        assert 'keyd_revoked_tokens{issuer="agents"} 1.0' in shown
        assert 'keyd_revoked_tokens_published{issuer="agents"} 1.0' in shown
    async with running_in(directory, clock, ISSUERS) as running, admin(running) as operator:
        again = await get(running, REVOKED)
        assert (again.content, again.headers["etag"]) == (published.content, published.headers["etag"])
        listed = (await operator.ListRevokedTokens(session_service_pb2.ListRevokedTokensRequest())).tokens
        assert [each.token_id for each in listed] == ["token-1", "token-2"]
        clock.advance(600)
        assert (await get(running, REVOKED)).json()["revoked"] == []


async def test_a_list_that_is_too_long_is_missed_and_not_shortened(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async with admin(running) as operator:
        await operator.RevokeToken(token())
    monkeypatch.setattr(documents, "MAX_REVOKED_SIZE", 60)
    monkeypatch.setattr("keyd.service.metrics.MAX_REVOKED_SIZE", 60)
    answer = await get(running, REVOKED)
    assert (answer.status_code, answer.headers["cache-control"], answer.headers["retry-after"]) == (503, "no-store", "60")
    assert 'keyd_revoked_tokens_published{issuer="agents"} 0.0' in await figures(running)
    assert (await get(running, AGENT)).status_code == 200


async def test_a_reload_changes_them(running: Running) -> None:
    path = running.directory / "keyd.toml"
    path.write_text(
        path.read_text()
        .replace('name = "Agents"', 'name = "New"')
        .replace("[issuers.shop.resource]", "[issuers.shop.agent]")
        .replace('access_mode = "auth-token"', "")
        .replace('scope_descriptions = { "orders.read" = "Read your orders" }', "")
        .replace('auth_levels = ["authorized"]', "")
    )
    running.daemon.apply(config.load(path))
    assert (await get(running, AGENT)).json()["name"] == "New"
    assert (await get(running, "/.well-known/aauth-resource.json", "shop.example")).status_code == 404
    assert (await get(running, AGENT, "shop.example")).json()["issuer"] == "https://shop.example"


async def test_the_api_tells_of_them_with_the_set_of_an_issuer(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    await running.keys.CreateKey(key_service_pb2.CreateKeyRequest(spec=key_service_pb2.KeySpec(name="agents-1")))
    answer = await running.signing.GetJWKS(signing_pb.GetJWKSRequest(issuer="agents"))
    assert {(each.host, each.name) for each in answer.documents} == {
        ("agents.example", name) for name in (documents.AGENT, documents.LUMOAUTH_AGENT, documents.REVOKED)
    }
    served = await get(running, AGENT)
    first = answer.documents[0]
    assert (first.content, first.etag, first.max_age.seconds) == (served.content, served.headers["etag"], 120)
    assert not (await running.signing.GetJWKS(signing_pb.GetJWKSRequest())).documents
    async with admin(running) as operator:
        await operator.RevokeToken(token())
    monkeypatch.setattr(documents, "MAX_REVOKED_SIZE", 60)
    last = (await running.signing.GetJWKS(signing_pb.GetJWKSRequest(issuer="agents"))).documents[-1]
    assert (last.name, last.content) == (documents.REVOKED, b"")
    assert "would pass for the whole" in last.failure


async def test_what_one_replica_revokes_the_other_publishes(directory: Path) -> None:
    with postgres.fresh_database() as database:
        one_of = ISSUERS + f'[store]\nurl = "{database.url}"\nreplica = '
        (directory / "other").mkdir()
        shutil.copy2(directory / "kek", directory / "other/kek")
        async with (
            running_in(directory, FakeClock(), one_of + '"one"\n') as one,
            running_in(directory / "other", FakeClock(), one_of + '"other"\n') as other,
            admin(one) as operator,
        ):
            await operator.RevokeToken(token())
            published = await get(one, REVOKED)
            async with httpx.AsyncClient(base_url=other.http, trust_env=False) as http:
                for _ in range(2000):  # a notification, and a second at most without it
                    answer = await http.get(REVOKED, headers={"Host": "agents.example"})
                    if answer.content == published.content:
                        break
            assert answer.json()["revoked"] == [{"jti": "token-1", "exp": int(START) + 600}]
            assert answer.headers["etag"] == published.headers["etag"]
            longest, longer = token(2), token(2)
            longest.token_id, longer.token_id = "x" * 255, "x" * 256
            assert (await operator.RevokeToken(longest)).token.token_id == longest.token_id
            assert "1 to 255 printable" in (await refused(operator.RevokeToken(longer))).message
            published = await get(one, REVOKED)
            with database.server.away():
                assert (await refused(operator.RevokeToken(token(2)))).reason == "STORE_UNAVAILABLE"
                assert (await get(one, REVOKED)).content == published.content
