"""Answers that are ready are those that the application gives, octet by octet, and are gone when anything changes."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service_conftest import Running, running_in
from support import FakeClock

from keyd.service import http_server
from keyd.service.http_ready import Own, Ready
from keyd.service.http_server import HttpServer, bound
from keyd.service.pages import Headers, Page
from keyd.v1 import key_service_pb2 as pb

ISSUERS = """
[issuers.agents]
hosts = ["agents.example", "agents.example:8443"]
keys = ["agents-*"]
origin = "https://agents.example"
max_age = "2m"
directory = "cloudflare"
[issuers.agents.agent]
name = "Agents"
[issuers.shop]
hosts = ["shop.example"]
keys = ["shop-*"]
"""
JWKS = "/.well-known/jwks.json"
PATHS = (
    JWKS, "/.well-known/aauth-agent.json", "/.well-known/aauth-revoked-tokens.json", "/keys/agents-1/jwks.json",
    "/.well-known/http-message-signatures-directory", "/keys/nobody/jwks.json", "/keys/hidden/jwks.json", "/livez", "/.well-known/",
)  # fmt: skip
OWN: Own = [(b"date", b"Sun, 29 Nov 2026 09:00:00 GMT")]


def request(*lines: str, method: str = "GET", path: str = JWKS) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode("latin-1")


def exchanged(port: int, sent: bytes) -> bytes:
    """Send octets over a connection of their own, end it, and return all that comes back but the date."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(partial(connection.recv, 65536), b""))
    return re.sub(rb"\r\ndate: [^\r]*", b"", answer)


class House:
    """A daemon whose answers are ready, and its application served without them."""

    def __init__(self, running: Running) -> None:
        self.running = running
        assert running.daemon.http is not None
        self.server = running.daemon.http
        self.ready = running.daemon.http.ready
        assert self.ready is not None
        self.plain = HttpServer(bound("127.0.0.1", 0), running.daemon.http.app)
        self.tags: list[str] = []

    async def create(self, name: str, **spec: object) -> None:
        await self.running.keys.CreateKey(pb.CreateKeyRequest(spec=pb.KeySpec(name=name, **spec)))  # type: ignore[arg-type]

    async def both(self, sent: bytes) -> tuple[bytes, bytes]:
        """Return what the daemon says, the second time that it is asked, and what the application does."""
        return tuple(
            [await asyncio.to_thread(exchanged, port, sent) for port in (self.server.port,) * 2 + (self.plain.port,)][1:]
        )  # type: ignore[return-value]

    async def etag(self, path: str, host: str) -> str:
        answer = await asyncio.to_thread(exchanged, self.plain.port, request(f"Host: {host}", path=path))
        return re.search(r'etag: ("[^"]*")', answer.decode())[1]  # type: ignore[index]


@pytest.fixture
async def house() -> AsyncIterator[House]:
    directory = Path(tempfile.mkdtemp(prefix="keyd-t-"))
    (directory / "kek").write_bytes(os.urandom(32))
    (directory / "kek").chmod(0o400)
    async with running_in(directory, FakeClock(), ISSUERS) as running:
        made = House(running)
        await made.plain.start()
        await made.create("agents-1", profile="web-bot-auth")
        await made.create("shop-1")
        await made.create("hidden", unpublished=True)
        yield made
        await made.plain.stop()
    shutil.rmtree(directory)


def requests(tags: list[str]) -> st.SearchStrategy[bytes]:
    hosts = st.sampled_from(["agents.example", "AGENTS.example:8443", "shop.example", "localhost:8470", "", "a/b", "x" * 301])
    asked = st.sampled_from([["Host: agents.example"], ["Host: shop.example"], ["Host: localhost:8470"]])
    conditions = st.lists(
        st.sampled_from([*tags, *(f"W/{tag}" for tag in tags), '"other"', "*", '"a,*,b"', "W/", ""]), max_size=3
    )
    lines = st.lists(
        st.one_of(
            hosts.map("Host: {}".format),
            conditions.map(", ".join).map("If-None-Match: {}".format),
            st.sampled_from([
                "Accept: */*", "Connection: close", "Connection: keep-alive", "Content-Length: 0", "Content-Length: 3",
                "Transfer-Encoding: chunked", "Expect: 100-continue", "Upgrade: h2c", "Range: bytes=0-3", "bad line",
                " folded", "If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT", "X-Long: " + "x" * 3000,
            ]),
        ),
        max_size=2,
    )  # fmt: skip
    paths = st.one_of(
        st.sampled_from(PATHS[:5]),
        st.sampled_from(PATHS),
        st.sampled_from(PATHS),
        st.sampled_from([JWKS + "?x=1", "/%2ewell-known/jwks.json", "/.well-known//jwks.json", "/keys/a%2fb/jwks.json", "*"]),
    )
    return st.builds(
        lambda host, method, path, version, more, rest: (
            f"{method} {path} HTTP/{version}\r\n".encode()
            + "".join(f"{line}\r\n" for line in [*host, *more]).encode()
            + b"\r\n"
            + rest
        ),
        st.one_of(asked, asked, asked, hosts.map(lambda host: [f"Host: {host}"]), st.just([])),
        st.sampled_from(["GET", "GET", "GET", "GET", "HEAD", "POST", "get", "OPTIONS"]),
        paths,
        st.sampled_from([*["1.1"] * 8, "1.0", "2.0"]),
        lines,
        st.sampled_from([*[b""] * 8, b"abc", b"\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"]),
    )


