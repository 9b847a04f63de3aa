"""Callers over TCP, with real certificates, and a real grpc.aio server behind the private socket that says who called."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import structlog
from cryptography import x509
from pki import CLIENT, HOUR, SERVER, Authority, Issued, client_context, dns, put, uri, usage
from raw_grpc import RawChannel
from support import until

from keyd.service.gate import handshakes
from keyd.service.gate.certificates import by_dns_names, by_spiffe_id
from keyd.service.gate.credentials import CredentialsError, FileCredentials
from keyd.service.gate.limits import Quota
from keyd.service.gate.private import PrivateSocket
from keyd.service.gate.tls import Limits, TcpListener, Tls

AGENT = "spiffe://example.org/agent"
DAY = 24 * HOUR
#: Of a curve that TLS has no use for, secp112r1.
ODD_CERTIFICATE = b"""-----BEGIN CERTIFICATE-----
MIIBIzCB7qADAgECAhRbuIDN9uR6qkbv6RXDG33YjmOc6jAKBggqhkjOPQQDAjAM
MQowCAYDVQQDDAF4MCAXDTI2MTEyNTAwNTQyMloYDzIxMjYxMTAxMDA1NDIyWjAM
MQowCAYDVQQDDAF4MDIwEAYHKoZIzj0CAQYFK4EEAAYDHgAEeQ3MFsjOanZemWXw
Wcwp7Q/U4ZRDdYYLdObzkKNTMFEwHQYDVR0OBBYEFJ/CLTMfghNU/02tU9k54PxA
HzF1MB8GA1UdIwQYMBaAFJ/CLTMfghNU/02tU9k54PxAHzF1MA8GA1UdEwEB/wQF
MAMBAf8wCgYIKoZIzj0EAwIDJAAwIQIOOiztIBswxD+i3ySbx00CDwCDTgykApw3
psBVp2WvXQ==
-----END CERTIFICATE-----
"""
ODD_KEY = b"""-----BEGIN PRIVATE KEY-----
ME4CAQAwEAYHKoZIzj0CAQYFK4EEAAYENzA1AgEBBA6va91Skzc957tKCOpDX6Eg
Ax4ABHkNzBbIzmp2Xpll8FnMKe0P1OGUQ3WGC3Tm85A=
-----END PRIVATE KEY-----
"""


class World:
    """A listener with its files, an authority for both sides, and the server."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority()
        self.quota = Quota(100, 50)
        self.monotonic = 0.0
        self.listener: TcpListener
        self.private = PrivateSocket(directory)
        self.server = grpc.aio.server()
        handlers = {
            "Who": grpc.unary_unary_rpc_method_handler(self.who),
            "Echo": grpc.unary_unary_rpc_method_handler(self.echo),
            "Hold": grpc.unary_unary_rpc_method_handler(self.hold),
        }
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Who", handlers),))
        self.write_files(self.authority.server(), self.authority)

    async def who(self, _: bytes, context: grpc.aio.ServicerContext) -> bytes:
        caller = self.private.caller(context.peer())
        return b"nobody" if caller is None else str(caller.principal).encode()

    async def echo(self, data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return data

    async def hold(self, _: bytes, context: grpc.aio.ServicerContext) -> bytes:
        caller = self.private.caller(context.peer())
        assert caller is not None
        caller.hold_back(0.3)
        return b"held"

    def write_files(self, server: Issued, bundle: Authority) -> None:
        server.write(self.directory, "server")
        put(self.directory / "ca.pem", bundle.pem)

    async def start(
        self,
        identify: Callable[[x509.Certificate], object] = by_spiffe_id("example.org"),  # noqa: B008
        limits: Limits = Limits(),  # noqa: B008
        *,
        plaintext: bool = False,
    ) -> None:
        self.private.bind(self.server.add_insecure_port)
        await self.server.start()
        paths = (self.directory / name for name in ("server.pem", "server.key", "ca.pem"))
        tls = None if plaintext else Tls(FileCredentials("test", *paths, monotonic=lambda: self.monotonic), identify)
        self.listener = TcpListener("test", self.private.connect, tls, self.quota, limits)
        self.listener.bind("127.0.0.1", 0)
        self.listener.start()

    async def stop(self) -> None:
        await self.listener.stop_accepting()
        await self.server.stop(0)
        await self.listener.close()
        self.private.close()

    def connect(self, issued: Issued | None, *, trusts: Authority | None = None, alpn: str = "h2") -> ssl.SSLSocket:
        """Return a connection in TLS. Blocks: for threads."""
        context = client_context(issued, trusts or self.authority, self.directory, alpn=alpn)
        plain = socket.create_connection(("127.0.0.1", self.listener.port), timeout=10)
        try:
            return context.wrap_socket(plain, server_hostname="localhost")
        except BaseException:
            plain.close()
            raise

    def ask(self, issued: Issued | None, **options: Any) -> str:
        """Connect, and return who the server says that one is. Blocks."""
        with self.connect(issued, **options) as connected:
            answer = RawChannel(connected).call("/test.Who/Who")
            assert answer is not None
            return answer.decode()

    async def asked(self, issued: Issued | None, **options: Any) -> str:
        return await asyncio.to_thread(self.ask, issued, **options)

    async def refused(self, issued: Issued | None, **options: Any) -> str:
        """Connect in vain, and return why the log says so."""
        with structlog.testing.capture_logs() as logs:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await self.asked(issued, **options)
            await until(lambda: any(log["event"] == "connections refused" for log in logs))
        (reason,) = next(log["reasons"] for log in logs if log["event"] == "connections refused")
        return str(reason)

    def channel(self, issued: Issued, authority: Authority | None = None) -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials((authority or self.authority).pem, issued.key_pem, issued.chain)
        return grpc.aio.secure_channel(f"localhost:{self.listener.port}", credentials)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    if hasattr(world, "listener"):
        await world.stop()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_caller_with_an_svid(world: World) -> None:
    await world.start()
    assert await world.asked(world.authority.issue(uri(AGENT))) == AGENT
    assert world.listener.connections <= 1
    await until(lambda: world.listener.connections == 0)
    assert world.private._callers == {}


async def test_a_caller_with_dns_names(world: World) -> None:
    await world.start(by_dns_names)
    assert await world.asked(world.authority.issue(dns("Agent-7.Example.ORG"), dns("other.example"))) == "dns:agent-7.example.org"


async def test_grpc_itself_as_the_client(world: World) -> None:
    await world.start()
    async with world.channel(world.authority.issue(uri(AGENT))) as channel:
        assert await channel.unary_unary("/test.Who/Who")(b"") == AGENT.encode()
        large = bytes(3_000_000)  # more than every buffer on the way
        assert await channel.unary_unary("/test.Who/Echo")(large[:3_000_000]) == large


async def test_calls_in_parallel_and_large_answers_arrive_whole(world: World) -> None:
    await world.start()
    async with world.channel(world.authority.issue(uri(AGENT))) as channel:
        echo = channel.unary_unary("/test.Who/Echo")
        sent = [bytes([number]) * (number * 7919 + 1) for number in range(100)]
        assert await asyncio.gather(*(echo(data) for data in sent)) == sent


async def test_an_intermediate_is_sent_by_the_client(world: World) -> None:
    await world.start()
    issued = Authority("intermediate", world.authority).issue(uri(AGENT))
    assert await world.asked(issued) == AGENT
    without = Issued(issued.certificate, issued.key)
    assert await world.refused(without) == "the certificate is not trusted: unable to get local issuer certificate"


async def test_an_intermediate_alone_can_be_the_bundle(world: World) -> None:
    intermediate = Authority("intermediate", world.authority)
    world.write_files(world.authority.server(), intermediate)
    await world.start()
    assert await world.asked(intermediate.issue(uri(AGENT))) == AGENT
    assert "not trusted" in await world.refused(world.authority.issue(uri(AGENT)))


async def test_no_certificate(world: World) -> None:
    await world.start()
    assert await world.refused(None) == "peer did not return a certificate"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"begins": -2 * DAY, "ends": -HOUR}, "the certificate is not trusted: certificate has expired"),
        ({"begins": HOUR, "ends": 2 * HOUR}, "the certificate is not trusted: certificate is not yet valid"),
        ({"ca": True}, "the certificate is an authority's, not a caller's"),
        ({"key_usage": None}, "the certificate does not say what its key is for (keyUsage)"),
        (
            {"key_usage": usage("digital_signature", "key_cert_sign")},
            "the certificate's key is not for signatures alone (keyUsage)",
        ),
        ({"key_usage": usage("digital_signature", "crl_sign")}, "the certificate's key is not for signatures alone (keyUsage)"),
        ({"key_usage": usage("key_encipherment")}, "the certificate is not trusted: unsuitable certificate purpose"),
        ({"extended": (SERVER,)}, "the certificate is not trusted: unsuitable certificate purpose"),
    ],
    ids=["expired", "early", "ca", "no usage", "cert sign", "crl sign", "no signature", "server"],
)
async def test_a_leaf_that_is_not_one_for_callers(world: World, changes: dict[str, object], reason: str) -> None:
    await world.start()
    assert await world.refused(world.authority.issue(uri(AGENT), **changes)) == reason


