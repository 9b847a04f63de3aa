"""Credentials from a fake Workload API (tests/components/fake_workload_api.py), which speaks the real protocol."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
from components.fake_workload_api import FakeWorkloadApi
from pki import HOUR, SERVER, Authority, Issued, dns, uri
from service.test_tls import AGENT, World
from support import until

from keyd.service.gate import workload_api
from keyd.service.gate.certificates import by_spiffe_id
from keyd.service.gate.credentials import CredentialsError
from keyd.service.gate.tls import TcpListener, Tls
from keyd.service.gate.workload_api import WorkloadApiCredentials

PARTNER = "spiffe://partner.example/agent"


def svid(authority: Authority, **changes: object) -> Issued:
    return authority.issue(uri("spiffe://example.org/keyd"), dns("localhost"), extended=(SERVER,), **changes)  # type: ignore[arg-type]


class SpiffeWorld(World):
    """A listener whose credentials the agent issues."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.agent = FakeWorkloadApi(directory)
        self.credentials: WorkloadApiCredentials

    async def start_for(self, trust_domain: str = "example.org") -> None:
        self.private.bind(self.server.add_insecure_port)
        await self.server.start()
        self.credentials = WorkloadApiCredentials("test", self.agent.endpoint, trust_domain)
        self.listener = TcpListener("test", self.private.connect, Tls(self.credentials, by_spiffe_id(trust_domain)), self.quota)
        self.listener.bind("127.0.0.1", 0)
        self.listener.start()
        self.credentials.start()

    async def stop(self) -> None:
        await self.credentials.stop()
        await super().stop()


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SpiffeWorld]:
    monkeypatch.setattr(workload_api, "_PAUSE", 0.01)
    directory = Path(tempfile.mkdtemp(prefix="keyd-t-"))  # short: a socket path has at most 107 bytes
    world = SpiffeWorld(directory)
    yield world
    await world.stop()
    await asyncio.to_thread(shutil.rmtree, directory)


async def loaded(world: SpiffeWorld) -> None:
    await until(lambda: world.credentials.context() is not None)


async def test_the_agent_issues_and_rotates(world: SpiffeWorld) -> None:
    old, new = world.authority, Authority("new")
    with world.agent:
        world.agent.set(svid(old), old)
        await world.start_for()
        await loaded(world)
        async with world.channel(old.issue(uri(AGENT))) as channel:
            assert await channel.unary_unary("/test.Who/Who")(b"") == AGENT.encode()
            before = world.credentials.context()
            world.agent.set(svid(new), new)
            await until(lambda: world.credentials.context() is not before)
            assert await world.asked(new.issue(uri(AGENT)), trusts=new) == AGENT
            assert "not trusted" in await world.refused(old.issue(uri(AGENT)), trusts=new)
            assert await channel.unary_unary("/test.Who/Who")(b"") == AGENT.encode()


async def test_a_federated_trust_domain_has_its_own_bundle(world: SpiffeWorld) -> None:
    partner = Authority("partner")
    with world.agent:
        world.agent.set(svid(world.authority), world.authority, {"partner.example": partner})
        await world.start_for("partner.example")
        await loaded(world)
        assert await world.asked(partner.issue(uri(PARTNER))) == PARTNER
        # Neither authority can vouch for the other's workloads.
        assert "not trusted" in await world.refused(world.authority.issue(uri(PARTNER)))
        assert "trust domain example.org" in await world.refused(partner.issue(uri(AGENT)))


async def test_a_trust_domain_that_the_agent_does_not_know(world: SpiffeWorld) -> None:
    with world.agent, structlog.testing.capture_logs() as logs:
        world.agent.set(svid(world.authority), world.authority)
        await world.start_for("partner.example")
        await until(lambda: len(logs) > 0)
    assert "no bundle of the trust domain partner.example" in logs[0]["error"]


async def test_nobody_is_let_in_before_the_agent_has_answered(world: SpiffeWorld) -> None:
    with structlog.testing.capture_logs() as logs:
        await world.start_for()
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await world.asked(world.authority.issue(uri(AGENT)))
        await until(lambda: any(log.get("reasons") == {"there is no certificate yet": 1} for log in logs))
        await until(lambda: any("does not exist" in log.get("error", "") for log in logs))
        with world.agent:  # it is there, and has no entry for this workload
            await until(lambda: world.agent.refused >= 3)
            world.agent.set(svid(world.authority), world.authority)
            await loaded(world)
            assert await world.asked(world.authority.issue(uri(AGENT))) == AGENT
    complaints = [log["error"] for log in logs if log["event"] == "no credentials from the Workload API"]
    assert len(complaints) == len(set(complaints)) == 2, "each once"
    assert "PERMISSION_DENIED" in complaints[1]


async def test_an_agent_that_goes_away_and_comes_back(world: SpiffeWorld) -> None:
    with world.agent:
        world.agent.set(svid(world.authority), world.authority)
        await world.start_for()
        await loaded(world)
        context = world.credentials.context()
        world.agent.hang_up()
        await until(lambda: world.credentials.context() is not context)  # connected again, and had it anew
    assert await world.asked(world.authority.issue(uri(AGENT))) == AGENT
    context = world.credentials.context()
    with world.agent:
        await until(lambda: world.credentials.context() is not context)


async def test_an_svid_that_cannot_be_used_leaves_what_was(world: SpiffeWorld) -> None:
    with world.agent, structlog.testing.capture_logs() as logs:
        world.agent.set(svid(world.authority), world.authority)
        await world.start_for()
        await loaded(world)
        context = world.credentials.context()
        world.agent.set(svid(world.authority, begins=-2 * HOUR, ends=-HOUR), world.authority)
        await until(lambda: any("has expired" in log.get("error", "") for log in logs))
        assert world.credentials.context() is context
        world.agent.set(Issued(svid(world.authority).certificate, Authority().key), world.authority)
        await until(lambda: any("not the certificate's" in log.get("error", "") for log in logs))
        assert world.credentials.context() is context


async def test_the_package_is_optional(monkeypatch: pytest.MonkeyPatch, world: SpiffeWorld) -> None:
    with world.agent:
        await world.start_for()
    monkeypatch.setitem(sys.modules, "spiffe", None)
    with pytest.raises(CredentialsError, match=r"keyd\[spiffe\]"):
        WorkloadApiCredentials("test", "unix:/nowhere", "example.org")
