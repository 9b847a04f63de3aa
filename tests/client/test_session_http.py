"""Requests of HTTP libraries that a session signs, verified from what arrives and nothing else."""

# ruff: noqa: ASYNC210, ASYNC212, N815 - the daemon has a thread of its own, so blocking clients may block; http.server names do_POST

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator

import aiohttp
import http_sf
import httpx
import pytest
import requests
from cryptography.exceptions import InvalidSignature
from session_house import SUBJECT, House, claims, decode, result

from keyd import client as keyd
from keyd.client import AsyncClient, Client
from keyd.client.aiohttp_auth import keyd_middleware
from keyd.client.http import OutgoingRequest
from keyd.client.httpx_auth import KeydAuth as HttpxAuth
from keyd.client.keys import public_key
from keyd.client.requests_auth import KeydAuth as RequestsAuth
from keyd.client.session_http import sign_outgoing

CORE = ["@method", "@authority", "@path", "signature-key"]
LUMOAUTH = [*CORE, "content-digest", "content-type", "authorization"]
HOST = {"Host": "shop.example"}


class Resource(http.server.ThreadingHTTPServer):
    """Rebuilds the base from the request that came, verifies with the key in the token, and answers what was covered."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            answer, status = self._verified(body), 200
        except (InvalidSignature, ValueError, KeyError) as exc:
            answer, status = {"error": repr(exc)}, 401
        document = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(document)))
        self.end_headers()
        self.wfile.write(document)

    do_POST = do_GET

    def _verified(self, body: bytes) -> dict[str, object]:
        fields = {name.lower(): value for name, value in self.headers.items()}
        ((label, (covered, parameters)),) = http_sf.parse(fields["signature-input"].encode(), tltype="dictionary").items()
        path, _, query = self.path.partition("?")
        fields |= {"@method": self.command, "@authority": self.headers["host"], "@path": path, "@query": f"?{query}"}
        names = [name for name, _ in covered]
        empty = {"signature-key": "", "authorization": ""} if "agent-auth" in fields else {}
        lines = [f'"{name}": {(empty | fields)[name]}' for name in names]
        lines.append(f'"@signature-params": {fields["signature-input"].partition("=")[2]}')
        shown = fields.get("agent-auth") or fields["signature-key"]
        token = re.search(r"eyJ[\w-]+\.[\w-]+\.[\w-]+", shown).group()  # type: ignore[union-attr]
        text = fields["signature"].removeprefix(f"{label}=:").removesuffix(":")
        standard = len(text) % 4 == 0
        raw = base64.b64decode(text, validate=True) if standard else decode(text)
        public_key(claims(token)["cnf"]["jwk"], "Ed25519").verify(raw, "\n".join(lines).encode())
        if "content-digest" in names:
            digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
            if fields["content-digest"] != f"sha-256=:{digest}:":
                raise ValueError("the digest is another body's")
        return {"covered": names, "parameters": sorted(parameters), "label": label, "standard": standard, "token": token}

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def resource() -> Iterator[Resource]:
    server = Resource()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    house = House()
    yield house
    house.close()


class Sender:
    """Sends with one library. ``session`` is open."""

    def __init__(self, library: str, house: House, url: str) -> None:
        self.library, self.house, self.url = library, house, url
        asynchronous = library in ("httpx-async", "aiohttp")
        self.client = (AsyncClient if asynchronous else Client)(house.address, clock=house.clock.now)

    async def open(self, kind: str = "aauth") -> None:
        self.session = await result(self.client.open_session("lumo" if kind == "lumoauth" else "agents", SUBJECT, kind=kind))

    async def __call__(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, **options):
        options.setdefault("clock", self.house.clock.now)
        url, headers = self.url + path, HOST | (headers or {})
        if self.library == "httpx":
            with httpx.Client(auth=HttpxAuth(self.session, **options)) as http:
                response = http.request(method, url, content=body, headers=headers)
                return response.status_code, response.json()
        if self.library == "requests":
            answer = requests.request(method, url, data=body, headers=headers, auth=RequestsAuth(self.session, **options))
            return answer.status_code, answer.json()
        if self.library == "httpx-async":
            async with httpx.AsyncClient(auth=HttpxAuth(self.session, **options)) as http:
                response = await http.request(method, url, content=body, headers=headers)
                return response.status_code, response.json()
        async with (
            aiohttp.ClientSession(middlewares=[keyd_middleware(self.session, **options)]) as http,
            http.request(method, url, data=body, headers=headers) as response,
        ):
            return response.status, await response.json(content_type=None)


@pytest.fixture(params=["httpx", "requests", "httpx-async", "aiohttp"])
async def send(request, house, resource):
    sender = Sender(request.param, house, resource.url)
    await sender.open()
    yield sender
    await result(sender.session.close())
    await result(sender.client.close())


async def test_what_aauth_demands_is_covered_and_nothing_else_is_sent(send) -> None:
    status, answer = await send("GET", "/orders")
    assert (status, answer["covered"]) == (200, CORE)
    assert (answer["label"], answer["parameters"], answer["standard"]) == ("sig", ["created"], True)
    status, answer = await send("POST", "/orders?a=1", b'{"item": 7}', {"Content-Type": "text/x", "Authorization": "AAuth x"})
    assert status == 200
    query = [*CORE[:3], "@query", "signature-key"]
    assert answer["covered"] == [*query, "content-digest", "content-type", "authorization"]


async def test_options_of_a_session(send) -> None:
    status, answer = await send(
        "GET", "/", fields={"X-Trace": "t"}, components=("x-trace",), expires_in=30, nonce=True, base64url=True
    )
    assert (status, answer["covered"]) == (200, [*CORE, "x-trace"])
    assert (answer["parameters"], answer["standard"]) == (["created", "expires", "nonce"], False)
    for wrong in (
        {"label": "x"},
        {"tag": "x"},
        {"include_alg": True},
        {"thumbprint": True},
        {"components": ("x-none",)},
        {"components": ("X-Trace",)},
    ):
        with pytest.raises(ValueError, match=r"named keys|not in the request|lower case"):
            await send("GET", "/", **wrong)


async def test_a_session_that_was_lost_costs_no_request(send) -> None:
    _, before = await send("GET", "/")
    send.house.lose_sessions()
    status, after = await send("GET", "/")
    assert status == 200
    assert after["token"] != before["token"]


async def test_what_the_grant_does_not_have_is_not_sent(send) -> None:
    with pytest.raises(keyd.PermissionDenied):
        await send("GET", "/", headers={"Host": "evil.example"})


async def test_lumoauth_as_its_sdk_sends_it(send) -> None:
    await result(send.session.close())
    await send.open("lumoauth")
    status, answer = await send("POST", "/token?x=1", b"{}", {"Content-Type": "application/json"})
    assert (status, answer["covered"], answer["parameters"]) == (200, LUMOAUTH, ["created", "nonce"])
    assert (answer["label"], answer["standard"]) == ("sig1", False)
    status, answer = await send("GET", "/", headers={"Authorization": "AAuth y"})
    assert (status, answer["covered"]) == (200, LUMOAUTH)
    for wrong in ({"components": ("x",)}, {"expires_in": 30}, {"nonce": False}):
        with pytest.raises(ValueError, match="LumoAuth"):
            await send("GET", "/", **wrong)


def test_what_a_session_sends_takes_the_place_of_a_field_in_another_case(house) -> None:
    with Client(house.address, clock=house.clock.now) as client, client.open_session("agents", SUBJECT) as session:
        options = {"clock": house.clock.now, "fields": {"signature-key": "x", "content-digest": "x", "x-Trace": "1"}}
        fields = sign_outgoing(session, None, OutgoingRequest("POST", "https://shop.example/", [], b"z"), options)
        assert sorted(fields) == ["Content-Digest", "Signature", "Signature-Input", "Signature-Key", "x-Trace"]
        assert fields["Signature-Key"] == session.signature_key


def test_an_altered_request_is_refused(house, resource) -> None:
    with Client(house.address, clock=house.clock.now) as client, client.open_session("agents", SUBJECT) as session:
        sent = [("Host", "shop.example"), ("Content-Type", "application/json")]
        request = OutgoingRequest("POST", f"{resource.url}/orders?a=1", sent, b"{}")
        fields = dict(sent) | sign_outgoing(session, None, request, {"clock": house.clock.now})
        assert httpx.post(request.url, headers=fields, content=b"{}").status_code == 200
        altered = (
            ("/orders?a=2", {}, b"{}"),
            ("/other?a=1", {}, b"{}"),
            ("/orders?a=1", {"Host": "other.example"}, b"{}"),
            ("/orders?a=1", {"Content-Type": "text/plain"}, b"{}"),
            ("/orders?a=1", {}, b"[]"),
        )
        for path, headers, body in altered:
            assert httpx.post(resource.url + path, headers=fields | headers, content=body).status_code == 401


async def test_a_session_with_a_key_or_of_the_other_kind_is_a_mistake(house) -> None:
    with Client(house.address, clock=house.clock.now) as client, client.open_session("agents", SUBJECT) as session:
        with pytest.raises(TypeError, match="not a session and a key"):
            httpx.get("http://127.0.0.1:9/", auth=HttpxAuth(session, "agent"))
        with pytest.raises(TypeError, match="which key"):
            httpx.get("http://127.0.0.1:9/", auth=HttpxAuth(client))
        with pytest.raises(ValueError, match="for sessions"):
            httpx.get("http://127.0.0.1:9/", auth=HttpxAuth(client, "agents", base64url=True))
        async with httpx.AsyncClient(auth=HttpxAuth(session)) as http:
            with pytest.raises(TypeError, match="not a blocking one"):
                await http.get("http://127.0.0.1:9/")
        with pytest.raises(ValueError, match="not ASCII"):
            url = "http://127.0.0.1:9/"
            request = OutgoingRequest(
                "GET", url, [("Host", "shop.example"), ("Authorization", "\N{LATIN SMALL LETTER U WITH DIAERESIS}")], b""
            )
            sign_outgoing(session, None, request, {})