async def test_the_same_as_the_application_says(house: House) -> None:
    tags = [await house.etag(*where) for where in ((JWKS, "localhost"), (JWKS, "agents.example"), (PATHS[1], "agents.example"))]
    loop = asyncio.get_running_loop()

    def compare() -> None:
        @settings(max_examples=400, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(requests(tags))
        def same(sent: bytes) -> None:
            ready, plain = asyncio.run_coroutine_threadsafe(house.both(sent), loop).result(30)
            assert ready == plain

        same()

    await asyncio.to_thread(compare)
    assert house.ready.hits + house.ready.misses > 10  # else nothing was compared


@pytest.mark.parametrize("path", [JWKS, "/keys/agents-1/jwks.json", *PATHS[1:3], PATHS[4]])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_each_document_is_ready_the_second_time(house: House, path: str, method: str) -> None:
    for more in ([], [f"If-None-Match: {await house.etag(path, 'agents.example')}"]):
        hits, misses = house.ready.hits, house.ready.misses
        ready, plain = await house.both(request("Host: agents.example", *more, method=method, path=path))
        assert ready == plain
        assert ready.startswith(b"HTTP/1.1 304" if more else b"HTTP/1.1 200")
        assert (house.ready.hits - hits, house.ready.misses - misses) in ((1, 1), (0, 2))  # (0, 2): the second turned


async def test_what_changed_is_not_said_again(house: House) -> None:
    sent = request("Host: localhost")
    before, _ = await house.both(sent)
    await house.create("later")
    ready, plain = await house.both(sent)
    assert before != ready == plain
    await house.running.keys.RotateKey(pb.RotateKeyRequest(name="later", now=True))
    again, plain = await house.both(sent)
    assert ready != again == plain


async def test_nor_what_the_clock_made_another(house: House) -> None:
    """A version is published, then not any more: each second before, the age is one less."""
    await house.running.keys.RotateKey(pb.RotateKeyRequest(name="shop-1", now=True))
    clock, seen = house.running.clock, set()
    end = min(version.record.timeline.unpublish_at for version in house.running.daemon.keyring.snapshot.get("shop-1").versions)
    for moment in (end - 1000, end - 300.5, end - 300, end - 299.5, end - 299, end - 1.5, end - 1, end - 0.5, end, end + 1):
        clock.time = moment
        ready, plain = await house.both(request("Host: localhost"))
        assert ready == plain
        seen.add(ready)
    assert len(seen) >= 5


class TestAlone:
    """Without a server: what is taken for a request, and what is kept."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    def ready(self, clock: FakeClock) -> Iterator[Ready]:
        self.state: list[object] = [object()]
        self.found = 0

        def find(headers: Headers) -> Page:
            self.found += 1
            return Page(200, {"ETag": '"a"'}, b"x" * self.size, etag='"a"', fresh=10)

        self.size = 10
        return Ready({JWKS: find}, lambda name: find, lambda: tuple(self.state), clock)

    def test_the_same_octets_are_read_once(self, ready: Ready) -> None:
        first, second = (ready.answer(request("Host: a"), OWN) for _ in range(2))
        assert first == second is not None
        assert self.found == 1

    @pytest.mark.parametrize("change", ["state", "clock", "clock set back", "second"])
    def test_until_something_changes(self, ready: Ready, clock: FakeClock, change: str) -> None:
        ready.answer(request("Host: a"), OWN)
        if change == "state":
            self.state[0] = object()
        elif change != "second":
            clock.time += 10 if change == "clock" else -1
        assert ready.answer(request("Host: a"), list(OWN) if change == "second" else OWN)
        assert self.found == 2

    @pytest.mark.parametrize(
        "sent",
        [
            request("Host: a")[:-2],
            request("Host: a") + b"G",
            request("Host: a") * 2,
            request("Host: a", "Host: a"),
            request("Host: a", "Content-Length: 1") + b"x",
            request("Host: a", "Connection: close"),
            request("Host: a", "Upgrade: websocket", "Connection: upgrade"),
            request("Host: a").replace(b"1.1", b"1.0"),
            request("Host: a", method="POST"),
            request("Host: a", path=JWKS + "?"),
            request("Host: a", path="/keys/a%41/jwks.json"),
            request("Host: a", "X: " + "x" * 2048),
            request("Host : a"),
            b"",
        ],
    )
    def test_anything_else_is_the_applications(self, ready: Ready, sent: bytes) -> None:
        assert [ready.answer(sent, OWN) for _ in range(2)] == [None, None]
        assert self.found == 0

    def test_what_is_kept_is_bounded(self, ready: Ready) -> None:
        self.size = 200_000
        for number in range(100):
            assert ready.answer(request("Host: a", f"X: {number}"), OWN)
            assert sum(len(sent) + len(answer) for sent, answer in ready._answers.items()) <= 4 * 1024 * 1024
        self.size, self.found = 300_000, 0
        assert all(ready.answer(request("Host: a", "X: long"), OWN) for _ in range(3))
        assert self.found == 3  # too long to be kept


async def test_who_does_not_read_gets_no_further_answer(house: House) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", house.server.port)
    sent = request("Host: localhost")
    writer.write(sent)
    await reader.readuntil(b"]}")
    (connection,) = house.server._server.server_state.connections
    connection.pause_writing()  # as the event loop does when too much waits for the client
    answered = house.ready.hits + house.ready.misses
    writer.write(sent)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.3)
    connection.resume_writing()
    await reader.readuntil(b"]}")
    assert house.ready.hits + house.ready.misses == answered
    writer.close()


async def test_who_was_answered_and_asks_no_more_is_let_go(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "_KEPT_ALIVE", 0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", house.server.port)
    for _ in range(2):
        writer.write(request("Host: localhost"))
        await reader.readuntil(b"]}")
    with pytest.raises(ConnectionError):
        if await asyncio.wait_for(reader.read(), 20) == b"":
            raise ConnectionResetError
    writer.close()
