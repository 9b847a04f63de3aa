"""The process that publishes: it says what the daemon would, nothing that is old, and has nothing that is secret."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import service_conftest
from daemon_process import DaemonProcess
from service_conftest import Running, running_in
from support import FakeClock, until

from keyd.service.http_server import HttpServer, bound
from keyd.service.pages import Page
from keyd.service.publisher import wire
from keyd.service.publisher.child import Shelf
from keyd.service.publisher.parent import Publisher
from keyd.v1 import key_service_pb2 as pb

ISSUERS = """
[issuers.agents]
hosts = ["agents.example"]
keys = ["agents-*"]
origin = "https://agents.example"
directory = "draft"
[issuers.agents.agent]
name = "Agents"
"""
JWKS = "/.well-known/jwks.json"


def own_process(config: str) -> str:
    return config.replace("[http]\n", "[http]\nown_process = true\n", 1)


@pytest.fixture
async def running(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    monkeypatch.setattr(service_conftest, "CONFIG", own_process(service_conftest.CONFIG))
    monkeypatch.setenv("A_SECRET", "hunter2")
    directory = Path(tempfile.mkdtemp(prefix="keyd-t-"))
    (directory / "kek").write_bytes(os.urandom(32))
    (directory / "kek").chmod(0o400)
    async with running_in(directory, FakeClock(), ISSUERS) as daemon:
        for name, profile in (("agents-1", "web-bot-auth"), ("b", ""), ("hidden", "")):
            spec = pb.KeySpec(name=name, profile=profile, unpublished=name == "hidden")
            await daemon.keys.CreateKey(pb.CreateKeyRequest(spec=spec))
        yield daemon
    shutil.rmtree(directory)


def publisher(running: Running) -> Publisher:
    assert isinstance(running.daemon.http, Publisher)
    return running.daemon.http


async def exchanged(port: int, path: str, *lines: str, method: str = "GET", host: str = "agents.example") -> bytes:
    """Send a request, and return all that comes back but the date."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write("\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode())
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        body = b"" if length is None or method == "HEAD" else await reader.readexactly(int(length[1]))
    writer.close()
    head = head.replace(b"allow: HEAD, GET", b"allow: GET, HEAD")  # the order of a set, in which Starlette has them
    return re.sub(rb"\r\ndate: [^\r]*", b"", head) + body


async def test_it_says_what_the_daemon_would(running: Running) -> None:
    plain = HttpServer(bound("127.0.0.1", 0), publisher(running)._app)
    await plain.start()
    paths = [JWKS, "/.well-known/aauth-agent.json", "/.well-known/http-message-signatures-directory", "/keys/agents-1/jwks.json"]
    paths += [
        "/keys/b/jwks.json",
        "/keys/hidden/jwks.json",
        "/keys/x/jwks.json",
        "/livez",
        "/readyz",
        "/readyz/file",
        "/readyz/no",
        "/",
    ]
    for path in paths:
        for host in ("agents.example", "other.example", "a/b"):
            asked = [("GET", ()), ("GET", ()), ("HEAD", ()), ("POST", ("Content-Length: 0",)), ("GET", ("If-None-Match: *",))]
            for method, lines in asked:
                said = [
                    await exchanged(port, path, *lines, method=method, host=host)
                    for port in (running.daemon.http_port, plain.port)
                ]
                assert said[0] == said[1], (path, host, method)
    await plain.stop()


async def test_it_hears_of_a_change(running: Running) -> None:
    port = publisher(running).port
    before = await exchanged(port, JWKS)
    await running.keys.RotateKey(pb.RotateKeyRequest(name="agents-1"))
    async with asyncio.timeout(10):
        while await exchanged(port, JWKS) == before:  # noqa: ASYNC110 - it is asked over the network
            await asyncio.sleep(0.01)


async def test_it_is_started_again(running: Running) -> None:
    before = await exchanged(publisher(running).port, JWKS)
    first = publisher(running).pid
    assert first is not None
    os.kill(first, 9)
    await until(lambda: publisher(running).pid not in (None, first))
    assert await exchanged(publisher(running).port, JWKS) == before


async def test_who_signals_all_processes_does_not_end_it_before_the_daemon(running: Running) -> None:
    await exchanged(publisher(running).port, JWKS)
    first = publisher(running).pid
    assert first is not None
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(first, number)
    await running.keys.RotateKey(pb.RotateKeyRequest(name="agents-1"))
    assert await exchanged(publisher(running).port, JWKS)
    assert publisher(running).pid == first


