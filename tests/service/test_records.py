"""TLS one record at a time, against a client whose bytes the test cuts and joins as it likes."""

from __future__ import annotations

import _ssl
import asyncio
import ctypes
import socket
import ssl
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pki import Authority, client_context, uri

from keyd.service.gate import handshakes, records
from keyd.service.gate.credentials import Material, server_context
from keyd.service.gate.handshakes import shake_hands
from keyd.service.gate.records import TlsSocket

_openssl = ctypes.CDLL(_ssl.__file__)  # with the library that it is linked to


class Client:
    """Turns what it is told into bytes, and bytes into what it was told."""

    def __init__(self, directory: Path) -> None:
        authority = Authority()
        server = authority.server()
        self.context, _ = server_context(Material(server.chain, server.key_pem, authority.pem), time.time())
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = client_context(authority.issue(uri("spiffe://example.org/agent")), authority, directory)
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.socket, self.other = socket.socketpair()
        for each in (self.socket, self.other):
            each.setblocking(False)
        self.executor = ThreadPoolExecutor(1)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def receive(self) -> None:
        self.incoming.write(await asyncio.get_running_loop().sock_recv(self.socket, 65536))

    async def hands(self, piece: int = 65536, behind: bytes = b"") -> TlsSocket:
        """Shake hands with the server; ``behind`` follows in the same packet."""
        shaking = asyncio.create_task(shake_hands(self.other, self.context, self.executor, 5))
        for complete in (False, True):
            if complete:
                await self.receive()
                self.tls.do_handshake()
                if behind:
                    self.tls.write(behind)
            else:
                with pytest.raises(ssl.SSLWantReadError):
                    self.tls.do_handshake()
            data = self.outgoing.read()
            for start in range(0, len(data), piece):
                await self.send(data[start : start + piece])
                await asyncio.sleep(0)
        return await shaking

    def key_update(self, *, answered: bool) -> bytes:
        pointer = ctypes.c_void_p.from_address(id(self.tls._sslobj) + 3 * ctypes.sizeof(ctypes.c_void_p)).value  # type: ignore[attr-defined]
        assert _openssl.SSL_key_update(ctypes.c_void_p(pointer), int(answered)) == 1
        assert _openssl.SSL_do_handshake(ctypes.c_void_p(pointer)) == 1
        return self.outgoing.read()

    def close(self) -> None:
        self.executor.shutdown()
        self.socket.close()
        self.other.close()


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    client = Client(tmp_path)
    yield client
    client.close()


def read(server: TlsSocket) -> bytes:
    buffer = memoryview(bytearray(65536))
    return bytes(buffer[: server.recv_into(buffer)])


async def test_what_comes_right_behind_the_handshake_is_not_lost(client: Client) -> None:
    server = await client.hands(behind=b"early")
    assert read(server) == b"early"
    with pytest.raises(BlockingIOError):
        read(server)


async def test_records_in_any_pieces(client: Client) -> None:
    server = await client.hands()
    sent = [bytes([number]) * (number * 300) for number in range(60)]
    for data in sent:
        client.tls.write(data)
    encrypted, received = client.outgoing.read(), b""
    for start in range(0, len(encrypted), 7919):
        await client.send(encrypted[start : start + 7919])
        try:
            received += read(server)
        except BlockingIOError:
            continue
    assert received == b"".join(sent)


async def test_key_updates_are_taken_and_answered(client: Client) -> None:
    server = await client.hands()
    for _ in range(3):
        client.tls.write(b"before")
        await client.send(client.outgoing.read() + client.key_update(answered=True))
        assert read(server) == b"before"
        assert server.send(b"answer") == 6
        await client.receive()
        assert client.tls.read() == b"answer"


@pytest.mark.parametrize("answered", [False, True])
async def test_who_sends_nothing_but_key_updates_is_lost(client: Client, answered: bool) -> None:
    """OpenSSL would read them for as long as there are more, and nobody else would be served meanwhile."""
    server = await client.hands()
    await client.send(b"".join(client.key_update(answered=answered) for _ in range(records._MAX_EMPTY)))
    with pytest.raises(BlockingIOError):
        read(server)
    client.tls.write(b"still here")
    await client.send(client.outgoing.read())
    assert read(server) == b"still here"
    await client.send(client.key_update(answered=answered))
    with pytest.raises(ConnectionAbortedError):
        read(server)


async def test_a_record_that_is_too_long(client: Client) -> None:
    server = await client.hands()
    await client.send(b"\x17\x03\x03\xff\xff")
    with pytest.raises(ConnectionAbortedError):
        read(server)


async def test_what_is_forged_is_an_error(client: Client) -> None:
    server = await client.hands()
    await client.send(b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(ssl.SSLError):
        read(server)


@pytest.mark.parametrize("goodbye", [False, True])
async def test_the_end_comes_after_what_was_sent(client: Client, goodbye: bool) -> None:
    server = await client.hands()
    client.tls.write(b"last")
    if goodbye:
        with pytest.raises(ssl.SSLWantReadError):
            client.tls.unwrap()
    await client.send(client.outgoing.read())
    client.socket.shutdown(socket.SHUT_WR)
    assert read(server) == b"last"
    assert read(server) == b""
    assert read(server) == b""


async def test_what_is_not_read_is_sent_later(client: Client) -> None:
    server = await client.hands()
    data = bytes(range(256)) * 8192
    sent, received, blocked = 0, b"", 0
    while len(received) < len(data):
        taken = server.send(data[sent : sent + 65536])
        sent += taken
        if taken < 65536:
            blocked += 1
            await client.receive()
            while True:
                try:
                    received += client.tls.read(1 << 20)
                except ssl.SSLWantReadError:
                    break
    assert received == data
    assert blocked > 1


async def test_a_handshake_byte_by_byte_is_not_a_step_for_each(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is a thread's; one address may have 16 handshakes at a time."""
    steps, step = 0, handshakes._step

    async def counted(*arguments: object) -> bool:
        nonlocal steps
        steps += 1
        return await step(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(handshakes, "_step", counted)
    server = await client.hands(piece=1, behind=b"x")
    assert read(server) == b"x"
    assert steps < 20
