"""examples/typescript against a real daemon: what it signs, npm's own verifiers and an independent one verify."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_process import DaemonProcess
from http_message_signatures import InvalidSignature
from signed_resource import SignedResource, fenced, run_example, serving

EXAMPLE = Path(__file__).parents[2] / "examples/typescript"
MAIN = ["node", str(EXAMPLE / "dist/main.js")]
ALGORITHMS = ("Ed25519", "ES256", "PS512")
Fenced = tuple[DaemonProcess, SignedResource]


@pytest.fixture(scope="module")
def shared() -> Iterator[Fenced]:
    assert (EXAMPLE / "dist/.stamp").exists(), "run `make examples/typescript/dist/.stamp` first"
    with fenced(*ALGORITHMS, "RS256") as both:
        yield both


@pytest.fixture
def daemon(shared: Fenced) -> DaemonProcess:
    return shared[0]


@pytest.fixture
def resource(shared: Fenced) -> SignedResource:
    shared[1].clear()
    return shared[1]


@pytest.fixture(scope="module")
def npm_resource(shared: Fenced) -> Iterator[str]:
    with serving(["node", str(EXAMPLE / "dist/resource.js")], JWKS_URL=shared[0].jwks_url) as authority:
        yield authority


def daemon_kid(daemon: DaemonProcess, key: str) -> str:
    with daemon.client() as client:
        active = client.key_info(key).active
        assert active is not None
        return active.kid


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_both_libraries_sign_through_keyd(daemon, resource, npm_resource, verified, algorithm: str) -> None:
    code, output = run_example(MAIN, daemon, f"agent-{algorithm}", resource.url)
    assert code == 0, output
    kid = daemon_kid(daemon, f"agent-{algorithm}")
    assert output == f"web-bot-auth: 200 verified {kid}\nhttp-message-signatures: 200 verified {kid}\n"

    bot, post = resource.received
    assert ';tag="web-bot-auth"' in bot.headers["signature-input"]
    assert (post.method, post.body) == ("POST", b'{"item":7}')
    for request in (bot, post):  # the libraries themselves; then the same with something changed, at both
        assert resource.send_to(npm_resource, request) == 200
        for change in ({"url": request.url.replace("limit=3", "limit=4")}, {"url": request.url.replace("orders", "payments")}):
            assert resource.send_to(npm_resource, request.altered(**change)) == 401
            with pytest.raises(InvalidSignature):
                resource.verify(request.altered(**change))
        elsewhere = request.altered(headers={**request.headers, "host": "evil.example"})
        assert resource.send_to(npm_resource, elsewhere) == 401
    assert resource.send_to(npm_resource, post.altered(body=b'{"item":8}')) == 401
    with pytest.raises(InvalidSignature):
        resource.verify(post.altered(body=b'{"item":8}'))

    for library in ("web-bot-auth", "http-message-signatures"):
        verified(f"npm {library}", algorithm, f"npm {library}; http-message-signatures (Python)")


def test_npm_start_is_all_there_is_to_do(daemon, resource) -> None:
    code, output = run_example(["npm", "start", "--silent", "--prefix", str(EXAMPLE)], daemon, "agent-Ed25519", resource.url)
    assert code == 0, output
    assert len(resource.received) == 2


def test_a_foreign_authority_is_not_signed(daemon, resource) -> None:
    code, output = run_example(MAIN, daemon, "agent-Ed25519", "http://evil.example/collect")
    assert code == 1
    assert output.startswith("keyd signed nothing: AUTHORITY: grant 'agent' ")


def test_a_key_that_is_not_granted_signs_nothing(daemon, resource) -> None:
    with daemon.admin() as admin:
        admin.create_key("another")
    code, output = run_example(MAIN, daemon, "another", resource.url)
    assert code == 1
    assert output.startswith("keyd signed nothing: GRANT: ")
    assert resource.received == []


def test_a_daemon_that_is_not_there_is_said_to_be(daemon, resource) -> None:
    code, output = run_example(MAIN, daemon, "agent-Ed25519", resource.url, KEYD_ADDRESS="unix:/nonexistent/keyd.sock")
    assert code == 1
    assert output.startswith("keyd signed nothing: no answer: ")


def test_a_resource_that_refuses_is_an_error(daemon, npm_resource) -> None:
    taken = "web-bot-auth: 200 verified by web-bot-auth\n\nhttp-message-signatures: 200 verified by http-message-signatures\n\n"
    assert run_example(MAIN, daemon, "anywhere", f"http://{npm_resource}/") == (0, taken)
    keys_of_another = daemon.jwks_url.replace("/.well-known/", "/keys/agent-ES256/")
    with serving(["node", str(EXAMPLE / "dist/resource.js")], JWKS_URL=keys_of_another) as authority:
        code, output = run_example(MAIN, daemon, "anywhere", f"http://{authority}/")
    assert code == 1
    assert output.count("401 unknown kid") == 2


def test_a_version_that_is_gone_meanwhile_is_replaced_without_a_failed_request(daemon, resource) -> None:
    """The example remembers the kid of its first request; the second one meets KEY_STATE, and is built again."""
    before = daemon_kid(daemon, "agent-RS256")

    def compromise() -> None:
        if len(resource.kids) == 1:
            with daemon.admin() as admin:
                admin.compromise_version("agent-RS256", 1, "the test wants its successor")

    resource.after = compromise
    code, output = run_example(MAIN, daemon, "agent-RS256", resource.url)
    assert code == 0, output
    assert resource.kids == [before, daemon_kid(daemon, "agent-RS256")]
    assert resource.kids[0] != resource.kids[1]


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_through_the_gate(daemon, version: str) -> None:
    code, output = run_example(["node", str(EXAMPLE / "dist/describe.js")], daemon, "", "", REFLECTION=version)
    assert code == 0, output
    lines = output.splitlines()
    assert {"keyd.v1.SigningService", "keyd.v1.KeyService", "grpc.health.v1.Health"} <= set(lines)
    assert "/keyd.v1.SigningService/SignJWT SignJWT" in lines


def test_the_lock_file_names_no_registry() -> None:
    lock = (EXAMPLE / "package-lock.json").read_text()
    assert '"resolved"' not in lock
    assert lock.count('"integrity"') > 20
