import asyncio
import base64
import hashlib
import http.server
import json
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import aiohttp
import httpx
import httpx2
import pytest
import requests
from http_message_signatures import HTTPMessageVerifier, InvalidSignature, MappingKeyResolver, algorithms

from keyd import client as keyd
from keyd.client.aiohttp_auth import keyd_middleware
from keyd.client.digest import content_digest
from keyd.client.http import OutgoingRequest, sign_request
from keyd.client.httpx2_auth import KeydAuth as Httpx2Auth
from keyd.client.httpx_auth import KeydAuth as HttpxAuth
from keyd.client.requests_auth import KeydAuth as RequestsAuth

EXAMPLE_BODY = b'{"hello": "world"}'  # RFC 9530 appendix B


def test_content_digest_of_the_rfc() -> None:
    assert content_digest(EXAMPLE_BODY) == "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"
    assert content_digest(EXAMPLE_BODY, "sha-512").startswith("sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+T")
    assert content_digest(EXAMPLE_BODY + b" ") != content_digest(EXAMPLE_BODY)
    with pytest.raises(ValueError, match="md5"):
        content_digest(b"", "md5")


class Resource(http.server.ThreadingHTTPServer):
    """An HTTP server that verifies what it is sent, and answers what it found."""

    daemon_threads = True

    def __init__(self, daemon) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.daemon = daemon
        self.authority = f"127.0.0.1:{self.server_port}"
        self.url = f"http://{self.authority}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Resource

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("location", "/landed?a=1")
            self.send_header("content-length", "0")
            self.end_headers()
            return
        status, answer = 200, self._verdict(body)
        if "error" in answer:
            status = 401
        document = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(document)))
        self.end_headers()
        self.wfile.write(document)

    do_POST = do_GET  # noqa: N815 - http.server chooses the name

    def _verdict(self, body: bytes) -> dict[str, Any]:
        message = type("Message", (), {})()
        message.method, message.headers = self.command, self.headers
        message.url = f"http://{self.headers['host']}{self.path}"
        found = []
        for algorithm in (algorithms.ED25519, algorithms.ECDSA_P256_SHA256):
            resolver = MappingKeyResolver(public_keys=self.server.daemon.public_keys(), private_keys={})
            try:
                found = HTTPMessageVerifier(signature_algorithm=algorithm, key_resolver=resolver).verify(message)
                break
            except InvalidSignature as exc:
                error = repr(exc)
        if not found:
            return {"error": error}
        covered = found[0].covered_components
        digest = f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"
        if body and covered.get('"content-digest"') != digest:
            return {"error": "the digest does not cover the body"}
        return {
            "label": found[0].label,
            "covered": covered,
            "parameters": found[0].parameters,
            "signature": self.headers["signature"],
        }

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def resource(daemon) -> Iterator[Resource]:
    server = Resource(daemon)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class Sender:
    """Sends the same request with each library, and says what the server made of it."""

    def __init__(self, kind: str, daemon, resource) -> None:
        self.kind, self.daemon, self.url = kind, daemon, resource.url

    async def __call__(
        self, path: str, method: str = "GET", body: bytes | None = None, key: str = "agent", headers=None, **options
    ):
        return await getattr(self, f"_{self.kind}")(method, self.url + path, body, key, headers or {}, options)

    async def _httpx(self, method, url, body, key, headers, options, library=httpx, auth=HttpxAuth):
        def send():
            with keyd.Client(self.daemon.address) as signer, library.Client(auth=auth(signer, key, **options)) as client:
                return client.request(method, url, content=body, headers=headers).json()

        return await asyncio.to_thread(send)

    async def _httpx_async(self, method, url, body, key, headers, options, library=httpx, auth=HttpxAuth):
        async with (
            keyd.AsyncClient(self.daemon.address) as signer,
            library.AsyncClient(auth=auth(signer, key, **options)) as client,
        ):
            return (await client.request(method, url, content=body, headers=headers)).json()

    async def _httpx2(self, *request):
        return await self._httpx(*request, httpx2, Httpx2Auth)

    async def _httpx2_async(self, *request):
        return await self._httpx_async(*request, httpx2, Httpx2Auth)

    async def _requests(self, method, url, body, key, headers, options):
        def send():
            with keyd.Client(self.daemon.address) as signer:
                auth = RequestsAuth(signer, key, **options)
                return requests.request(method, url, data=body, headers=headers, auth=auth, timeout=5).json()

        return await asyncio.to_thread(send)

    async def _aiohttp(self, method, url, body, key, headers, options):
        async with (
            keyd.AsyncClient(self.daemon.address) as signer,
            aiohttp.ClientSession(middlewares=[keyd_middleware(signer, key, **options)]) as session,
            session.request(method, url, data=body, headers=headers) as response,
        ):
            return await response.json()


