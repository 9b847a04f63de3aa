"""A unary gRPC call over a socket that is connected already, with nothing but the standard library.

For programs of the tests that do with their sockets what no gRPC client does: pass them on, inherit them, exec.
"""

from __future__ import annotations

import socket
import struct

_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """A header field that is never indexed, without Huffman coding (RFC 7541 section 6.2.3)."""
    assert len(name) < 127
    assert len(value) < 127
    return b"\x10" + bytes([len(name)]) + name + bytes([len(value)]) + value


class RawChannel:
    """One HTTP/2 connection."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self._stream = -1
        self._received = b""
        self.more_headers: list[tuple[bytes, bytes]] = []
        self.kind = b"application/grpc"
        self.settings = b""

    def greet(self) -> None:
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, self.settings))

    def send(self, path: str, message: bytes = b"", *, finish: bool = True) -> None:
        """Begin a call; without ``finish``, its message never comes."""
        if self._stream < 0:
            self.greet()
        self._stream += 2
        headers = b"".join(
            _literal(name, value)
            for name, value in [
                (b":method", b"POST"),
                (b":scheme", b"http"),
                (b":path", path.encode()),
                (b":authority", b"localhost"),
                (b"content-type", self.kind),
                (b"te", b"trailers"),
                *self.more_headers,
            ]
        )
        body = struct.pack(">BI", 0, len(message)) + message
        head = _frame(_HEADERS, _END_HEADERS, self._stream, headers)
        self.socket.sendall(head + _frame(_DATA, _END_STREAM, self._stream, body) if finish else head)

    def end(self, body: bytes) -> None:
        """Finish a call that was begun, with what is its body as it stands."""
        self.socket.sendall(_frame(_DATA, _END_STREAM, self._stream, body))

    def receive(self) -> bytes | None:
        """Return the answer of the last call; None when it was an error. Raises ConnectionError when the connection ends."""
        answer = b""
        while True:
            kind, flags, stream, payload = self._next()
            if kind == _SETTINGS and not flags & _ACK:
                self.socket.sendall(_frame(_SETTINGS, _ACK, 0))
            elif kind == _PING and not flags & _ACK:
                self.socket.sendall(_frame(_PING, _ACK, 0, payload))
            elif kind == _GOAWAY:
                raise ConnectionError(f"GOAWAY {payload[8:].decode(errors='replace')}")
            elif stream == self._stream and kind in (_DATA, _HEADERS, _RST):
                answer += payload if kind == _DATA else b""
                if kind == _RST or flags & _END_STREAM:
                    return answer[5:] if answer else None

    def call(self, path: str, message: bytes = b"") -> bytes | None:
        self.send(path, message)
        return self.receive()

    def _next(self) -> tuple[int, int, int, bytes]:
        head = self._exactly(9)
        kind, flags, stream = struct.unpack(">BBI", head[3:])
        return kind, flags, stream & 0x7FFFFFFF, self._exactly(int.from_bytes(head[:3]))

    def _exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError("closed")
            self._received += data
        result, self._received = self._received[:size], self._received[size:]
        return result
