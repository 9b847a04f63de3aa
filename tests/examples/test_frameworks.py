"""The examples for agents' frameworks, with the frameworks themselves, against a real daemon."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from daemon_process import DaemonProcess
from http_message_signatures import InvalidSignature
from signed_resource import SignedResource, fenced, run_example, serving

from keyd.client.http import OutgoingRequest, sign_request

EXAMPLES = Path(__file__).parents[2] / "examples"
Fenced = tuple[DaemonProcess, SignedResource]


def command(name: str) -> list[str]:
    return [sys.executable, str(EXAMPLES / name)]


@pytest.fixture(scope="module")
def shared() -> Iterator[Fenced]:
    with fenced("Ed25519") as both:
        yield both


@pytest.fixture
def daemon(shared: Fenced) -> DaemonProcess:
    return shared[0]


@pytest.fixture
def resource(shared: Fenced) -> SignedResource:
    shared[1].clear()
    return shared[1]


@pytest.fixture(scope="module")
def mcp_url(shared: Fenced) -> Iterator[str]:
    with serving(command("mcp_server.py"), JWKS_URL=shared[0].jwks_url) as authority:
        yield f"http://{authority}/mcp"


def test_an_mcp_client_whose_requests_are_signed(daemon: DaemonProcess, mcp_url: str, verified) -> None:
    assert run_example(command("mcp_client.py"), daemon, "anywhere", mcp_url) == (0, "add(2, 3) = 5\n")
    verified("mcp", "Ed25519", "an MCP server with http-message-signatures")


def test_an_mcp_server_that_keyd_does_not_sign_for(daemon: DaemonProcess, mcp_url: str) -> None:
    code, output = run_example(command("mcp_client.py"), daemon, "agent-Ed25519", mcp_url)
    assert (code, output) == (
        1,
        "keyd signed nothing: AUTHORITY: grant 'agent' does not have the authority that the base is for\n",
    )


def test_an_mcp_server_that_does_not_know_the_key(daemon: DaemonProcess, mcp_url: str) -> None:
    keys_of_another = daemon.jwks_url.replace("/.well-known/", "/keys/agent-Ed25519/")
    with serving(command("mcp_server.py"), JWKS_URL=keys_of_another) as authority:
        code, output = run_example(command("mcp_client.py"), daemon, "anywhere", f"http://{authority}/mcp")
    assert code == 1
    assert output.startswith("the server refused: ")


def test_the_mcp_server_takes_no_request_that_is_not_signed_as_it_came(daemon: DaemonProcess, mcp_url: str) -> None:
    headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    client_info = {"name": "a stranger", "version": "1"}
    parameters = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client_info}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": parameters}).encode()
    with daemon.client() as client:
        signed = headers | sign_request(client, "anywhere", OutgoingRequest("POST", mcp_url, headers.items(), body), {})

    def post(url: str = mcp_url, content: bytes = body, fields: dict[str, str] = signed) -> int:
        return httpx.post(url, content=content, headers=fields).status_code

    assert post() == 200
    assert post(fields=headers) == 401
    assert post(content=body.replace(b"stranger", b"friend")) == 401
    assert post(url=f"{mcp_url}?x=1") == 401
    assert post(fields=signed | {"host": "evil.example"}) == 401
    assert post(fields={name: value for name, value in signed.items() if name != "Content-Digest"}) == 401
    assert httpx.get(mcp_url).status_code == 401
    assert httpx.delete(mcp_url).status_code == 401


def test_a_langchain_tool_whose_requests_are_signed(daemon: DaemonProcess, resource: SignedResource, verified) -> None:
    code, output = run_example(command("langchain_tool.py"), daemon, "agent-Ed25519", resource.url)
    assert (code, output) == (0, f"success: verified {resource.kids[0]}\n")
    (request,) = resource.received
    with pytest.raises(InvalidSignature):
        resource.verify(request.altered(url=request.url.replace("limit=3", "limit=4")))
    verified("langchain-core", "Ed25519", "http-message-signatures")


def test_the_model_is_told_what_keyd_does_not_sign(daemon: DaemonProcess, resource: SignedResource) -> None:
    code, output = run_example(command("langchain_tool.py"), daemon, "agent-Ed25519", "http://evil.example/collect")
    assert code == 1
    assert output.startswith("error: Not sent: you may not make this request to evil.example (AUTHORITY: ")
    assert "Trying it again will not help." in output


def test_the_model_is_told_that_the_server_refused(daemon: DaemonProcess, resource: SignedResource, mcp_url: str) -> None:
    code, output = run_example(command("langchain_tool.py"), daemon, "anywhere", mcp_url)
    assert code == 1
    assert output.startswith(f"error: {mcp_url} answered ")


def test_the_model_is_told_that_keyd_is_away(daemon: DaemonProcess, resource: SignedResource) -> None:
    environment = {"KEYD_ADDRESS": "unix:/nonexistent/keyd.sock"}
    code, output = run_example(command("langchain_tool.py"), daemon, "agent-Ed25519", resource.url, **environment)
    assert code == 1
    assert output.startswith("error: It did not work: keyd at unix:/nonexistent/keyd.sock did not answer")
    assert resource.received == []


@pytest.mark.parametrize(("url", "told"), [("file:///etc/passwd", "give an absolute URL"), ("http://[::1", "this is no URL")])
def test_the_model_is_told_what_is_no_url(daemon: DaemonProcess, url: str, told: str) -> None:
    code, output = run_example(command("langchain_tool.py"), daemon, "agent-Ed25519", url)
    assert code == 1
    assert output.startswith(f"error: Not sent: {told}")


def test_the_model_is_told_of_a_url_that_cannot_be_signed(daemon: DaemonProcess, resource: SignedResource) -> None:
    """httpx would send the bracket as it is, and RFC 9421 wants what is encoded."""
    url = resource.url.partition("?")[0]
    code, output = run_example(command("langchain_tool.py"), daemon, "agent-Ed25519", f"{url}?item[0]=1")
    assert code == 1
    assert output.startswith("error: Not sent: this URL cannot be signed")
    assert resource.received == []
    assert run_example(command("langchain_tool.py"), daemon, "agent-Ed25519", f"{url}?item%5B0%5D=1")[0] == 0