@pytest.mark.parametrize("changes", [{"ca": None}, {"extended": None}, {"extended": (CLIENT, SERVER)}], ids=str)
async def test_what_a_leaf_may_lack_or_have(world: World, changes: dict[str, object]) -> None:
    await world.start()
    assert await world.asked(world.authority.issue(uri(AGENT), **changes)) == AGENT


@pytest.mark.parametrize(
    ("name", "reason"), [("another", "unable to get local issuer certificate"), ("root", "certificate signature failure")]
)
async def test_an_authority_that_is_not_trusted(world: World, name: str, reason: str) -> None:
    await world.start()
    assert await world.refused(Authority(name).issue(uri(AGENT))) == f"the certificate is not trusted: {reason}"


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([], "the certificate has 0 URI names and an X509-SVID has exactly one"),
        ([dns("agent.example.org")], "the certificate has 0 URI names and an X509-SVID has exactly one"),
        ([uri(AGENT), uri(AGENT)], "the certificate has 2 URI names and an X509-SVID has exactly one"),
        ([uri("spiffe://other.example/agent")], "of the trust domain other.example, and this listener takes example.org"),
        ([uri("spiffe://example.org")], "the URI name is not the SPIFFE ID of a workload"),
        ([uri("https://example.org/agent")], "the URI name is not the SPIFFE ID of a workload"),
        ([uri("spiffe://Example.org/agent")], "the URI name is not the SPIFFE ID of a workload"),
        ([uri("SPIFFE://example.org/agent")], "the URI name is not the SPIFFE ID of a workload"),
        ([uri("spiffe://example.org/a/../agent")], "the URI name is not the SPIFFE ID of a workload"),
        ([uri("spiffe://example.org/agent?x=1")], "the URI name is not the SPIFFE ID of a workload"),
        ([uri("spiffe://example.org/agent\n")], "the URI name is not the SPIFFE ID of a workload"),
        ([uri("spiffe://example.org/" + 2048 * "a")], "the URI name is not the SPIFFE ID of a workload"),
    ],
    ids=lambda value: None,
)
async def test_names_that_are_no_svid(world: World, names: list[x509.GeneralName], reason: str) -> None:
    await world.start()
    assert reason in await world.refused(world.authority.issue(*names))


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([], "the certificate has no DNS name"),
        ([uri(AGENT), dns("agent.example.org")], "the certificate is an X509-SVID, and this listener has no trust_domain"),
        ([uri("Spiffe:x"), dns("agent.example.org")], "the certificate is an X509-SVID, and this listener has no trust_domain"),
        ([uri("a:b"), uri("a:c"), dns("agent.example.org")], "the certificate has several URI names"),
        ([dns("*.example.org")], "the certificate has a wildcard for a DNS name, which names nobody"),
        ([dns("agent.example.org"), dns("*.example.org")], "the certificate has a wildcard for a DNS name, which names nobody"),
        ([dns("agent example.org")], "the certificate has something that is no DNS name for one, or too many"),
        ([dns("agent.example.org.")], "the certificate has something that is no DNS name for one, or too many"),
        ([dns("10.0.0.1")], "the certificate has something that is no DNS name for one, or too many"),
        ([dns(f"a{number}.example") for number in range(65)], "something that is no DNS name for one, or too many"),
    ],
    ids=lambda value: None,
)
async def test_names_that_are_no_dns_names(world: World, names: list[x509.GeneralName], reason: str) -> None:
    await world.start(by_dns_names)
    assert reason in await world.refused(world.authority.issue(*names))


