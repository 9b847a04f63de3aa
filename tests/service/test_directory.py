"""The key directory over HTTP, as verifiers and caches see it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from service_conftest import Running

from keyd import app
from keyd.core.directory_signer import DirectorySigner, Request, Signature
from keyd.v1 import key_service_pb2 as pb
from keyd.v1 import types_pb2

PATH = "/.well-known/http-message-signatures-directory"
HOST = {"Host": "agent.example"}
ISSUER = '[issuers.bot]\nhosts = ["agent.example"]\nkeys = ["bot*"]\ndirectory = "{}"\n'


def configure(running: Running, form: str) -> None:
    path = running.directory / "keyd.toml"
    path.write_text(path.read_text().partition("[issuers.bot]")[0] + ISSUER.format(form))
    app.reload(running.daemon, path)


@pytest.fixture
async def http(running: Running) -> AsyncIterator[httpx.AsyncClient]:
    configure(running, "cloudflare")
    async with httpx.AsyncClient(base_url=running.http, trust_env=False) as client:
        yield client


async def create(running: Running, name: str = "bot", **spec: object) -> types_pb2.Key:
    response = await running.keys.CreateKey(pb.CreateKeyRequest(spec=pb.KeySpec(name=name, profile="web-bot-auth", **spec)))  # type: ignore[arg-type]
    return response.key


async def test_a_key_with_the_profile_needs_nothing_else(running: Running, http: httpx.AsyncClient) -> None:
    key = await create(running)
    assert set(key.purposes) == {types_pb2.PURPOSE_HTTP, types_pb2.PURPOSE_DIRECTORY}
    plain = await running.keys.CreateKey(pb.CreateKeyRequest(spec=pb.KeySpec(name="plain")))
    assert list(plain.key.purposes) == [types_pb2.PURPOSE_HTTP]
    response = await http.get(PATH, headers=HOST)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/http-message-signatures-directory+json"
    assert [member["kid"] for member in response.json()["keys"]] == [key.versions[0].thumbprint]
    assert f'keyid="{key.versions[0].thumbprint}"' in response.headers["signature-input"]
    assert response.headers["cache-control"] == "public, max-age=300"
    assert response.headers["access-control-allow-origin"] == "*"
    assert "Signature-Input" in response.headers["access-control-expose-headers"]
    assert "content-digest" not in response.headers


async def test_conditional_requests_and_head(running: Running, http: httpx.AsyncClient) -> None:
    await create(running)
    for form in ("cloudflare", "draft"):
        configure(running, form)
        full = await http.get(PATH, headers=HOST)
        etag, signature = full.headers["etag"], full.headers["signature"]
        assert ("content-digest" in full.headers) == (form == "draft")
        same = await http.get(PATH, headers={**HOST, "If-None-Match": etag})
        assert (same.status_code, same.content, same.headers["signature"]) == (304, b"", signature)
        assert "content-digest" not in same.headers
        assert (await http.get(PATH, headers={**HOST, "If-None-Match": '"x"'})).status_code == 200
        head = await http.head(PATH, headers=HOST)
        assert (head.status_code, head.content, head.headers["signature"]) == (200, b"", signature)
        assert head.headers.get("content-digest") == full.headers.get("content-digest")


async def test_a_cache_gets_no_confirmation_of_signatures_that_there_are_no_more(
    running: Running, http: httpx.AsyncClient
) -> None:
    await create(running)
    signed = await http.get(PATH, headers=HOST)
    assert "signature" in signed.headers
    await running.keys.DisableKey(pb.DisableKeyRequest(name="bot"))
    again = await http.get(PATH, headers={**HOST, "If-None-Match": signed.headers["etag"]})
    assert (again.status_code, again.content, "signature" in again.headers) == (200, signed.content, False)


async def test_a_request_waits_for_the_first_signature(
    running: Running, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, may = asyncio.Event(), asyncio.Event()
    original = DirectorySigner.sign

    async def slow(self: DirectorySigner, request: Request) -> Signature:
        asked.set()
        await may.wait()
        return await original(self, request)

    monkeypatch.setattr(DirectorySigner, "sign", slow)
    await create(running)
    waiting = asyncio.create_task(http.get(PATH, headers=HOST))
    await asked.wait()
    assert (await http.get("/livez")).status_code == 200
    assert not waiting.done()
    may.set()
    assert "signature" in (await waiting).headers


async def test_where_there_is_none(running: Running, http: httpx.AsyncClient) -> None:
    await create(running)
    for host, path, status in (
        ("agent.example", PATH, 200),
        ("agent.example:443", PATH, 200),
        ("agent.example:8470", PATH, 404),
        ("agent.example:0", PATH, 404),
        ("agent.example.", PATH, 404),
        ("evil.example", PATH, 404),
        ("a/b", PATH, 400),
        ("agent.example", PATH + "/", 404),
    ):
        response = await http.get(path, headers={"Host": host})
        assert response.status_code == status, host
        assert "location" not in response.headers
        if status != 200 and path == PATH:
            assert (response.headers["cache-control"], "signature" in response.headers) == ("no-store", False)
    assert (await http.post(PATH, headers=HOST)).status_code == 405
    configure(running, "off")
    assert (await http.get(PATH, headers=HOST)).status_code == 404


async def test_no_keys_are_no_directory(running: Running, http: httpx.AsyncClient) -> None:
    await create(running, "other")
    empty = await http.get(PATH, headers=HOST)
    assert (empty.status_code, empty.headers["cache-control"], empty.headers["retry-after"]) == (503, "no-store", "5")


async def test_on_record_and_in_the_figures(running: Running, http: httpx.AsyncClient) -> None:
    await create(running)
    assert (await http.get(PATH, headers=HOST)).status_code == 200
    lines = (running.directory / "state" / "audit" / "audit.jsonl").read_text().splitlines()
    (record,) = [entry for entry in map(json.loads, lines) if entry.get("purpose") == "directory"]
    assert (record["operation"], record["decision"], record["authority"]) == ("sign", "allow", "agent.example")
    assert record["detail"] == "for the key directory of issuer bot, by keyd itself"
    figures = (await http.get(f"http://127.0.0.1:{running.daemon.metrics_port}/metrics")).text
    assert 'keyd_directory_keys{issuer="bot"} 1.0' in figures
    assert 'keyd_directory_unsigned{issuer="bot"} 0.0' in figures
    assert 'keyd_directory_signatures_total{issuer="bot"} 1.0' in figures
    assert 'keyd_directory_failures_total{issuer="bot"} 0.0' in figures
    assert 'keyd_directory_signature_ends_seconds{issuer="bot"} 86390.0' in figures
