"""A whole daemon with TCP listeners, and keyd's own clients on the other side."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from pki import HOUR, Authority, dns, put, uri
from service_conftest import CONFIG
from support import FakeClock

from keyd import app, config
from keyd.client import AdminClient, AsyncClient, Client, KeydClientError, TlsFiles, Unavailable
from keyd.client import tls as client_tls
from keyd.process import ProcessError

T = TypeVar("T")
FLEET = """
[tcp.fleet]
listen = "127.0.0.1:0"
certificate = "{directory}/server.pem"
private_key = "{directory}/server.key"
client_ca = "{directory}/ca.pem"
{rest}
[tcp.local]
listen = "127.0.0.1:0"
plaintext = true
[grants.agent]
principals = [{{ spiffe = "spiffe://example.org/agent" }}]
keys = ["agent"]
purposes = ["raw"]
operations = ["create_key"]
"""


class Fleet:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority()
        self.stack = AsyncExitStack()
        self.daemon: app.Daemon
        (directory / "kek").write_bytes(os.urandom(32))
        (directory / "kek").chmod(0o400)
        self.authority.server().write(directory, "server")
        put(directory / "ca.pem", self.authority.pem)
        self.authority.issue(uri("spiffe://example.org/agent")).write(directory, "agent")

    async def start(self, rest: str = 'trust_domain = "example.org"') -> None:
        path = self.directory / "keyd.toml"
        path.write_text((CONFIG + FLEET.replace("{rest}", rest)).format(directory=self.directory))
        self.daemon = await app.start(config.load(path), self.stack, FakeClock())

    def address(self, name: str = "fleet") -> str:
        assert self.daemon.tcp is not None
        return f"localhost:{self.daemon.tcp[name].port}"

    @property
    def files(self) -> TlsFiles:
        return TlsFiles(self.directory / "agent.pem", self.directory / "agent.key", self.directory / "ca.pem")

    @property
    def connections(self) -> int:
        assert self.daemon.tcp is not None
        return self.daemon.tcp["fleet"].connections


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    directory = Path(tempfile.mkdtemp(prefix="keyd-t-"))  # short: a socket path has at most 107 bytes
    fleet = Fleet(directory)
    yield fleet
    await fleet.stack.aclose()
    await asyncio.to_thread(shutil.rmtree, directory)


async def threaded(function: Callable[[], T]) -> T:
    return await asyncio.to_thread(function)


def create_key(fleet: Fleet) -> None:
    with AdminClient(fleet.address(), tls=fleet.files) as admin:
        admin.create_key("agent", purposes=["raw"])


async def test_the_clients_sign_over_mutual_tls(fleet: Fleet) -> None:
    await fleet.start()

    def work() -> bytes:
        with AdminClient(fleet.address(), tls=fleet.files) as admin, Client(fleet.address(), tls=fleet.files) as client:
            admin.create_key("agent", purposes=["raw"])
            return client.sign_message("agent", b"message").signature

    signature = await threaded(work)
    async with AsyncClient(fleet.address(), tls=fleet.files) as client:
        assert (await client.sign_message("agent", b"message")).signature == signature  # Ed25519 is deterministic


async def test_who_shows_a_certificate_has_no_grant_by_that_alone(fleet: Fleet) -> None:
    await fleet.start()
    await threaded(lambda: create_key(fleet))
    fleet.authority.issue(uri("spiffe://example.org/agent/other")).write(fleet.directory, "agent")
    async with AsyncClient(fleet.address(), tls=fleet.files) as client:
        with pytest.raises(KeydClientError) as refused:
            await client.sign_message("agent", b"message")
    assert refused.value.reason == "GRANT"


async def test_the_environment_names_the_files(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    await fleet.start()
    monkeypatch.setenv("KEYD_ADDRESS", fleet.address())

    def plain() -> None:
        with Client(retries=0) as client:
            client.jwks()

    with pytest.raises(Unavailable):  # plaintext to loopback is an address that may be used, and not what listens there
        await threaded(plain)
    monkeypatch.setenv("KEYD_CERTIFICATE", str(fleet.directory / "agent.pem"))
    with pytest.raises(ValueError, match="go together"):
        Client()
    monkeypatch.setenv("KEYD_PRIVATE_KEY", str(fleet.directory / "agent.key"))
    monkeypatch.setenv("KEYD_CA", str(fleet.directory / "ca.pem"))

    def work(address: str | None = None) -> Any:
        with Client(address) as client:
            return client.jwks()

    assert await threaded(work) == {"keys": []}
    assert await threaded(lambda: work(f"unix:{fleet.directory}/run/keyd.sock")) == {"keys": []}
    async with AsyncClient() as client:
        assert await client.jwks() == {"keys": []}


async def test_a_caller_that_is_not_trusted_is_unavailable(fleet: Fleet) -> None:
    await fleet.start()
    Authority("another").issue(uri("spiffe://example.org/agent")).write(fleet.directory, "agent")
    with pytest.raises(Unavailable), Client(fleet.address(), tls=fleet.files, retries=0) as client:
        await threaded(client.jwks)


async def test_dns_callers(fleet: Fleet) -> None:
    await fleet.start("dns = true")
    fleet.authority.issue(dns("agent.example.org")).write(fleet.directory, "agent")
    async with AsyncClient(fleet.address(), tls=fleet.files) as client:
        assert await client.jwks() == {"keys": []}


async def test_a_renewed_certificate_is_used_for_new_calls(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old one may not even be valid any more when its connection ends."""
    monkeypatch.setattr(client_tls, "_LOOK_INTERVAL", 0.0)
    await fleet.start()
    put(fleet.directory / "server.ca.pem", fleet.authority.pem)
    files = TlsFiles(fleet.files.certificate, fleet.files.private_key, fleet.directory / "server.ca.pem")
    new = Authority("new")
    async with AsyncClient(fleet.address(), tls=files, retries=0) as client:
        await threaded(lambda: create_key(fleet))
        watched = client.watch(["agent"])
        assert (await anext(watched)).name == "agent"
        with Client(fleet.address(), tls=files, retries=0) as blocking:
            assert (await threaded(blocking.jwks))["keys"]
            put(fleet.directory / "ca.pem", new.pem)
            assert fleet.daemon.tcp is not None
            fleet.daemon.tcp.refresh()
            issued = new.issue(uri("spiffe://example.org/agent"))
            put(fleet.directory / "agent.pem", issued.chain)  # its key is not there yet
            assert (await client.jwks())["keys"]
            assert (await threaded(blocking.jwks))["keys"]
            put(fleet.directory / "agent.key", issued.key_pem)
            before = fleet.connections
            assert (await client.jwks())["keys"]
            assert (await threaded(blocking.jwks))["keys"]
            assert fleet.connections == before + 2
        for number in range(10):
            new.issue(uri(f"spiffe://example.org/agent{number}")).write(fleet.directory, "agent")
            assert (await client.jwks())["keys"]
        assert fleet.connections <= 8, "connections are kept that nobody needs"
        await watched.aclose()


