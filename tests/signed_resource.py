"""What the examples are run against: a daemon with grants, and a resource that takes signed requests and no others.

The resource verifies with ``http-message-signatures``, knows nothing but the URL of a JWK Set, and keeps what it got.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from daemon_process import DaemonProcess
from http_message_signatures import HTTPMessageVerifier, HTTPSignatureKeyResolver, InvalidSignature, algorithms
from joserfc.jwk import import_key

_ALGORITHMS = {
    "Ed25519": algorithms.ED25519,
    "ES256": algorithms.ECDSA_P256_SHA256,
    "PS512": algorithms.RSA_PSS_SHA512,
    "RS256": algorithms.RSA_V1_5_SHA256,
}
REQUIRED = ("@method", "@authority", "@path")


@dataclass(frozen=True)
class Received:
    """One request, as http-message-signatures reads it."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes

    def altered(self, **changes: Any) -> Received:
        return replace(self, **changes)


@dataclass
class _Resolver(HTTPSignatureKeyResolver):
    keys: dict[str, Any]

    def resolve_public_key(self, key_id: str) -> Any:
        if key_id not in self.keys:
            raise InvalidSignature(f"unknown kid {key_id}")
        return self.keys[key_id]

    def resolve_private_key(self, key_id: str) -> Any:
        raise AssertionError("a resource holds no private key")


@dataclass
class SignedResource:
    """``jwks_url`` may be set later. ``after`` is called after each request that was verified."""

    jwks_url: str = ""
    after: Callable[[], object] = lambda: None
    received: list[Received] = field(default_factory=list)
    kids: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        resource = self

        class Handler(_Handler):
            owner = resource

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.authority = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.authority}/orders?limit=3"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def clear(self) -> None:
        self.received.clear()
        self.kids.clear()
        self.after = lambda: None

    def verify(self, request: Received) -> str:
        """Return the kid under which a request verifies, or raise InvalidSignature."""
        with urllib.request.urlopen(self.jwks_url, timeout=5) as response:
            jwks = json.load(response)["keys"]
        failure = InvalidSignature("no keys")
        for name in {jwk["alg"] for jwk in jwks}:
            keys = {jwk["kid"]: import_key(jwk).public_key for jwk in jwks if jwk["alg"] == name}
            verifier = HTTPMessageVerifier(signature_algorithm=_ALGORITHMS[name], key_resolver=_Resolver(keys))
            try:
                age = timedelta(seconds=60)
                results = verifier.verify(request, max_age=age, require_components=REQUIRED, body=request.body)
                return str(results[0].parameters["keyid"])
            except InvalidSignature as exc:
                failure = exc if "kid" not in str(exc) else failure
        raise failure

    def send_to(self, authority: str, request: Received) -> int:
        """Send a request as it was received to another resource, and return the status that it answers with."""
        connection = http.client.HTTPConnection(authority, timeout=10)
        try:
            target = request.url.partition("://")[2].partition("/")[2]
            connection.request(request.method, f"/{target}", request.body or None, request.headers)
            return connection.getresponse().status
        finally:
            connection.close()


class _Handler(http.server.BaseHTTPRequestHandler):
    owner: SignedResource

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Received(self.command, f"http://{headers['host']}{self.path}", headers, body)
        try:
            kid = self.owner.verify(request)
        except InvalidSignature as exc:
            self._answer(401, f"refused: {exc}")
            return
        self.owner.received.append(request)
        self.owner.kids.append(kid)
        self.owner.after()
        self._answer(200, f"verified {kid}")

    do_POST = do_GET  # noqa: N815 - http.server chooses the name

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: object) -> None:
        pass


GRANTS = """
[grants.agent]
principals = [{{ uid = {uid} }}]
keys = ["agent-*"]
purposes = ["http"]
authorities = ["{authority}"]

[grants.anywhere]
principals = [{{ uid = {uid} }}]
keys = ["anywhere"]
purposes = ["http"]
authorities = ["*"]
"""


@contextlib.contextmanager
def fenced(*algorithms_of_keys: str) -> Iterator[tuple[DaemonProcess, SignedResource]]:
    """A daemon with keys ``agent-ALGORITHM``, whose grant has the authority of this resource alone, and the key ``anywhere``."""
    with SignedResource() as resource, contextlib.ExitStack() as stack:
        daemon = DaemonProcess(sections=GRANTS.format(uid=os.getuid(), authority=resource.authority))
        stack.callback(daemon.close)
        daemon.start()
        resource.jwks_url = daemon.jwks_url
        with daemon.admin() as admin:
            for name in algorithms_of_keys:
                admin.create_key(f"agent-{name}", algorithm=name)
            admin.create_key("anywhere")
        yield daemon, resource


def run_example(command: Sequence[str], daemon: DaemonProcess, key: str, url: str, **environment: str) -> tuple[int, str]:
    """Run an example to its end; return its exit code and what it printed."""
    settings = {"KEYD_ADDRESS": daemon.address, "KEYD_KEY": key, "RESOURCE_URL": url, **environment}
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


@contextlib.contextmanager
def serving(command: Sequence[str], **environment: str) -> Iterator[str]:
    """Run an example that serves and prints its port first, and return its authority."""
    process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait(timeout=30)
        process.stdout.close()