async def test_a_uri_that_is_no_spiffe_id_does_not_matter_beside_dns_names(world: World) -> None:
    await world.start(by_dns_names)
    names = [uri("https://example.org/"), *(dns(f"a{number}.example") for number in range(64))]
    assert await world.asked(world.authority.issue(*names)) == "dns:a0.example"


async def test_tls_1_2_is_refused(world: World) -> None:
    await world.start()
    issued = world.authority.issue(uri(AGENT))

    def ask() -> str | None:
        context = client_context(issued, world.authority, world.directory)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with socket.create_connection(("127.0.0.1", world.listener.port), timeout=10) as plain:
            return context.wrap_socket(plain, server_hostname="localhost").version()

    with structlog.testing.capture_logs() as logs:
        with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
            await asyncio.to_thread(ask)
        await until(lambda: len(logs) > 0)
    assert list(logs[0]["reasons"]) == ["unsupported protocol"]


async def test_another_protocol_than_http2_is_refused(world: World) -> None:
    await world.start()
    issued = world.authority.issue(uri(AGENT))
    assert await world.refused(issued, alpn="http/1.1") == "the caller does not offer HTTP/2 (ALPN h2)"


async def test_sessions_are_not_resumed(world: World) -> None:
    """The second handshake would not look at the certificate."""
    await world.start()

    def connect() -> tuple[bool, bool]:
        with world.connect(world.authority.issue(uri(AGENT))) as connected:
            assert RawChannel(connected).call("/test.Who/Who")
            assert connected.session is not None
            return connected.session.has_ticket, bool(connected.session_reused)

    assert await asyncio.to_thread(connect) == (False, False)