async def test_it_has_nothing_that_it_does_not_need(running: Running) -> None:
    await exchanged(publisher(running).port, JWKS)
    process = Path(f"/proc/{publisher(running).pid}")
    assert b"hunter2" not in (process / "environ").read_bytes()
    status = (process / "status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert int((process / "stat").read_text().rpartition(")")[2].split()[16]) == 10  # nice
    limits = (process / "limits").read_text()
    assert [line.split()[3:5] for line in limits.splitlines() if line.startswith("Max file size")] == [["0", "0"]]
    files = [os.readlink(each) for each in (process / "fd").iterdir()]  # noqa: PTH115
    assert not [name for name in files if str(running.directory) in name]
    assert sum(name.startswith("socket:") for name in files) <= 6  # listener, pipe, the loop's own two, a connection that ends


async def test_what_it_should_not_say_ends_it(running: Running) -> None:
    first = publisher(running).pid
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours, limit=wire.LONGEST_ASK)
    for hostile in (b"{}\n", b"x" * 100_000 + b"\n"):
        theirs.sendall(hostile)
        await asyncio.wait_for(publisher(running)._answer_all(reader), 5)
    theirs.close()
    writer.close()
    assert publisher(running).pid == first


@pytest.fixture
def whole() -> Iterator[DaemonProcess]:
    """A daemon that is a process itself, on the event loop that it chooses."""
    daemon = DaemonProcess()
    daemon.exec = True  # what is open in it is what it opened
    daemon.config.write_text(own_process(daemon.config.read_text()))
    yield daemon
    daemon.close()


def child_of(daemon: DaemonProcess) -> int:
    assert daemon.process is not None
    children = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text().split()
    (child,) = (int(pid) for pid in children if b"publisher" in Path(f"/proc/{pid}/cmdline").read_bytes())
    return child


def test_it_has_nothing_that_the_daemon_left_open(whole: DaemonProcess) -> None:
    with (whole.directory / "kek").open("rb") as kek:
        whole.passed = (kek.fileno(),)
        whole.start()
    assert whole.process is not None
    assert httpx.get(whole.jwks_url, timeout=30).is_success
    pids = whole.process.pid, child_of(whole)
    opened = [[str(each.resolve()) for each in Path(f"/proc/{pid}/fd").iterdir()] for pid in pids]
    assert [any(name.endswith("/kek") for name in names) for names in opened] == [True, False]


def test_what_others_reach_has_one_unasked(whole: DaemonProcess) -> None:
    text = whole.config.read_text().replace("own_process = true\n", "")
    whole.config.write_text(text.replace('listen = "127.0.0.1:0"', 'listen = "0.0.0.0:0"', 1))
    whole.start()
    assert httpx.get(whole.jwks_url.replace("0.0.0.0", "127.0.0.1"), timeout=30).is_success
    assert child_of(whole)


