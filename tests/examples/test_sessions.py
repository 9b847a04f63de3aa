"""The examples with sessions, as processes, against the real daemon and resources that verify with the libraries themselves."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from daemon_process import DaemonProcess
from sessions.resources import Resource, peers_python

from keyd.v1 import session_service_pb2 as pb
from keyd.v1 import session_service_pb2_grpc

ROOT = Path(__file__).parents[2]
AGENT = "aauth:shop@agents.example"
PROVIDER = "https://agents.example"
#: Nothing but the resources that are running.
SECTIONS = """
[issuers.agents]
hosts = ["agents.example"]
keys = ["agents", "lumo"]
origin = "https://agents.example"
[issuers.agents.agent]
[grants.admin]
principals = [{{ uid = {uid} }}]
keys = ["*"]
operations = ["*"]
[grants.shop]
principals = [{{ uid = {uid} }}]
authorities = {authorities}
[grants.shop.sessions]
issuer_keys = ["agents", "lumo"]
kinds = ["aauth", "lumoauth"]
subjects = ["aauth:shop@agents.example", "aauth:shop+*@agents.example"]
max_sessions = 2
sub_agents = true
"""


class Street:
    """The daemon, and one resource for each library."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.daemon = DaemonProcess()
        stack.callback(self.daemon.close)
        self._bare = self.daemon.config.read_text()
        self.allow(["nowhere.example"])
        self.daemon.start()
        with self.daemon.admin() as admin:
            admin.create_key("agents", purposes=["jwt"], profile="aauth")
            admin.create_key("lumo", purposes=["jwt"], profile="lumoauth")
        keyd = self.daemon.jwks_url.rpartition("/.well-known/")[0]
        names = ("aauth", "introspection-aauth", "lumoauth", "regent-httpsig")
        self.resources = {name: Resource(name, keyd, PROVIDER) for name in names}
        for each in self.resources.values():
            stack.callback(each.close)
        self.allow([each.authority for each in self.resources.values()])
        self.reload()

    def allow(self, authorities: list[str]) -> None:
        self.daemon.config.write_text(self._bare + SECTIONS.format(uid=os.getuid(), authorities=json.dumps(authorities)))

    def reload(self) -> None:
        assert self.daemon.process is not None
        self.daemon.process.send_signal(1)
        while not any("reloaded" in str(event.get("event")) for event in self.daemon.events()):
            assert self.daemon.process.poll() is None

    def run(
        self,
        example: str,
        target: Resource,
        issuer_key: str = "agents",
        agent: str = AGENT,
        url: str = "",
        *,
        peers: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "KEYD_ADDRESS": self.daemon.address,
            "KEYD_ISSUER_KEY": issuer_key,
            "AGENT_ID": agent,
            "RESOURCE_URL": url or f"{target.url}/orders?day=1",
        }
        if not os.environ.get("KEYD_TEST_WHEEL"):
            environment["PYTHONPATH"] = str(ROOT)
        command = [peers_python() if peers else sys.executable, str(ROOT / "examples" / f"{example}.py")]
        return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def street() -> Iterator[Street]:
    with contextlib.ExitStack() as stack:
        yield Street(stack)


#: Example, the library that signs for it, the one that verifies, and whether it runs in the environment `peers`.
EXAMPLES = [
    ("aauth_session", "httpx, session", "introspection-aauth", False),
    ("aauth_sub_agent", "httpx, session", "introspection-aauth", False),
    ("lumoauth_session", "httpx, session", "lumoauth", False),
    ("session_aauth", "aauth, session", "aauth", True),
    ("session_aauth_signing", "aauth-signing, session", "aauth", True),
    ("session_introspection", "introspection-aauth, session", "introspection-aauth", True),
    ("session_regent", "regent-httpsig, session", "regent-httpsig", True),
    ("session_lumoauth", "lumoauth, session", "lumoauth", True),
]


@pytest.mark.parametrize(("example", "library", "verifier", "peers"), EXAMPLES)
def test_the_resource_verifies_what_the_example_sends(
    street: Street, example: str, library: str, verifier: str, peers: bool, verified: Callable[[str, str, str], None]
) -> None:
    target = street.resources[verifier]
    before = target.counts()
    ran = street.run(example, target, "lumo" if "lumoauth" in example else "agents", peers=peers)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f'"agent": "aauth:shop{"+buyer" if "sub" in example else ""}@agents.example"' in ran.stdout
    after = target.counts()
    assert (after["verified"], after["refused"]) == (before["verified"] + 1, before["refused"])
    verified(library, "Ed25519", verifier if verifier != "lumoauth" else "a check of ours: the SDK has no verifier")


@pytest.mark.parametrize(
    ("example", "asked", "peers"),
    [
        ("aauth_session", {"agent": "aauth:someone@agents.example"}, False),
        ("aauth_session", {"url": "http://evil.example/orders"}, False),
        ("session_aauth", {"url": "http://evil.example/orders"}, True),
        ("session_lumoauth", {"url": "http://evil.example/orders", "issuer_key": "lumo"}, True),
    ],
)
def test_keyd_signs_nothing_that_the_grant_does_not_have(
    street: Street, example: str, asked: dict[str, str], peers: bool
) -> None:
    ran = street.run(example, street.resources["aauth"], peers=peers, **asked)
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert "keyd signed nothing: " in ran.stderr
    assert "grant 'shop'" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_an_example_fails_when_the_resource_refuses(street: Street) -> None:
    """aauth 0.5 does not read the base64 that RFC 9421 has, which is why KeydAuth has base64url=True."""
    ran = street.run("aauth_session", street.resources["aauth"])
    assert ran.returncode == 1
    assert "401" in ran.stdout


def test_no_example_leaves_a_session_behind(street: Street) -> None:
    assert street.run("aauth_sub_agent", street.resources["introspection-aauth"]).returncode == 0
    with grpc.insecure_channel(street.daemon.address) as channel:
        listed = session_service_pb2_grpc.SessionAdminServiceStub(channel).ListSessions(pb.ListSessionsRequest())
    assert list(listed.sessions) == []


def test_the_readme_shows_the_example() -> None:
    readme, example = (ROOT / "README.md").read_text(), (ROOT / "examples" / "aauth_session.py").read_text()
    block = next(part for part in readme.split("```python\n")[1:] if "open_session" in part).partition("```")[0]
    lines = "".join(f"    {line}\n" for line in block.splitlines())
    assert lines in example