@pytest.fixture(params=["httpx", "httpx_async", "httpx2", "httpx2_async", "requests", "aiohttp"])
def send(request, daemon, resource) -> Sender:
    return Sender(request.param, daemon, resource)


async def test_a_get_is_signed(send, resource) -> None:
    answer = await send("/a/b?c=d%20e")
    assert list(answer["covered"])[:-1] == ['"@method"', '"@authority"', '"@path"', '"@query"']
    assert answer["covered"]['"@authority"'] == resource.authority
    assert answer["covered"]['"@query"'] == "?c=d%20e"
    parameters = answer["parameters"]
    assert set(parameters) == {"created", "expires", "keyid", "nonce"}
    assert parameters["keyid"] == "agent-1"
    assert parameters["expires"] - parameters["created"] == 60
    assert len(base64.urlsafe_b64decode(parameters["nonce"] + "=")) == 32
    assert answer["label"] == "sig1"
    raw = re.fullmatch(r"sig1=:([A-Za-z0-9+/]+=*):", answer["signature"])
    assert len(base64.b64decode(raw[1], validate=True)) == 64


async def test_without_a_query(send) -> None:
    """It is covered all the same, so that one which is added on the way is noticed."""
    assert (await send("/a"))["covered"]['"@query"'] == "?"


async def test_a_body_is_signed(send) -> None:
    answer = await send("/a", "POST", EXAMPLE_BODY, headers={"Content-Type": "application/json"})
    assert list(answer["covered"])[:-1] == [
        '"@method"',
        '"@authority"',
        '"@path"',
        '"@query"',
        '"content-type"',
        '"content-digest"',
    ]
    assert answer["covered"]['"content-digest"'] == content_digest(EXAMPLE_BODY)


async def test_options(send) -> None:
    now = time.time()
    answer = await send(
        "/a",
        "POST",
        b"x",
        headers={"X-Trace": "7"},
        components=("@method", "x-trace"),
        label="mine",
        tag="web-bot-auth",
        include_alg=True,
        nonce=False,
        expires_in=300,
        clock=lambda: now - 2,
    )
    assert list(answer["covered"])[:-1] == ['"@method"', '"x-trace"', '"content-digest"']
    created = int(now - 2)
    expected = {"created": created, "expires": created + 300, "keyid": "agent-1", "alg": "ed25519", "tag": "web-bot-auth"}
    assert (answer["label"], answer["parameters"]) == ("mine", expected)


async def test_elliptic_curves(send, daemon) -> None:
    daemon.add("k", "ES256")
    assert (await send("/a", key="k"))["parameters"]["keyid"] == "k-1"


async def test_a_rotation_between_building_and_signing_costs_one_rebuild(send, daemon) -> None:
    real, rotated = daemon._signed, []

    def rotate_first(request):
        if not rotated:
            rotated.append(daemon.rotate("agent"))
        return real(request)

    daemon._signed = rotate_first
    assert (await send("/a"))["parameters"]["keyid"] == "agent-2"
    assert daemon.calls == ["GetKey", "Sign", "GetKey", "Sign"]


async def test_a_refusal_comes_out_and_nothing_is_sent(send, daemon) -> None:
    with pytest.raises(keyd.NotFound):
        await send("/a", key="nobody")


