"""The JWKS endpoint, as resources and caches see it."""

from __future__ import annotations

import json

import httpx
import pytest
from service_conftest import Running

from keyd.v1 import key_service_pb2 as pb
from keyd.v1 import signing_service_pb2


@pytest.fixture
async def http(running: Running) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=running.http, trust_env=False)


async def create(running: Running, name: str = "agent", **spec: object) -> str:
    response = await running.keys.CreateKey(pb.CreateKeyRequest(spec=pb.KeySpec(name=name, **spec)))  # type: ignore[arg-type]
    return response.key.versions[0].kid


async def test_the_set_and_its_headers(running: Running, http: httpx.AsyncClient) -> None:
    kids = [await create(running, name) for name in ("a", "b")]
    response = await http.get("/.well-known/jwks.json")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/jwk-set+json"
    assert response.headers["cache-control"] == "public, max-age=300"
    assert response.headers["access-control-allow-origin"] == "*"
    jwks = response.json()["keys"]
    assert [jwk["kid"] for jwk in jwks] == kids
    assert {frozenset(jwk) for jwk in jwks} == {frozenset({"kty", "crv", "x", "kid", "use", "alg"})}  # no private member, ever
    same = await running.signing.GetJWKS(signing_service_pb2.GetJWKSRequest())
    assert (same.document, same.etag, same.max_age.seconds) == (response.content, response.headers["etag"], 300)
    await http.aclose()


async def test_conditional_requests_and_head(running: Running, http: httpx.AsyncClient) -> None:
    await create(running)
    full = await http.get("/keys/agent/jwks.json")
    etag = full.headers["etag"]
    for value, status in ((etag, 304), (f'"x", W/{etag}', 304), ("*", 304), ('"x"', 200)):
        response = await http.get("/keys/agent/jwks.json", headers={"If-None-Match": value})
        assert (response.status_code, response.headers["etag"], bool(response.content)) == (status, etag, status == 200)
    head = await http.head("/keys/agent/jwks.json")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(full.content)))
    await running.keys.RotateKey(pb.RotateKeyRequest(name="agent"))
    assert (await http.get("/keys/agent/jwks.json", headers={"If-None-Match": etag})).status_code == 200
    await http.aclose()


async def test_the_active_key_comes_first_then_the_newest(running: Running, http: httpx.AsyncClient) -> None:
    await create(running)
    for now in (True, True, False):
        await running.keys.RotateKey(pb.RotateKeyRequest(name="agent", now=now))
    versions = {v.kid: v.version for v in (await running.keys.GetKey(pb.KeyServiceGetKeyRequest(name="agent"))).key.versions}
    order = [versions[jwk["kid"]] for jwk in (await http.get("/keys/agent/jwks.json")).json()["keys"]]
    assert order == [3, 4, 2, 1]
    await http.aclose()


async def test_never_an_empty_set_once_there_are_keys(running: Running, http: httpx.AsyncClient) -> None:
    assert (await http.get("/.well-known/jwks.json")).json() == {"keys": []}
    await create(running, unpublished=True)
    assert (await http.get("/.well-known/jwks.json")).status_code == 503
    assert (await http.get("/keys/agent/jwks.json")).status_code == 404
    assert (await http.get("/keys/nobody/jwks.json")).status_code == 404
    await http.aclose()


async def test_what_is_not_there(running: Running, http: httpx.AsyncClient) -> None:
    assert (await http.post("/.well-known/jwks.json")).status_code == 405
    assert (await http.get("/")).status_code == 404
    assert (await http.get("/livez")).text == "ok\n"
    await http.aclose()


async def test_a_key_that_is_not_published_is_not_there(running: Running, http: httpx.AsyncClient) -> None:
    kid = await create(running, "seen")
    await create(running, "hidden", unpublished=True)
    assert [jwk["kid"] for jwk in (await http.get("/.well-known/jwks.json")).json()["keys"]] == [kid]
    hidden, missing = await http.get("/keys/hidden/jwks.json"), await http.get("/keys/missing/jwks.json")
    assert (hidden.status_code, hidden.content) == (missing.status_code, missing.content) == (404, b"no such key\n")
    assert (await http.get("/keys/seen/jwks.json")).status_code == 200
    await http.aclose()


async def test_readiness_tells_each_backend_and_no_reasons(running: Running, http: httpx.AsyncClient) -> None:
    async def answers() -> list[tuple[int, str]]:
        return [(r.status_code, r.text) for r in [await http.get(path) for path in ("/readyz", "/readyz/file", "/readyz/nope")]]

    assert await answers() == [(200, "file: ok\n"), (200, "file: ok\n"), (404, "no such backend\n")]
    breaker = running.daemon.keyring.backends["file"].breaker
    while not breaker.failed("secret reason"):
        pass
    assert await answers() == [(503, "file: failing\n"), (503, "file: failing\n"), (404, "no such backend\n")]
    assert (await http.get("/livez")).status_code == 200
    breaker.succeeded()
    assert (await answers())[0] == (200, "file: ok\n")
    await http.aclose()


async def test_alg_styles(running: Running, http: httpx.AsyncClient) -> None:
    await create(running)
    seen = []
    for style in ("jose", "legacy", "omit"):
        running.daemon.publication.alg_style = style  # type: ignore[assignment]
        seen.append(json.loads((await http.get("/.well-known/jwks.json")).content)["keys"][0].get("alg"))
    assert seen == ["Ed25519", "EdDSA", None]
    await http.aclose()