async def test_plaintext_to_a_tls_port(world: World) -> None:
    await world.start()
    with structlog.testing.capture_logs() as logs:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{world.listener.port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/test.Who/Who")(b"", timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await until(lambda: len(logs) > 0)
    assert "http" in next(iter(logs[0]["reasons"])) or "version" in next(iter(logs[0]["reasons"]))


async def test_plaintext_on_loopback_is_nobody_in_particular(world: World) -> None:
    with structlog.testing.capture_logs() as logs:
        await world.start(plaintext=True)
    assert logs[0]["log_level"] == "warning"
    assert "every process on this machine" in logs[0]["event"]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{world.listener.port}") as channel:
        assert await channel.unary_unary("/test.Who/Who")(b"") == b"loopback"


class TestLimits:
    async def test_who_stalls_in_the_handshake_is_dropped(self, world: World) -> None:
        await world.start(limits=Limits(handshake_timeout=0.2))
        with structlog.testing.capture_logs() as logs:
            silent = socket.create_connection(("127.0.0.1", world.listener.port), timeout=10)
            slow = socket.create_connection(("127.0.0.1", world.listener.port), timeout=10)
            slow.sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
            assert await asyncio.to_thread(silent.recv, 1) == b""
            with contextlib.suppress(ConnectionResetError):  # it had sent what nobody read
                assert await asyncio.to_thread(slow.recv, 1) == b""
            world.listener._refusals.report()
        assert sum(log["count"] for log in logs) == 2
        assert {reason for log in logs for reason in log["reasons"]} == {"the handshake took too long"}
        silent.close()
        slow.close()

    async def test_one_address_does_not_take_every_turn(self, world: World) -> None:
        await world.start(limits=Limits(max_handshakes=4))
        stalled = [socket.create_connection(("127.0.0.1", world.listener.port), timeout=10) for _ in range(3)]
        await until(lambda: len(world.listener._handshaking) == 3)
        waiting = asyncio.create_task(world.asked(world.authority.issue(uri(AGENT))))
        assert await asyncio.to_thread(self.from_elsewhere, world) == AGENT
        assert not waiting.done()
        for each in stalled:
            each.close()
        assert await waiting == AGENT

    async def test_many_who_connect_at_once_do_not_stop_the_others(self, world: World) -> None:
        """They wait in the kernel, which costs nothing."""
        await world.start()
        crowd = [socket.create_connection(("127.0.0.1", world.listener.port), timeout=10) for _ in range(50)]
        for _ in range(4):
            await asyncio.sleep(0)
        assert 1 <= len(world.listener._handshaking) < 5
        await until(lambda: len(world.listener._handshaking) == 50)
        for each in crowd:
            each.close()

    async def test_few_of_one_address_wait(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(handshakes, "_MAX_WAITING", 3)
        await world.start(limits=Limits(max_handshakes=4))
        with structlog.testing.capture_logs() as logs:
            stalled = [socket.create_connection(("127.0.0.1", world.listener.port), timeout=10) for _ in range(4)]
            assert await asyncio.to_thread(stalled[3].recv, 1) == b""
        assert logs[0]["reasons"] == {"too many handshakes from one address": 1}
        for each in stalled:
            each.close()

    async def test_who_waits_too_long_is_dropped(self, world: World) -> None:
        await world.start(limits=Limits(max_handshakes=2, handshake_timeout=0.3))
        stalled = socket.create_connection(("127.0.0.1", world.listener.port), timeout=10)
        await until(lambda: len(world.listener._handshaking) == 1)
        with structlog.testing.capture_logs() as logs:
            second = socket.create_connection(("127.0.0.1", world.listener.port), timeout=10)
            assert await asyncio.to_thread(second.recv, 1) == b""
            world.listener._refusals.report()
        reasons = {reason for log in logs for reason in log["reasons"]}
        assert reasons == {"the handshake took too long", "too many handshakes from one address"}
        stalled.close()
        second.close()
        await until(lambda: not world.listener._turns._of)  # nothing is kept of who has gone

    async def test_handshakes_in_a_second_are_bounded(self, world: World) -> None:
        await world.start(limits=Limits(max_handshakes=2))
        issued = world.authority.issue(uri(AGENT))
        began = time.monotonic()
        for _ in range(4):
            assert await world.asked(issued) == AGENT
        assert time.monotonic() - began >= 3 * 0.1

    async def test_handshakes_have_a_quarter_of_a_processor(self) -> None:
        """Whatever keys the certificates have: with RSA of 4096 bits, one takes as long as twenty."""

        class Slow:
            def do_handshake(self) -> None:
                began = time.thread_time()
                while time.thread_time() - began < 0.02:
                    pass

        with ThreadPoolExecutor(1) as executor:
            began = time.monotonic()
            for _ in range(3):
                assert await handshakes._step(Slow(), executor)  # type: ignore[arg-type]
            assert time.monotonic() - began >= 3 * 4 * 0.02

    @pytest.mark.parametrize(
        ("one", "other", "same"),
        [
            ("192.0.2.1", "192.0.2.1", True),
            ("192.0.2.1", "192.0.2.2", False),
            ("2001:db8::1", "2001:db8::ffff:2", True),
            ("2001:db8::1", "2001:db8:0:1::1", False),
            ("fe80::1%eth0", "fe80::2%eth0", True),
            ("what", "else", False),
        ],
    )
    def test_one_party_has_one_network(self, one: str, other: str, same: bool) -> None:
        assert (handshakes.network_of(one) == handshakes.network_of(other)) is same

    def from_elsewhere(self, world: World) -> str:
        context = client_context(world.authority.issue(uri(AGENT)), world.authority, world.directory)
        plain = socket.create_connection(("127.0.0.1", world.listener.port), timeout=10, source_address=("127.0.0.2", 0))
        with context.wrap_socket(plain, server_hostname="localhost") as connected:
            return str(RawChannel(connected).call("/test.Who/Who"), "ascii")  # type: ignore[arg-type]

    async def test_one_caller_does_not_take_every_connection(self, world: World) -> None:
        world.quota = Quota(2, 1)
        await world.start()
        first = await asyncio.to_thread(world.connect, world.authority.issue(uri(AGENT)))
        await until(lambda: world.listener.connections == 1)
        assert await world.refused(world.authority.issue(uri(AGENT))) == "too many connections; see [connections]"
        assert await world.asked(world.authority.issue(uri(AGENT + "2"))) == AGENT + "2"
        await until(lambda: world.listener.connections == 1)
        second = await asyncio.to_thread(world.connect, world.authority.issue(uri(AGENT + "2")))
        await until(lambda: world.listener.connections == 2)
        assert await world.refused(world.authority.issue(uri(AGENT + "3"))) == "too many connections; see [connections]"
        first.close()
        second.close()
        await until(lambda: world.listener.connections == 0)
        assert await world.asked(world.authority.issue(uri(AGENT))) == AGENT

    async def test_refusals_are_reported_once_a_second(self, world: World) -> None:
        await world.start()
        with structlog.testing.capture_logs() as logs:
            for _ in range(5):
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    await world.asked(None)
            await until(lambda: sum(log["count"] for log in logs) == 5)
        assert [log["count"] for log in logs] == [1, 4]
        assert logs[1]["last_address"] == "127.0.0.1"

    async def test_a_connection_ends_with_its_certificate(self, world: World) -> None:
        await world.start()
        issued = world.authority.issue(uri(AGENT), ends=dt.timedelta(seconds=2))

        def last() -> float:
            with world.connect(issued) as connected:
                assert RawChannel(connected).call("/test.Who/Who") == AGENT.encode()
                while connected.recv(65536):  # grpc's settings, then the end
                    pass
                return time.time()

        ended = await asyncio.to_thread(last)
        assert -1 < ended - issued.certificate.not_valid_after_utc.timestamp() < 1

    async def test_who_is_held_back_waits(self, world: World) -> None:
        await world.start()
        async with world.channel(world.authority.issue(uri(AGENT))) as channel:
            assert await channel.unary_unary("/test.Who/Who")(b"") == AGENT.encode()
            assert await channel.unary_unary("/test.Who/Hold")(b"") == b"held"
            began = time.monotonic()
            assert await channel.unary_unary("/test.Who/Who")(b"") == AGENT.encode()
            assert time.monotonic() - began >= 0.25
            began = time.monotonic()
            assert await channel.unary_unary("/test.Who/Who")(b"") == AGENT.encode()
            assert time.monotonic() - began < 0.25

    async def test_nothing_stays_open(self, world: World) -> None:
        await world.start()
        await world.asked(world.authority.issue(uri(AGENT)))
        await until(lambda: world.listener.connections == 0)
        before = open_files()
        for issued in (world.authority.issue(uri(AGENT)), None, world.authority.issue()):
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                await world.asked(issued)
        await until(lambda: world.listener.connections == 0 and not world.listener._handshaking)
        assert open_files() == before


class TestReload:
    async def test_new_files_count_for_new_connections(self, world: World) -> None:
        await world.start()
        old, new = world.authority, Authority("new")
        async with world.channel(old.issue(uri(AGENT))) as channel:
            assert await channel.unary_unary("/test.Who/Who")(b"") == AGENT.encode()
            world.write_files(new.server(), new)
            world.monotonic += 0.9
            assert await world.asked(old.issue(uri(AGENT))) == AGENT, "files are looked at once a second"
            world.monotonic += 0.1
            assert "not trusted" in await world.refused(old.issue(uri(AGENT)), trusts=new)
            assert await world.asked(new.issue(uri(AGENT)), trusts=new) == AGENT
            assert await channel.unary_unary("/test.Who/Who")(b"") == AGENT.encode()

    async def test_a_reload_looks_at_once(self, world: World) -> None:
        await world.start()
        new = Authority("new")
        world.write_files(new.server(), new)
        world.listener.refresh()
        assert await world.asked(new.issue(uri(AGENT)), trusts=new) == AGENT

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda w: put(w.directory / "server.key", w.authority.server().key_pem), "the private key is not the certificate's"),
            (lambda w: put(w.directory / "server.pem", b"nothing"), "the certificate is not PEM, or is empty"),
            (lambda w: put(w.directory / "server.key", b"nothing"), "the private key is not PEM"),
            (
                lambda w: (put(w.directory / "server.pem", ODD_CERTIFICATE), put(w.directory / "server.key", ODD_KEY)),
                "of a kind that",
            ),
            (lambda w: put(w.directory / "ca.pem", b""), "the trust bundle is not PEM, or is empty"),
            (
                lambda w: put(w.directory / "ca.pem", w.authority.issue(uri(AGENT)).chain),
                "certificate 1 of the trust bundle is not",
            ),
            (lambda w: (w.directory / "ca.pem").unlink(), "No such file or directory"),
            (lambda w: (w.directory / "server.key").chmod(0o440), "is open to other users"),
            (lambda w: (w.directory / "ca.pem").chmod(0o664), "is open to other users"),
            (
                lambda w: w.authority.server(begins=-2 * DAY, ends=-DAY).write(w.directory, "server"),
                "the certificate has expired at 20",
            ),
        ],
        ids=["key", "certificate", "no key", "odd curve", "empty", "leaf", "absent", "key mode", "bundle mode", "expired"],
    )
    async def test_what_is_broken_leaves_what_was(self, world: World, change: Callable[[World], object], reason: str) -> None:
        await world.start()
        change(world)
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                world.monotonic += 1
                assert await world.asked(world.authority.issue(uri(AGENT))) == AGENT
        (log,) = logs
        assert log["event"] == "credentials not taken over, the old ones stay"
        assert reason in log["error"]
        world.write_files(world.authority.server(), world.authority)
        with structlog.testing.capture_logs() as logs:
            world.monotonic += 1
            assert await world.asked(world.authority.issue(uri(AGENT))) == AGENT
        assert [log["event"] for log in logs] == ["certificate taken over"]

    async def test_what_nobody_thought_of_closes_the_connection(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        await world.start()
        before = open_files()

        def broken(_: object) -> None:
            raise RuntimeError("unthought of")

        monkeypatch.setattr(FileCredentials, "context", broken)
        with structlog.testing.capture_logs() as logs:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await world.asked(None)
            await until(lambda: not world.listener._handshaking)
        assert [log["event"] for log in logs] == ["connection refused, unexpectedly"]
        assert open_files() == before

    async def test_what_was_wrong_with_a_file_can_be_put_right(self, world: World) -> None:
        """Nothing about the file itself is new then."""
        await world.start()
        new = Authority("new")
        world.write_files(new.server(), new)
        other = world.directory / "other"
        other.hardlink_to(world.directory / "server.key")
        with structlog.testing.capture_logs() as logs:
            world.listener.refresh()
            other.unlink()
            world.listener.refresh()
        assert [log["event"] for log in logs] == ["credentials not taken over, the old ones stay", "certificate taken over"]

    @pytest.mark.parametrize(
        ("owner", "mode", "daemon", "taken"),
        [
            (0, 0o440, 1000, True),
            (0, 0o640, 1000, True),
            (0, 0o660, 1000, False),
            (0, 0o444, 1000, False),
            (0, 0o440, 0, False),
            (1000, 0o440, 1000, False),
            (1000, 0o400, 1000, True),
        ],
    )
    @pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
    def test_a_group_may_read_the_key_if_it_is_roots(
        self, world: World, monkeypatch: pytest.MonkeyPatch, owner: int, mode: int, daemon: int, taken: bool
    ) -> None:
        """As Kubernetes has it with fsGroup."""
        monkeypatch.setattr(os, "geteuid", lambda: daemon)
        key = world.directory / "server.key"
        os.chown(key, owner, 1000)
        key.chmod(mode)
        paths = (world.directory / name for name in ("server.pem", "server.key", "ca.pem"))
        with contextlib.nullcontext() if taken else pytest.raises(CredentialsError, match="is open to other users"):
            FileCredentials("test", *paths)

    async def test_files_may_be_links(self, world: World, tmp_path: Path) -> None:
        (tmp_path / "1").mkdir()
        for name in ("server.pem", "server.key", "ca.pem"):
            (tmp_path / name).rename(tmp_path / "1" / name)
            (tmp_path / name).symlink_to(tmp_path / "1" / name)
        await world.start()
        assert await world.asked(world.authority.issue(uri(AGENT))) == AGENT

    async def test_an_end_that_is_near_is_said_once_a_day(self, world: World) -> None:
        world.write_files(world.authority.server(begins=-20 * DAY, ends=8 * DAY), world.authority)
        now = time.time()
        paths = [world.directory / name for name in ("server.pem", "server.key", "ca.pem")]
        credentials = FileCredentials("test", *paths, clock=lambda: now)
        for day, event in [
            (0.9, []),
            (1.1, ["the certificate expires soon"]),
            (1.9, []),
            (2.2, ["the certificate expires soon"]),
            (8.1, ["the certificate has expired, clients refuse it"]),
        ]:
            now = time.time() + day * 86400
            with structlog.testing.capture_logs() as logs:
                credentials.refresh()
            assert [log["event"] for log in logs] == event
