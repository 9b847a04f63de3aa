"""The gate in front of a real server: what it passes on, what it bounds, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import threading

import grpc
import grpc.aio
import pytest
from gated import BIG, WHO, connected, gated, open_files
from raw_grpc import RawChannel
from support import FakeClock, until

from keyd.service.gate import relay, unix
from keyd.service.gate.limits import Arrivals, Complaints, Quota
from keyd.service.gate.peer import IdentificationError, identify
from keyd.service.gate.proof import MAX_HELD, PREFACE


def is_closed(client: socket.socket) -> bool:
    """Read to the end, however that comes."""
    with contextlib.suppress(ConnectionError):
        while client.recv(65536):
            pass
    return True


async def closed(client: socket.socket) -> bool:
    return await asyncio.to_thread(is_closed, client)


async def call(client: socket.socket, message: bytes = b"") -> bytes | None:
    return await asyncio.to_thread(RawChannel(client).call, WHO, message)


class TestRelaying:
    async def test_an_ordinary_client(self):
        async with gated() as gate, grpc.aio.insecure_channel(f"unix:{gate.socket}") as channel:
            await asyncio.gather(*(channel.unary_unary(WHO)(b"", timeout=10) for _ in range(50)))
            assert {(caller["pid"], caller["uid"]) for caller in gate.callers} == {(os.getpid(), os.geteuid())}

    async def test_much_at_one_time_in_both_directions(self):
        async with gated() as gate, grpc.aio.insecure_channel(f"unix:{gate.socket}") as channel:
            bodies = [os.urandom(1_000_000) for _ in range(8)]
            answers = await asyncio.gather(*(channel.unary_unary(BIG)(body, timeout=20) for body in bodies))
            assert answers == [body[::-1] for body in bodies]

    async def test_a_client_that_does_not_read_is_not_read_from(self):
        """No more is in hand than one chunk each way; the rest waits in the client."""
        async with gated() as gate:
            with connected(gate.socket) as client:
                channel = RawChannel(client)
                assert await asyncio.to_thread(channel.call, WHO) is not None
                ping = b"\0\0\x08\x06\0\0\0\0\0" + b"pingpong"
                client.setblocking(False)
                sent, deadline = 0, asyncio.get_running_loop().time() + 10
                with contextlib.suppress(ConnectionError):  # or the server has enough of it
                    while asyncio.get_running_loop().time() < deadline:
                        try:
                            sent += client.send(ping * 1000)
                        except BlockingIOError:
                            await asyncio.sleep(0.01)
                            if sent == (sent := sent):
                                break
                found = next(iter(gate.gate._relays), None)
                assert found is None or len(found._to_client) <= 65536

    async def test_a_client_that_never_reads_is_closed(self, monkeypatch):
        monkeypatch.setattr(relay, "_STALLED", 0.2)
        async with gated() as gate, grpc.aio.insecure_channel(f"unix:{gate.socket}") as other:
            with connected(gate.socket) as client:
                assert await call(client) is not None
                stuck = next(iter(gate.gate._relays))
                stuck._send_to_client(bytes(4_000_000))  # more than the kernel takes
                await until(lambda: not stuck.open)
            assert await other.unary_unary(WHO)(b"", timeout=10)

    async def test_a_client_that_reads_slowly_is_not(self, monkeypatch):
        monkeypatch.setattr(relay, "_STALLED", 0.5)
        async with gated() as gate:
            with connected(gate.socket) as client:
                assert await call(client) is not None
                slow, size = next(iter(gate.gate._relays)), 2_000_000
                slow._send_to_client(bytes(size))
                client.setblocking(False)
                while size > 0:
                    with contextlib.suppress(BlockingIOError):
                        size -= len(client.recv(100_000))
                    await asyncio.sleep(0.05)
                assert slow.open

    async def test_a_client_that_has_said_all_still_gets_its_answer(self):
        async with gated() as gate:
            with connected(gate.socket) as client:
                channel = RawChannel(client)
                assert await asyncio.to_thread(channel.call, WHO) is not None
                await asyncio.to_thread(client.shutdown, socket.SHUT_WR)
                assert await closed(client)
            await until(lambda: not gate.gate._relays)

    async def test_nothing_is_left_of_connections_that_ended(self):
        async with gated() as gate:
            with connected(gate.socket) as client:
                await call(client)
            await until(lambda: not gate.gate._relays)
            before = open_files()
            for _ in range(20):
                with connected(gate.socket) as client:
                    await call(client)
            await until(lambda: not gate.gate._relays and open_files() <= before)
            assert gate.private._callers == {}
            assert gate.quota._by_account == {}


class TestHoldingBack:
    async def test_the_caller_waits_at_its_own_end(self):
        async with gated() as gate:
            with connected(gate.socket) as client:
                loop = asyncio.get_running_loop()
                channel = RawChannel(client)
                assert await asyncio.to_thread(channel.call, WHO, b"hold0.3") is not None
                start = loop.time()
                gate.kept[0].hold_back(0.1)  # shorter than what runs: it changes nothing
                assert await asyncio.to_thread(channel.call, WHO) is not None
                assert 0.25 < loop.time() - start < 5

    async def test_others_do_not_wait(self):
        async with gated() as gate:
            with connected(gate.socket) as held, connected(gate.socket) as other:
                await call(held, b"hold30")
                await call(other)
                assert len(gate.callers) == 2

    async def test_of_a_connection_that_has_gone(self):
        async with gated() as gate:
            with connected(gate.socket) as client:
                await call(client, b"hold30")
            with connected(gate.socket) as client:
                await call(client)
            await until(lambda: len(gate.gate._relays) == 1)
            gate.kept[1].hold_back(1)

    async def test_what_who_has_gone_meanwhile_still_asked_is_not_passed_on(self):
        async with gated() as gate:
            with connected(gate.socket) as client:
                channel = RawChannel(client)
                await asyncio.to_thread(channel.call, WHO)
                (relay,) = gate.gate._relays
                relay.hold_back(0.1)
                channel.send(WHO)
                passed_on = []
                relay._send_to_server = passed_on.append
            await until(lambda: not gate.gate._relays)
            assert not passed_on


class TestLimits:
    @pytest.mark.parametrize(("quota", "said"), [(Quota(2, 100), "max"), (Quota(100, 2), "max_per_caller")])
    async def test_connections(self, quota, said):
        async with gated(quota=quota) as gate:
            with connected(gate.socket) as first, connected(gate.socket) as second, connected(gate.socket) as third:
                assert await call(first)
                assert await call(second)
                assert await closed(third)
                assert quota.refused == 1
                first.close()
                await until(lambda: len(gate.gate._relays) == 1)
                with connected(gate.socket) as fourth:
                    assert await call(fourth)

    async def test_who_resets_too_many_calls_is_closed(self):
        resets = b"\0\0\4\3\0\0\0\0\1\0\0\0\x08" * 300  # of a call that is over
        async with gated() as gate:
            with connected(gate.socket) as client, connected(gate.socket) as other:
                channel = RawChannel(client)
                assert await asyncio.to_thread(channel.call, WHO)
                client.sendall(resets)
                assert await asyncio.to_thread(channel.call, WHO)
                client.sendall(resets)
                assert await closed(client)
                assert await call(other)

    @pytest.mark.parametrize("says", [b"", PREFACE, PREFACE[:5], PREFACE + b"\0\0\0\4\0\0\0\0\0"])
    async def test_who_does_not_speak_is_closed(self, says):
        async with gated(handshake_timeout=0.2) as gate:
            with connected(gate.socket) as client:
                client.sendall(says)
                assert await closed(client)
                await until(lambda: gate.quota._count == 0)

    async def test_who_drips_is_closed(self):
        async with gated(handshake_timeout=0.2) as gate:
            with connected(gate.socket) as client, contextlib.suppress(ConnectionError):
                for byte in PREFACE * 50:
                    client.sendall(bytes([byte]))
                    await asyncio.sleep(0.01)
                pytest.fail("the connection is still open")

    @pytest.mark.parametrize("says", [b"GET / HTTP/1.1\r\n\r\n", PREFACE + b"\xff\xff\xff\0\0\0\0\0\0" + bytes(MAX_HELD)])
    async def test_who_speaks_something_else_is_closed_at_once(self, says):
        async with gated(handshake_timeout=60) as gate:
            with connected(gate.socket) as client:
                with contextlib.suppress(ConnectionError):
                    await asyncio.to_thread(client.sendall, says)
                assert await closed(client)

    async def test_identification_that_hangs_costs_its_own_account_only(self, monkeypatch):
        """As with a program on a file system that does not answer."""
        release, hanging = threading.Event(), []

        def hangs(client: socket.socket):
            hanging.append(client)
            release.wait(20)
            raise IdentificationError("late")

        async with gated(handshake_timeout=0.3, identify=hangs) as gate:
            clients = [connected(gate.socket) for _ in range(10)]
            assert all(await asyncio.gather(*map(closed, clients)))
            assert len(hanging) == unix._THREADS_PER_ACCOUNT
            release.set()
            for client in clients:
                client.close()
            await until(lambda: gate.quota._count == 0)

    async def test_who_has_gone_before_it_is_let_in_takes_nobodys_turn(self):
        looked = []

        def looking(client: socket.socket):
            looked.append(client)
            return identify(client)

        async with gated(accept=False, quota=Quota(2, 2), identify=looking) as gate:
            for says in (b"", PREFACE):
                for _ in range(2 * Arrivals.AT_ONCE):
                    with connected(gate.socket) as client:
                        client.sendall(says)
            with connected(gate.socket) as client:
                gate.accept()
                assert await call(client)
            assert (len(looked), gate.quota.refused) == (1, 0)

    async def test_who_says_nothing_more_is_let_in(self):
        async with gated(accept=False) as gate:
            with connected(gate.socket) as client:
                client.shutdown(socket.SHUT_WR)
                gate.accept()
                assert await closed(client)
            assert gate.gate._arriving._next.keys() == {f"uid:{os.geteuid()}"}

    async def test_no_descriptors_left(self, monkeypatch):
        async with gated(accept=False) as gate:
            real, failures = gate.gate._listener, [OSError(errno.EMFILE, "no")] * 2

            class Listener:
                def accept(self):
                    if failures:
                        raise failures.pop()
                    return real.accept()

                def __getattr__(self, name):
                    return getattr(real, name)

            gate.gate._listener = Listener()
            monkeypatch.setattr(unix, "_PAUSE", 0.02)
            gate.accept()
            with connected(gate.socket) as client:
                assert await call(client)
            assert not failures
            assert gate.gate._complain._unsaid == {"no connection can be accepted": 1}


class TestEnding:
    async def test_a_call_under_way_is_finished_and_no_new_connection_is_taken(self):
        async with gated() as gate:
            started, release = asyncio.Event(), asyncio.Event()
            answered = gate.who

            async def slow(request, context):
                started.set()
                await release.wait()
                return await answered(request, context)

            handler = grpc.unary_unary_rpc_method_handler(slow)
            gate.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Slow", {"Who": handler}),))
            with connected(gate.socket) as client, connected(gate.socket) as silent:
                channel = RawChannel(client)
                assert await asyncio.to_thread(channel.call, WHO)
                channel.send("/test.Slow/Who")
                await started.wait()
                await until(lambda: len(gate.gate._arrivals) == 1)  # the silent one
                gate.gate.stop()
                assert await closed(silent)
                with pytest.raises(ConnectionRefusedError):
                    connected(gate.socket)
                stopping = asyncio.create_task(gate.server.stop(5))
                await asyncio.sleep(0)
                release.set()
                with contextlib.suppress(ConnectionError):  # GOAWAY
                    await asyncio.to_thread(channel.receive)
                await stopping
                assert len(gate.callers) == 2

    async def test_closing_closes_what_is_still_open(self):
        async with gated() as gate:
            client = connected(gate.socket)
            await call(client)
        assert is_closed(client)
        client.close()


def test_a_quota_keeps_nothing_of_who_has_gone():
    quota = Quota(2, 1)
    assert [quota.enter("a"), quota.enter("a"), quota.enter("b"), quota.enter("c")] == [True, False, True, False]
    quota.leave("a")
    quota.leave("b")
    assert (quota._by_account, quota._count, quota.refused) == ({}, 0, 2)


def test_the_log_hears_once_a_second():
    now = [0.0]
    complain = Complaints(lambda: now[0])
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "keyd.service.gate.limits._log.warning", lambda event, **fields: said.append((event, fields)), raising=False
        )
        for _ in range(3):
            complain("a", reason="x")
        complain("b")
        now[0] = 1.5
        complain("a", reason="y")
        complain("a", reason="z")
    assert said == [("a", {"reason": "x"}), ("b", {}), ("a", {"reason": "y", "more": 2})]


class TestArrivals:
    def test_a_burst_and_then_so_many_a_second_each_in_its_turn(self):
        clock = FakeClock(1000.0)
        arrivals = Arrivals(clock.now)
        assert [arrivals.wait("a") for _ in range(Arrivals.AT_ONCE + 1)] == [0.0] * (Arrivals.AT_ONCE + 1)
        assert [arrivals.wait("a") for _ in range(3)] == pytest.approx([k / Arrivals.PER_SECOND for k in (1, 2, 3)])
        assert arrivals.wait("b") == 0.0
        clock.advance(3600)
        assert arrivals.wait("a") == 0.0

    def test_what_is_remembered_is_bounded(self, monkeypatch):
        monkeypatch.setattr("keyd.service.gate.limits._MAX_ACCOUNTS", 10)
        arrivals = Arrivals(FakeClock(1000.0).now)
        for number in range(100):
            arrivals.wait(str(number))
        assert len(arrivals._next) == 10