async def test_a_component_that_is_not_there(send) -> None:
    with pytest.raises(Exception, match="x-none"):
        await send("/a", components=("x-none",))


async def test_aiohttp_signs_redirected_requests_anew(daemon, resource) -> None:
    answer = await Sender("aiohttp", daemon, resource)("/moved")
    assert answer["covered"]['"@path"'] == "/landed"


def signed(client, **changes):
    request = {"method": "post", "url": "http://A.example:80/x?y=1", "headers": [], "body": b"z"} | changes
    return sign_request(client, "agent", OutgoingRequest(**request), {"nonce": False, "clock": lambda: 1e9})


@pytest.mark.parametrize(
    ("url", "headers", "authority"),
    [
        ("http://A.Example:80/", [], "a.example"),
        ("https://a.example:443/", [], "a.example"),
        ("https://a.example:80/", [], "a.example:80"),
        ("http://user:pw@a.example:8080/", [], "a.example:8080"),
        ("http://[::1]/", [], "[::1]"),
        ("http://[::1]:80/", [], "[::1]"),
        ("http://127.0.0.1:9/", [("Host", "B.example:80")], "b.example"),
    ],
)
def test_authority(daemon, client, url, headers, authority) -> None:
    """RFC 9421 section 2.2.3."""
    signed(client, url=url, headers=headers)
    lines = daemon.requests[-1].signature_base.decode().split("\n")
    assert lines[1] == f'"@authority": {authority}'
    assert lines[2] == '"@path": /'
    options = {"components": ("@target-uri",)}
    sign_request(client, "agent", OutgoingRequest("GET", url + "?q=1#part", headers, b""), options)
    target = f'"@target-uri": {url.partition(":")[0]}://{authority}/?q=1'
    assert daemon.requests[-1].signature_base.decode().split("\n")[0] == target


@pytest.mark.parametrize(("sent", "query"), [("/a?", "?"), ("/a", ""), ("/a#?", ""), ("/a?#b", "?"), ("/a?b?", "?b?")])
def test_the_question_mark_of_an_empty_query_is_part_of_the_target(daemon, client, sent, query) -> None:
    """RFC 9421 section 2.2.2: the target URI as it is sent. httpx sends ``/a?`` as it was given."""
    request = OutgoingRequest("GET", f"http://a.example{sent}", [], b"")
    sign_request(client, "agent", request, {"components": ("@target-uri", "@query")})
    assert daemon.requests[-1].signature_base.decode().split("\n")[:2] == [
        f'"@target-uri": http://a.example/a{query}',
        f'"@query": {query or "?"}',
    ]


def test_the_base_is_what_the_rfc_says(daemon, client) -> None:
    fields = signed(client, headers=[("Content-Type", " text/plain "), ("X", "1"), ("content-type", "b")])
    digest = content_digest(b"z")
    components = '("@method" "@authority" "@path" "@query" "content-type" "content-digest")'
    parameters = f'{components};created=1000000000;keyid="agent-1";expires=1000000060'
    assert daemon.requests[-1].signature_base.decode().split("\n") == [
        '"@method": POST',
        '"@authority": a.example',
        '"@path": /x',
        '"@query": ?y=1',
        '"content-type": text/plain, b',
        f'"content-digest": {digest}',
        f'"@signature-params": {parameters}',
    ]
    assert list(fields) == ["Content-Digest", "Signature-Input", "Signature"]
    assert (fields["Content-Digest"], fields["Signature-Input"]) == (digest, f"sig1={parameters}")


def test_what_is_signed_takes_the_place_of_a_field_in_another_case(client) -> None:
    options = {"fields": {"content-digest": "sha-256=:AAAA:", "signature": "x", "x-Trace": "1"}}
    fields = sign_request(client, "agent", OutgoingRequest("POST", "http://a.example/", [], b"z"), options)
    assert sorted(fields) == ["Content-Digest", "Signature", "Signature-Input", "x-Trace"]
    assert fields["Content-Digest"] == content_digest(b"z")


