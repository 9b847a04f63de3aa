"""``keyd request``: one signed request to a server in this process."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cli.fake_daemon import FakeDaemon, Run
from http_message_signatures import HTTPMessageVerifier, HTTPSignatureKeyResolver, InvalidSignature, algorithms


class Seen:
    """A request as the server saw it."""

    def __init__(self, handler: BaseHTTPRequestHandler, url: str) -> None:
        self.method, self.url = handler.command, url + handler.path
        self.headers = {name.lower(): value for name, value in handler.headers.items()}
        self.body = handler.rfile.read(int(self.headers.get("content-length", 0)))


class Server:
    """Answers with what it is told and keeps what it saw."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.status, self.body = 200, b'{"ok": true}'
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                outer.seen.append(Seen(self, outer.url))
                self.send_response(outer.status)
                self.send_header("Location", outer.url + "/moved")
                self.send_header("Content-Length", str(len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body)

            do_GET = do_POST = do_PUT = answer  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    thread = threading.Thread(target=running.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.server.shutdown()
    thread.join()
    running.server.server_close()


def verify(daemon: FakeDaemon, seen: Seen) -> None:
    class Resolver(HTTPSignatureKeyResolver):
        def resolve_public_key(self, key_id: str) -> object:
            assert key_id == daemon.keys["agent"].versions[0].kid
            return daemon.private["agent"].public_key()

    verifier = HTTPMessageVerifier(signature_algorithm=algorithms.ED25519, key_resolver=Resolver())
    assert verifier.verify(seen)


def test_get(daemon: FakeDaemon, server: Server, run: Run) -> None:
    daemon.add("agent")
    result = run("request", "get", f"{server.url}/a?b=c", "--key", "agent", "-H", "X-One: 1", "-H", "x-empty:")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == '{"ok": true}'
    seen = server.seen[0]
    assert (seen.method, seen.headers["x-one"], seen.headers["x-empty"]) == ("GET", "1", "")
    verify(daemon, seen)


def test_a_changed_request_does_not_verify(daemon: FakeDaemon, server: Server, run: Run) -> None:
    daemon.add("agent")
    run("request", "GET", f"{server.url}/a", "--key", "agent")
    server.seen[0].url += "b"
    with pytest.raises(InvalidSignature):
        verify(daemon, server.seen[0])


@pytest.mark.parametrize("source", ["argument", "file", "stdin"])
def test_body(source: str, tmp_path: Path, daemon: FakeDaemon, server: Server, run: Run) -> None:
    daemon.add("agent")
    body = '{"item": 7}\n'
    (tmp_path / "body").write_text(body)
    data = {"argument": body, "file": f"@{tmp_path}/body", "stdin": "@-"}[source]
    result = run("request", "POST", server.url, "-k", "agent", "-d", data, stdin=body)
    assert result.exit_code == 0, result.stderr
    assert server.seen[0].body == body.encode()
    assert "content-digest" in server.seen[0].headers["signature-input"]
    verify(daemon, server.seen[0])


def test_verbose_says_what_was_signed(daemon: FakeDaemon, server: Server, run: Run) -> None:
    daemon.add("agent")
    arguments = ["-c", "@authority", "-c", "x-trace", "-H", "X-Trace: 1", "--tag", 'web-"bot"']
    result = run("request", "GET", server.url, "--key", "agent", "-v", *arguments)
    assert result.exit_code == 0, result.stderr
    assert f"signature sig1 by kid {daemon.keys['agent'].versions[0].kid}\n" in result.stderr
    assert '  covers "@authority" "x-trace"\n' in result.stderr
    assert 'tag=web-"bot"' in result.stderr
    assert result.stdout == '{"ok": true}'


def test_include(daemon: FakeDaemon, server: Server, run: Run) -> None:
    daemon.add("agent")
    lines = run("request", "GET", server.url, "--key", "agent", "-i").stdout.split("\n")
    assert lines[0] == "HTTP/1.0 200 OK"
    assert "content-length: 12" in [line.lower() for line in lines]
    assert lines[-2:] == ["", '{"ok": true}']


def test_json(daemon: FakeDaemon, server: Server, run: Run) -> None:
    daemon.add("agent")
    document = json.loads(run("request", "GET", server.url, "--key", "agent", "--json").stdout)
    assert (document["status"], document["method"], document["body"]) == (200, "GET", '{"ok": true}')
    assert document["signatures"][0]["components"][:2] == ['"@method"', '"@authority"']
    assert document["signatures"][0]["kid"] == daemon.keys["agent"].versions[0].kid
    assert isinstance(document["signatures"][0]["parameters"]["created"], int)
    server.body = b"\xff\x00"
    assert json.loads(run("request", "GET", server.url, "--key", "agent", "--json").stdout)["body_base64"] == "/wA="
    assert run("request", "GET", server.url, "--key", "agent").stdout_bytes == b"\xff\x00"


def test_redirects_are_not_followed(daemon: FakeDaemon, server: Server, run: Run) -> None:
    daemon.add("agent")
    server.status = 307
    assert run("request", "GET", server.url, "--key", "agent").exit_code == 0
    assert len(server.seen) == 1


@pytest.mark.parametrize(("status", "exit_code"), [(200, 0), (404, 1), (500, 1)])
def test_fail(status: int, exit_code: int, daemon: FakeDaemon, server: Server, run: Run) -> None:
    daemon.add("agent")
    server.status = status
    assert run("request", "GET", server.url, "--key", "agent", "--fail").exit_code == exit_code
    assert run("request", "GET", server.url, "--key", "agent").exit_code == 0


def test_what_keyd_refuses_is_not_sent(daemon: FakeDaemon, server: Server, run: Run) -> None:
    result = run("request", "GET", server.url, "--key", "nobody")
    assert result.exit_code == 3
    assert server.seen == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["ftp://a/"],
        ["nonsense"],
        ["http://a:port/"],
        ["http://a/", "-H", "nocolon"],
        ["http://a/", "-i", "--json"],
        ["http://a/", "-c", "x-none"],
    ],
)
def test_usage(arguments: list[str], daemon: FakeDaemon, run: Run) -> None:
    daemon.add("agent")
    result = run("request", "GET", *arguments, "--key", "agent")
    assert result.exit_code == 2, result.output


def test_no_server(daemon: FakeDaemon, server: Server, run: Run) -> None:
    daemon.add("agent")
    result = run("request", "GET", "http://127.0.0.1:1/", "--key", "agent")
    assert result.exit_code == 1
    assert result.stderr.startswith("keyd: no response from 127.0.0.1: ")
