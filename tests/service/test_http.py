"""The JWKS endpoint, as resources and caches see it."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from service_conftest import Running, refused

from keyd import app
from keyd.core import jwks
from keyd.core.publication import Issuer, Rules
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
    nothing = await http.get("/.well-known/jwks.json")
    assert (nothing.json(), nothing.headers["cache-control"]) == ({"keys": []}, "public, max-age=0")
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


async def test_nothing_is_redirected_to_a_host_that_the_client_names(running: Running, http: httpx.AsyncClient) -> None:
    for path in ("/.well-known/jwks.json/", "/keys/agent/jwks.json/", "/livez/"):
        response = await http.get(path, headers={"Host": "evil.example"})
        assert (response.status_code, "location" in response.headers) == (404, False)
    await http.aclose()


async def test_no_cache_keeps_the_answer_that_there_is_no_set(running: Running, http: httpx.AsyncClient) -> None:
    await create(running, "hidden", unpublished=True)
    for path, host, status in (
        ("/keys/soon/jwks.json", "a", 404),
        ("/keys/hidden/jwks.json", "a", 404),
        ("/.well-known/jwks.json", "a", 503),
        ("/.well-known/jwks.json", "a/b", 400),
    ):
        response = await http.get(path, headers={"Host": host})
        assert (response.status_code, response.headers["cache-control"]) == (status, "no-store")
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
        running.daemon.publication.rules = Rules(style=style)  # type: ignore[arg-type]
        seen.append(json.loads((await http.get("/.well-known/jwks.json")).content)["keys"][0].get("alg"))
    assert seen == ["Ed25519", "EdDSA", None]
    await http.aclose()


class TestHosts:
    """What a client says of the host decides which document it gets, and nothing else."""

    @pytest.fixture
    async def issuers(self, running: Running) -> dict[str, str]:
        """Two issuers with a key each, and one key of nobody; returns the kids."""
        hosts = {"shop": {"keys.shop.example", "[2001:db8::1]"}, "till": {"keys.shop.example:8443"}}
        running.daemon.publication.rules = Rules(
            issuers={name: Issuer(name, frozenset(of), (f"{name}-*",), "omit", 60.0) for name, of in hosts.items()}
        )
        return {name: await create(running, name) for name in ("agent", "shop-1", "till-1")}

    async def ask(self, running: Running, *lines: str, path: str = "/.well-known/jwks.json") -> tuple[int, list[str], str]:
        """Send a request with exactly these header lines; return status, kids, and everything that came back."""
        port = running.daemon.http_port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write("\r\n".join([f"GET {path} HTTP/1.1", *lines, "Connection: close", "", ""]).encode("latin-1"))
        answer = (await asyncio.wait_for(reader.read(), 10)).decode()
        writer.close()
        head, _, body = answer.partition("\r\n\r\n")
        status = int(head.split()[1])
        return status, [key["kid"] for key in json.loads(body)["keys"]] if status == 200 else [], answer

    @pytest.mark.parametrize(
        ("host", "wanted"),
        [
            ("keys.shop.example", "shop-1"),
            ("KEYS.Shop.EXAMPLE", "shop-1"),
            ("keys.shop.example:8470", "shop-1"),
            ("keys.shop.example:8443", "till-1"),
            ("keys.shop.example:08443", "till-1"),
            ("[2001:db8::1]", "shop-1"),
            ("[2001:DB8:0:0::1]:443", "shop-1"),
        ],
    )
    async def test_an_issuers_host_has_its_document(
        self, running: Running, issuers: dict[str, str], host: str, wanted: str
    ) -> None:
        status, kids, answer = await self.ask(running, f"Host: {host}")
        assert (status, kids) == (200, [issuers[wanted]])
        assert "\r\ncache-control: public, max-age=60\r\n" in answer
        assert "\r\nvary:" not in answer.lower()
        assert "EdDSA" not in answer
        assert "Ed25519" in answer  # its curve; there is no alg
        assert '"alg"' not in answer

    @pytest.mark.parametrize(
        "host", ["localhost", "127.0.0.1:8470", "", "shop.example", "keys.shop.example.", "keys.shop.example.evil.example", "a_b"]
    )
    async def test_any_other_host_has_that_of_all_keys(self, running: Running, issuers: dict[str, str], host: str) -> None:
        assert (await self.ask(running, f"Host: {host}"))[:2] == (200, list(issuers.values()))

    @pytest.mark.parametrize(
        "lines",
        [
            ["Host: keys.shop.example", "Host: other.example"],
            ["Host: keys.shop.example", "Host: keys.shop.example"],
            ["Host: keys.shop.example, other.example"],
            ["Host: user@keys.shop.example"],
            ["Host: keys.shop.example/path"],
            ["Host: keys.shop.example:http"],
            ["Host: keys.shop.example:123456"],
            ["Host: [2001:db8::1"],
            ["Host: [2001:db8:::1]"],
            ["Host: [::ffff:1.2.3.4.5]"],
            ["Host: b\xfccher.example"],
            ["Host: a<script>alert(1)</script>"],
            ["Host: " + "a" * 301],
        ],
    )
    async def test_what_is_no_host_is_refused_and_not_repeated(
        self, running: Running, issuers: dict[str, str], lines: list[str]
    ) -> None:
        status, _, answer = await self.ask(running, *lines)
        assert status == 400
        assert "example" not in answer
        assert "script" not in answer
        assert "aaa" not in answer

    async def test_what_others_say_of_the_host_counts_for_nothing(self, running: Running, issuers: dict[str, str]) -> None:
        for line in ("X-Forwarded-Host: keys.shop.example", "Forwarded: host=keys.shop.example"):
            assert (await self.ask(running, "Host: localhost", line))[1] == list(issuers.values())
        status, _, _ = await self.ask(running, "Host: localhost", path="http://keys.shop.example/.well-known/jwks.json")
        assert status == 404

    async def test_a_key_is_there_at_its_issuers_host_alone(self, running: Running, issuers: dict[str, str]) -> None:
        path = "/keys/shop-1/jwks.json"
        assert (await self.ask(running, "Host: keys.shop.example", path=path))[1] == [issuers["shop-1"]]
        status, _, others = await self.ask(running, "Host: keys.shop.example:8443", path=path)
        _, _, nobodys = await self.ask(running, "Host: keys.shop.example:8443", path="/keys/nobody/jwks.json")
        assert (status, others.partition("date:")[0]) == (404, nobodys.partition("date:")[0])
        assert (await self.ask(running, "Host: localhost", path=path))[1] == [issuers["shop-1"]]

    async def test_an_issuer_whose_keys_are_all_gone_is_not_answered_with_an_empty_set(self, running: Running) -> None:
        running.daemon.publication.rules = Rules(issuers={"x": Issuer("x", frozenset({"x.example"}), ("x",), "jose", 60.0)})
        await create(running)
        assert (await self.ask(running, "Host: x.example"))[0] == 503
        assert (await self.ask(running, "Host: y.example"))[0] == 200

    async def test_probes_do_not_look_at_the_host(self, running: Running) -> None:
        assert (await self.ask(running, "Host: a<b", path="/nothing"))[0] == 404
        async with httpx.AsyncClient(trust_env=False) as http:
            assert (await http.get(f"{running.http}/livez", headers={"Host": "a b"})).status_code == 200

    async def test_grpc_has_the_same_documents_by_name(self, running: Running, issuers: dict[str, str]) -> None:
        async with httpx.AsyncClient(trust_env=False) as http:
            over_http = await http.get(f"{running.http}/.well-known/jwks.json", headers={"Host": "keys.shop.example"})
        same = await running.signing.GetJWKS(signing_service_pb2.GetJWKSRequest(issuer="shop"))
        assert (same.document, same.etag, same.max_age.seconds) == (over_http.content, over_http.headers["etag"], 60)
        for request, reason in (
            (signing_service_pb2.GetJWKSRequest(issuer="nobody"), "NOT_FOUND"),
            (signing_service_pb2.GetJWKSRequest(issuer="shop", key="shop-1"), "INVALID_ARGUMENT"),
        ):
            assert (await refused(running.signing.GetJWKS(request))).reason == reason


async def test_a_document_is_rendered_once_however_often_it_is_asked_for(
    running: Running, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(running)
    rendered = []
    original = jwks.part
    monkeypatch.setattr(jwks, "part", lambda *args: rendered.append(args) or original(*args))
    for number in range(20):
        assert (await http.get("/.well-known/jwks.json")).status_code == 200
        assert (await http.get("/keys/agent/jwks.json")).status_code == 200
        assert (await http.get(f"/keys/no-{number}/jwks.json")).status_code == 404
        await running.signing.GetJWKS(signing_service_pb2.GetJWKSRequest())
    assert len(rendered) == 1
    await http.aclose()


async def test_a_reload_takes_issuers_over_and_says_which_sets_are_large(
    running: Running, http: httpx.AsyncClient, capfd: pytest.CaptureFixture[str]
) -> None:
    kids = [await create(running, f"shop-{number:02}") for number in range(11)]
    path = running.directory / "keyd.toml"
    before = path.read_text()
    issuer = '[issuers.{}]\nhosts = ["keys.shop.example"]\nkeys = ["shop-*"]\nmax_age = "1m"\n'

    async def answer() -> tuple[str, list[str]]:
        response = await http.get("/.well-known/jwks.json", headers={"Host": "Keys.Shop.Example:8470"})
        return response.headers["cache-control"], [key["kid"] for key in response.json()["keys"]]

    assert (await answer())[0] == "public, max-age=300"
    path.write_text(before + issuer.format("shop"))
    capfd.readouterr()
    app.reload(running.daemon, path)
    logged = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert await answer() == ("public, max-age=60", kids)
    assert [entry["issuer"] for entry in logged if "larger than" in entry["event"]] == ["(all keys)", "shop"]
    path.write_text(before + issuer.format("shop") + issuer.format("other"))
    app.reload(running.daemon, path)
    assert await answer() == ("public, max-age=60", kids)  # two for one host: nothing is taken over
    path.write_text(before)
    app.reload(running.daemon, path)
    assert (await answer())[0] == "public, max-age=300"
    await http.aclose()


async def test_requests_are_in_no_log_also_after_a_reload(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """Anybody may ask, as often as they like, for paths of any text."""
    app.reload(running.daemon, running.directory / "keyd.toml")
    async with httpx.AsyncClient(base_url=running.http, trust_env=False) as client:
        assert (await client.get("/written-by-anybody")).status_code == 404
    logged = capsys.readouterr().err
    assert "configuration reloaded" in logged
    assert "written-by-anybody" not in logged