def test_signing_again_replaces_the_signature(client) -> None:
    old = [("signature", "sig1=:AAAA:"), ("signature-input", 'sig1=("@method");keyid="x"'), ("content-digest", "sha-256=:AAAA:")]
    assert signed(client, headers=old) == signed(client)


async def test_tampering_is_noticed(daemon, resource, client) -> None:
    """The negative twin of everything above: the same server refuses what was changed after it was signed."""
    headers = {"content-type": "text/plain"}
    request = OutgoingRequest("POST", f"{resource.url}/x?y=1", headers.items(), b"z")
    headers |= sign_request(client, "agent", request, {})

    def post(path="/x?y=1", body=b"z", method="POST", **changes):
        return httpx.request(method, resource.url + path, content=body, headers=headers | changes).status_code

    def all_of_them():
        return [
            post(),
            post("/y?y=1"),
            post("/x?y=2"),
            post("/x"),
            post(body=b"zz"),
            post(body=b"zz", **{"content-digest": content_digest(b"zz")}),
            post(method="GET"),
            post(host="other.example"),
            post(**{"content-type": "text/html"}),
            post(**{"signature-input": headers["Signature-Input"].replace("agent-1", "agent-2")}),
        ]

    assert await asyncio.to_thread(all_of_them) == [200] + [401] * 9


@pytest.mark.parametrize("library", ["requests", "aiohttp"])
async def test_streams_are_refused(daemon, resource, library) -> None:
    async def chunks():
        yield b"x"

    with pytest.raises(ValueError, match="streamed body cannot be signed"):
        await Sender(library, daemon, resource)("/", "POST", iter([b"x"]) if library == "requests" else chunks())


@pytest.mark.parametrize("kind", ["httpx", "httpx_async"])
async def test_httpx_reads_streams(daemon, resource, kind) -> None:
    async def chunks():
        yield b"x"

    # the tiny server reads no chunked bodies
    body = iter([b"x"]) if kind == "httpx" else chunks()
    answer = await Sender(kind, daemon, resource)("/", "POST", body, headers={"content-length": "1"})
    assert answer["covered"]['"content-digest"'] == content_digest(b"x")


async def test_aiohttp_must_not_compress(aclient, resource) -> None:
    async with aiohttp.ClientSession(middlewares=[keyd_middleware(aclient, "agent")]) as session:
        with pytest.raises(ValueError, match="compresses"):
            await session.post(resource.url, data=b"x" * 99, compress="gzip")


async def test_httpx_needs_the_client_of_its_kind(client, aclient) -> None:
    async with httpx.AsyncClient(auth=HttpxAuth(client, "agent")) as http:
        with pytest.raises(TypeError, match=r"keyd\.client\.AsyncClient"):
            await http.get("http://127.0.0.1:9")
    with httpx.Client(auth=HttpxAuth(aclient, "agent")) as http, pytest.raises(TypeError, match=r"keyd\.client\.Client"):
        http.get("http://127.0.0.1:9")


def test_requests_sends_the_bytes_that_were_hashed(client) -> None:
    prepared = requests.Request(
        "POST", "http://a.example", data="grün", headers={"X": b"1"}, auth=RequestsAuth(client, "agent")
    ).prepare()
    assert prepared.body == "grün".encode()
    assert prepared.headers["content-digest"] == content_digest("grün".encode())
    assert prepared.headers["content-length"] == "5"


@pytest.mark.parametrize(("library", "auth"), [(httpx, HttpxAuth), (httpx2, Httpx2Auth)])
async def test_a_client_of_the_other_kind_is_named(daemon, resource, client, library, auth) -> None:
    async with keyd.AsyncClient(daemon.address) as signer:
        with library.Client(auth=auth(signer, "agent")) as http, pytest.raises(TypeError, match=rf"^{library.__name__}\.Client "):
            http.get(resource.url)
    async with library.AsyncClient(auth=auth(client, "agent")) as http:
        with pytest.raises(TypeError, match=rf"^{library.__name__}\.AsyncClient "):
            await http.get(resource.url)
