"""Web Bot Auth as strangers see it: the directory through a rotation, requests in both forms, and the published vectors."""

from __future__ import annotations

import asyncio
import base64
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import httpx
import pytest
import requests
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from daemon_process import DaemonProcess
from guarded import RecordedAudit
from http_message_signatures import HTTPMessageVerifier, InvalidSignature, MappingKeyResolver, algorithms
from support import FakeClock, keyring, memory_backend, new_key

from keyd.client import AsyncClient, web_bot_auth
from keyd.client.aiohttp_auth import keyd_middleware
from keyd.client.httpx_auth import KeydAuth as HttpxAuth
from keyd.client.requests_auth import KeydAuth as RequestsAuth
from keyd.core import directory
from keyd.core.errors import FreshnessError
from keyd.core.grants import Grant, PrincipalPattern
from keyd.core.guard import Guard
from keyd.core.jwk import to_public_key
from keyd.core.keyring import Keyring
from keyd.core.model import Purpose
from keyd.core.policy import Policy
from keyd.core.principal import Principal
from keyd.core.profile import BUILT_IN, Profile
from keyd.core.runner import BackendRunner
from keyd.core.signing import InputKind, Signer
from keyd.core.store import SqlStore
from keyd.core.timeline import LifecyclePolicy

TESTS = Path(__file__).parents[1]
ORIGIN = "https://agent.example"
Verified = Callable[[str, str, str], None]
ISSUERS = """
[issuers.bot]
hosts = ["agent.example"]
keys = ["bot"]
directory = "cloudflare"
[issuers.draft]
hosts = ["draft.example"]
keys = ["bot"]
directory = "draft"
[issuers.rotating]
hosts = ["rotating.example"]
keys = ["rotating"]
directory = "cloudflare"
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonProcess]:
    daemon = DaemonProcess(sections=ISSUERS).start()
    with daemon.admin() as admin:
        for name in ("bot", "rotating"):
            admin.create_key(name=name, profile="web-bot-auth")
    yield daemon
    daemon.close()


def via(daemon: DaemonProcess) -> str:
    return daemon.jwks_url.removesuffix("/.well-known/jwks.json")


def fetch(daemon: DaemonProcess, origin: str = ORIGIN) -> httpx.Response:
    host = origin.removeprefix("https://")
    return httpx.get(via(daemon) + directory.PATH, headers={"Host": host}, trust_env=False)


def peers(daemon: DaemonProcess, *sent: dict[str, Any], origin: str = ORIGIN) -> dict[str, Any]:
    """Return what wbactl and wbauth-sdk make of the directory and of requests."""
    python = os.environ.get("KEYD_PEERS_PYTHON")
    assert python, "set KEYD_PEERS_PYTHON to the Python of an environment with the dependency group `peers`, as `make test` does"
    case = {"origin": origin, "via": via(daemon), "requests": sent}
    script = str(TESTS / "peers/verify_web_bot_auth.py")
    ran = subprocess.run([python, script], input=json.dumps(case), capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def npm(url: str, response: httpx.Response, *sent: dict[str, Any]) -> dict[str, Any]:
    """Return what npm web-bot-auth makes of a directory's response and of requests."""
    place = TESTS / "peers/npm"
    assert (place / "node_modules/web-bot-auth").is_dir(), "run `make tests/peers/npm/node_modules/stamp`, as `make test` does"
    case = {"directory": {"url": url, "headers": dict(response.headers), "body": response.text}, "requests": sent}
    ran = subprocess.run(["node", "verify.mjs"], cwd=place, input=json.dumps(case), capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def library(url: str, response: httpx.Response) -> list[str]:
    """Return the thumbprints whose signatures http-message-signatures verifies. Raises InvalidSignature."""
    keys = {jwk["kid"]: to_public_key(json.dumps({n: jwk[n] for n in ("kty", "crv", "x")})) for jwk in response.json()["keys"]}
    request = SimpleNamespace(method="GET", url=url, headers={})
    message = SimpleNamespace(status_code=200, headers=dict(response.headers), request=request)
    resolver = MappingKeyResolver(public_keys=keys, private_keys={})
    verifier = HTTPMessageVerifier(signature_algorithm=algorithms.ED25519, key_resolver=resolver)
    return [
        str(result.parameters["keyid"]) for result in verifier.verify(message, expect_tag="http-message-signatures-directory")
    ]


def keyds(daemon: DaemonProcess, *arguments: str) -> dict[str, Any]:
    """Return what `keyd directory check` says."""
    command = [sys.executable, "-m", "keyd", "--address", daemon.address, "directory", "check", *arguments]
    ran = subprocess.run([*command, "--via", via(daemon), "--json"], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (found,) = json.loads(ran.stdout)["directories"]
    return {key["thumbprint"]: (key["signs"], key["cloudflare"]) for key in found["keys"]}


def test_the_directory_through_a_rotation(daemon: DaemonProcess, verified: Verified) -> None:
    origin = "https://rotating.example"
    url = origin + directory.PATH

    def seen() -> list[str]:
        """Return the thumbprints that everybody lists and finds signing."""
        response = fetch(daemon, origin)
        assert response.headers["content-type"] == directory.MEDIA_TYPE
        listed = [jwk["kid"] for jwk in response.json()["keys"]]
        theirs, found = peers(daemon, origin=origin), npm(url, response)
        assert theirs["wbactl"]["listed"] == theirs["wbauth"]["listed"] == found["listed"] == listed
        assert found["signers"] == library(url, response) == listed
        return listed

    with daemon.admin() as admin:
        first = seen()
        assert len(first) == 1
        waiting = admin.rotate_key("rotating").key.versions
        second = next(version.thumbprint for version in waiting if version.version == 2)
        assert seen() == [*first, second]  # published, and does not sign requests yet
        admin.rotate_key("rotating", now=True)
        after = seen()
        assert set(first) < set(after)  # the old one still signs the directory
        assert keyds(daemon, "--issuer", "rotating") == dict.fromkeys(after, (True, True))
        copied, elsewhere = fetch(daemon, origin), "https://evil.example" + directory.PATH
        assert all(signer.startswith("refused") for signer in npm(elsewhere, copied)["signers"])
        with pytest.raises(InvalidSignature):
            library(elsewhere, copied)
        admin.compromise_version("rotating", 1, "a test")
        assert set(seen()) == set(after) - set(first)
    for verifier in ("wbactl", "wbauth-sdk", "npm web-bot-auth", "http-message-signatures"):
        verified("key directory", "Ed25519", verifier)


def test_the_directory_in_the_form_of_the_draft(daemon: DaemonProcess, verified: Verified) -> None:
    response, url = fetch(daemon, "https://draft.example"), "https://draft.example" + directory.PATH
    (listed,) = response.json()["keys"]
    assert (listed["alg"], library(url, response), npm(url, response)["signers"]) == ("ed25519", [listed["kid"]], [listed["kid"]])
    assert keyds(daemon, "https://draft.example") == {listed["kid"]: (True, False)}
    response.headers["content-digest"] = "sha-256=:AAAA:"
    with pytest.raises(InvalidSignature):
        library(url, response)
    verified("key directory (draft)", "Ed25519", "http-message-signatures")
    verified("key directory (draft)", "Ed25519", "npm web-bot-auth")


class Site(http.server.ThreadingHTTPServer):
    """Keeps what it is sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/orders?x=1"
        self.seen: list[dict[str, Any]] = []


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.seen.append({"method": self.command, "url": f"http://{headers['host']}{self.path}", "headers": headers})
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    server = Site()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


async def _aiohttp(daemon: DaemonProcess, url: str, options: Any) -> None:
    async with AsyncClient(daemon.address) as client:
        middleware = keyd_middleware(client, "bot", **options)
        async with aiohttp.ClientSession(middlewares=[middleware]) as session, session.get(url) as response:
            assert response.status == 204


def send_all(daemon: DaemonProcess, site: Site, options: Any) -> list[dict[str, Any]]:
    """Send a request with each client; return what the site got."""
    with daemon.client() as client:
        with httpx.Client(auth=HttpxAuth(client, "bot", **options), trust_env=False) as session:
            session.get(site.url)
        requests.get(site.url, auth=RequestsAuth(client, "bot", **options), timeout=10)
    asyncio.run(_aiohttp(daemon, site.url, options))
    return site.seen


def test_requests_with_the_form_that_cloudflare_takes(daemon: DaemonProcess, site: Site, verified: Verified) -> None:
    sent = send_all(daemon, site, web_bot_auth.options(ORIGIN))
    (kid,) = [jwk["kid"] for jwk in fetch(daemon).json()["keys"]]
    assert [request["headers"]["signature-agent"] for request in sent] == [f'"{ORIGIN}"'] * 3
    theirs = peers(daemon, *sent)  # wbauth-sdk finds the key by Signature-Agent, in the directory
    assert theirs["wbauth"]["requests"] == theirs["wbactl"]["requests"] == [kid] * 3
    assert theirs["wbactl"]["agents"] == [ORIGIN] * 3
    assert npm(ORIGIN + directory.PATH, fetch(daemon), *sent)["requests"] == [kid] * 3
    elsewhere = [{**request, "url": "http://evil.example/orders?x=1"} for request in sent]
    others = [{**request, "headers": {**request["headers"], "signature-agent": '"https://evil.example"'}} for request in sent]
    for wrong in (elsewhere, others):
        theirs = peers(daemon, *wrong)
        found = [theirs["wbactl"], npm(ORIGIN + directory.PATH, fetch(daemon), *wrong)]
        assert all(verdict.startswith("refused") for each in found for verdict in each["requests"])
    for client in ("httpx", "requests", "aiohttp"):
        for verifier in ("wbauth-sdk", "wbactl", "npm web-bot-auth"):
            verified(client, "Ed25519", f"{verifier}, Signature-Agent as a string")


def test_requests_with_the_form_of_the_draft(daemon: DaemonProcess, site: Site, verified: Verified) -> None:
    sent = send_all(daemon, site, web_bot_auth.options(ORIGIN, form="dictionary"))
    (kid,) = [jwk["kid"] for jwk in fetch(daemon).json()["keys"]]
    assert [request["headers"]["signature-agent"] for request in sent] == [f'sig1="{ORIGIN}"'] * 3
    theirs = peers(daemon, *sent)
    assert (theirs["wbactl"]["requests"], theirs["wbactl"]["agents"]) == ([kid] * 3, [ORIGIN] * 3)
    assert all(verdict.startswith("refused") for verdict in theirs["wbauth"]["requests"])  # it does not know this form
    keys = {
        kid: to_public_key(json.dumps({n: v for n, v in fetch(daemon).json()["keys"][0].items() if n in ("kty", "crv", "x")}))
    }
    resolver = MappingKeyResolver(public_keys=keys, private_keys={})
    verifier = HTTPMessageVerifier(signature_algorithm=algorithms.ED25519, key_resolver=resolver)
    for request in sent:
        verifier.verify(SimpleNamespace(**request), expect_tag="web-bot-auth")
        request["headers"]["signature-agent"] = 'sig1="https://evil.example"'
        with pytest.raises(InvalidSignature):
            verifier.verify(SimpleNamespace(**request), expect_tag="web-bot-auth")
    assert all(verdict.startswith("refused") for verdict in peers(daemon, *sent)["wbactl"]["requests"])
    for client in ("httpx", "requests", "aiohttp"):
        for name in ("wbactl", "http-message-signatures"):
            verified(client, "Ed25519", f"{name}, Signature-Agent as a dictionary")


class TestVectors:
    """What the drafts and Cloudflare publish as signed with the Ed25519 key of RFC 9421, keyd signs to the same bit."""

    VECTORS = json.loads((TESTS / "vectors/web_bot_auth_signatures.json").read_text())
    PEM = json.loads((TESTS / "vectors/rfc9421_appendix_b.json").read_text())["keys"]["Example Ed25519 Test Key"]["pem"][-1]
    WHO = Principal(uid=1001)

    @pytest.fixture
    async def ring(self, tmp_path: Path) -> AsyncIterator[Keyring]:
        clock = FakeClock(self.VECTORS["requests"][0]["created"] + 1.0)
        store = SqlStore(tmp_path / "keyd.db")
        runner = BackendRunner("mem", memory_backend())
        ring = keyring(store, {"mem": runner}, clock)
        # Some vectors are good for a hundred years, which no built-in profile allows.
        ring.profiles = {
            **BUILT_IN,
            "century": Profile("century", max_expires_in=4e9, tag="web-bot-auth", keyid_is_thumbprint=True),
        }
        await ring.start()
        yield ring
        runner.close()
        store.close()

    async def sign(self, ring: Keyring, profile: str, base: bytes, purpose: Purpose = Purpose.HTTP) -> bytes:
        private = load_pem_private_key(self.PEM.encode(), None)
        if "bot" not in ring.snapshot.keys:
            lifecycle = LifecyclePolicy(retention=5e9)
            key = new_key("bot", profile=profile, purposes=frozenset({Purpose.HTTP, Purpose.DIRECTORY}), lifecycle=lifecycle)
            await ring.import_key(key, private, None)  # type: ignore[arg-type]
        grant = Grant("all", (PrincipalPattern(uid=1001),), ("*",), frozenset({purpose}))
        guard = Guard(Policy((grant,)), ring.clock, RecordedAudit())
        return (await Signer(ring, ring.profiles, guard).sign(self.WHO, "bot", InputKind.SIGNATURE_BASE, base)).signature

    @pytest.mark.parametrize("vector", VECTORS["requests"], ids=lambda vector: vector["name"])
    async def test_requests(self, ring: Keyring, vector: dict[str, Any], verified: Verified) -> None:
        profile = "web-bot-auth" if vector["expires"] <= vector["created"] + 86400 else "century"
        signature = await self.sign(ring, profile, vector["base"].encode())
        assert signature == base64.b64decode(vector["signature_b64"])
        other = vector["base"].replace("example.com", "example.org").encode()
        assert await self.sign(ring, profile, other) != signature
        verified("Web Bot Auth vectors", "Ed25519", f"published signature, {vector['name']}")

    @pytest.mark.parametrize("vector", VECTORS["directories"], ids=lambda vector: vector["name"])
    async def test_directories(self, ring: Keyring, vector: dict[str, Any], verified: Verified) -> None:
        """They are good for a hundred years, which keyd signs for nobody: so what signs is asked directly."""
        lines = [f'"@authority";req: {vector["authority"]}', f'"content-digest": {vector["content_digest"]}']
        base = "\n".join([*lines, f'"@signature-params": {vector["signature_params"]}']).encode()
        with pytest.raises(FreshnessError, match="at most 86400 s"):
            await self.sign(ring, "web-bot-auth", base, Purpose.DIRECTORY)
        view = ring.snapshot.get("bot")
        (version,) = view.versions
        assert await ring.runner(view.key).sign(version, view.key.algorithm, base) == base64.b64decode(vector["signature_b64"])
        if vector["name"].startswith("draft"):
            thumbprint, algorithm = version.record.thumbprint, view.key.algorithm
            times = {"created": vector["created"], "expires": vector["expires"]}
            digest = vector["content_digest"]
            assert directory.signature_base(vector["authority"], thumbprint, algorithm, **times, content_digest=digest)[0] == base
        verified("Web Bot Auth vectors", "Ed25519", f"published signature, {vector['name']}")