def test_it_ends_with_the_daemon(whole: DaemonProcess) -> None:
    whole.start()
    child = child_of(whole)
    whole.stop(9)
    asyncio.run(until(lambda: not Path(f"/proc/{child}/cmdline").exists() or not Path(f"/proc/{child}/cmdline").read_bytes()))


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[]", b"1", b'{"ask":1}', b'{"ask":"1","path":"/","hosts":[]}', b'{"ask":1,"path":"/","hosts":[1]}',
     b'{"ask":1,"path":"/","hosts":["\\u1234"]}', b"[" * 5000, b"\xff"],
)  # fmt: skip
def test_what_is_no_question(line: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.asked(line)


def test_what_is_one() -> None:
    headers = [(b"accept", b"x"), (b"host", b"a\xff")]
    assert wire.asked(wire.ask(7, "/a\u1234", headers)) == (7, "/a\u1234", [(b"host", b"a\xff")])


class TestShelf:
    """What the publisher keeps, against a daemon of the test."""

    @pytest.fixture
    async def daemon(self) -> AsyncIterator[Daemon]:
        made = Daemon()
        await made.start()
        yield made
        made.close()

    async def test_a_page_is_asked_for_once(self, daemon: Daemon) -> None:
        assert [(await daemon.shelf.page(JWKS, ())).status for _ in range(3)] == [200] * 3
        assert daemon.asked == 1

    async def test_until_it_is_not_fresh_any_more(self, daemon: Daemon) -> None:
        await daemon.shelf.page(JWKS, ())
        daemon.clock.advance(3.0)
        assert daemon.shelf.find(JWKS, ()) is None
        await daemon.shelf.page(JWKS, ())
        assert daemon.asked == 2

    async def test_or_the_state_is_another(self, daemon: Daemon) -> None:
        await daemon.shelf.page(JWKS, ())
        daemon.say(wire.pulse(2))
        await until(lambda: daemon.shelf.state == 2)
        assert daemon.shelf.find(JWKS, ()) is None

    async def test_of_a_daemon_that_is_silent_nothing_is_believed(self, daemon: Daemon) -> None:
        daemon.fresh = 1000.0
        await daemon.shelf.page(JWKS, ())
        page = daemon.shelf.find(JWKS, ())
        assert page is not None
        assert page.fresh == wire.LEASE  # for so long whoever keeps what it was made of may believe it
        daemon.clock.advance(wire.LEASE)
        page = await daemon.shelf.page(JWKS, ())
        assert (page.status, page.fields["Cache-Control"], page.fresh) == (503, "no-store", 0.0)
        daemon.say(wire.pulse(1))
        await until(lambda: daemon.shelf.find(JWKS, ()) is not None)

    async def test_names_without_end_do_not_all_reach_the_daemon(self, daemon: Daemon) -> None:
        statuses = [(await daemon.shelf.page(f"/keys/{number}/jwks.json", ())).status for number in range(600)]
        assert (statuses.count(503), daemon.asked) == (100, 500)
        assert (await daemon.shelf.page(JWKS, ())).status == 200
        assert (await daemon.shelf.page("/keys/1/jwks.json", ())).status == 200  # it is there
        daemon.clock.advance(1.0)
        assert (await daemon.shelf.page("/keys/600/jwks.json", ())).status == 200

    async def test_hosts_without_end_do_not_all_reach_the_daemon(self, daemon: Daemon) -> None:
        assert (await daemon.shelf.page(JWKS, at("mine.example"))).status == 200
        statuses = [(await daemon.shelf.page(JWKS, at(f"{number}.example"))).status for number in range(600)]
        assert (statuses.count(503), daemon.asked) == (101, 500)
        daemon.say(wire.pulse(2))
        await until(lambda: daemon.shelf.state == 2)
        daemon.state = 2
        assert (await daemon.shelf.page(JWKS, at("599.example"))).status == 503
        assert (await daemon.shelf.page(JWKS, at("mine.example"))).status == 200  # as before the flood
        assert (await daemon.shelf.page("/keys/1/jwks.json", ())).status == 200

    @pytest.mark.parametrize("path", ["/livez", "/readyz", JWKS])
    async def test_what_is_never_fresh_is_asked_for_ten_times_a_second_at_most(self, daemon: Daemon, path: str) -> None:
        daemon.fresh = 0.0
        assert {(await daemon.shelf.page(path, ())).status for _ in range(600)} == {200}
        assert daemon.asked == 1
        daemon.clock.advance(0.1)
        await daemon.shelf.page(path, ())
        assert daemon.asked == 2

    async def test_the_health_of_the_daemon_is_the_same_at_every_host(self, daemon: Daemon) -> None:
        daemon.fresh = 0.0
        for number in range(600):
            assert (await daemon.shelf.page("/livez", at(f"{number}.example"))).status == 200
        assert daemon.asked == 1


def at(host: str) -> list[tuple[bytes, bytes]]:
    return [(b"host", host.encode())]


class Daemon:
    """Answers every question with a page that is fresh for a while."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.asked, self.fresh, self.state = 0, 3.0, 1
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        ours, theirs = socket.socketpair()
        reader, self._writer = await asyncio.open_connection(sock=ours)
        child_reader, self._child = await asyncio.open_connection(sock=theirs)
        self.shelf = Shelf(self._child, self.clock)
        self._tasks = [asyncio.create_task(self._answer(reader)), asyncio.create_task(self.shelf.listen(child_reader))]
        self.say(wire.pulse(1))
        await until(lambda: self.shelf.state == 1)

    async def _answer(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            self.asked += 1
            self.say(wire.answer(wire.asked(line)[0], self.state, Page(200, {}, b"\n{}", fresh=self.fresh)))

    def say(self, word: bytes) -> None:
        self._writer.write(word)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._writer.close()
        self._child.close()