async def test_plaintext_on_loopback(fleet: Fleet) -> None:
    await fleet.start()
    async with AsyncClient(fleet.address("local").replace("localhost", "127.0.0.1")) as client:
        assert await client.jwks() == {"keys": []}


async def test_connections_end_at_their_age_without_an_error(fleet: Fleet) -> None:
    await fleet.start('trust_domain = "example.org"\nmax_connection_age = "1s"')
    seen = set()
    async with AsyncClient(fleet.address(), tls=fleet.files, retries=0) as client:
        began = time.monotonic()
        while time.monotonic() - began < 2.5:
            await client.jwks()
            assert fleet.daemon.tcp is not None
            seen |= {id(pipe) for pipe in fleet.daemon.tcp["fleet"]._pipes}
            await asyncio.sleep(0.02)
    assert len(seen) >= 2


async def test_calls_under_way_end_before_the_connections_do(fleet: Fleet) -> None:
    await fleet.start()
    async with AsyncClient(fleet.address(), tls=fleet.files, retries=0) as client:
        await client.jwks()
        assert fleet.connections == 1
        await fleet.stack.aclose()
        with pytest.raises(Unavailable):
            await client.jwks()
    assert fleet.connections == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: put(f.directory / "ca.pem", b""), "tcp.fleet: the trust bundle is not PEM, or is empty"),
        (lambda f: (f.directory / "server.key").chmod(0o444), r"tcp.fleet: .*server.key is open to other users"),
        (lambda f: f.authority.server(begins=-2 * HOUR, ends=-HOUR).write(f.directory, "server"), "tcp.fleet: .* has expired"),
    ],
    ids=["bundle", "mode", "expired"],
)
async def test_the_daemon_does_not_start_with_what_cannot_be_used(
    fleet: Fleet, change: Callable[[Fleet], object], message: str
) -> None:
    change(fleet)
    with pytest.raises(ProcessError, match=message):
        await fleet.start()


async def test_a_reload_looks_at_the_files(fleet: Fleet) -> None:
    await fleet.start()
    assert fleet.daemon.tcp is not None
    tls = fleet.daemon.tcp["fleet"]._tls
    assert tls is not None
    before = tls.credentials.context()
    put(fleet.directory / "ca.pem", Authority("new").pem)
    app.reload(fleet.daemon, fleet.directory / "keyd.toml")
    assert tls.credentials.context() is not before


class TestFiles:
    def test_they_are_checked(self, fleet_files: TlsFiles) -> None:
        fleet_files.credentials()
        Authority().issue().write(Path(fleet_files.certificate).parent, "other")
        other = Path(fleet_files.certificate).with_name("other.key")
        with pytest.raises(ValueError, match=r"agent.pem with private key .*other.key: key values mismatch"):
            TlsFiles(fleet_files.certificate, other, fleet_files.ca).credentials()
        with pytest.raises(ValueError, match="No such file"):
            TlsFiles("/nowhere", other).credentials()
        with pytest.raises(ValueError, match="authorities /nowhere: No such file"):
            TlsFiles(fleet_files.certificate, fleet_files.private_key, "/nowhere").credentials()
        with pytest.raises(ValueError, match="authorities"):
            TlsFiles(fleet_files.certificate, fleet_files.private_key, fleet_files.private_key).credentials()

    def test_authorities_alone_are_not_taken_for_plaintext(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("KEYD_CERTIFICATE", "KEYD_PRIVATE_KEY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("KEYD_CA", "/run/agent/bundle.pem")
        with pytest.raises(ValueError, match="KEYD_CA is for TLS"):
            Client("localhost:1")
        Client("/run/keyd.sock").close()

    def test_not_both(self, fleet_files: TlsFiles) -> None:
        with pytest.raises(ValueError, match="not both"):
            Client("localhost:1", tls=fleet_files, credentials=grpc.ssl_channel_credentials())

    def test_not_with_a_unix_socket(self, fleet_files: TlsFiles) -> None:
        with pytest.raises(ValueError, match="takes no credentials"):
            Client("/run/keyd.sock", tls=fleet_files)

    @pytest.fixture
    def fleet_files(self, tmp_path: Path) -> TlsFiles:
        authority = Authority()
        put(tmp_path / "ca.pem", authority.pem)
        return TlsFiles(*authority.issue(uri("spiffe://example.org/agent")).write(tmp_path, "agent"), tmp_path / "ca.pem")
