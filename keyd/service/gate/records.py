"""A socket in TLS 1.3 that hands OpenSSL one record at a time.

Left to itself, OpenSSL reads from a socket until it has something for the application, and goes on for as long as a caller sends
records that have nothing: key updates. One caller could stop every other one's calls with them, so they are counted.
"""

from __future__ import annotations

import contextlib
import socket
import ssl

_HEADER = 5
_PLAINTEXT = 16384
_MAX_CIPHERTEXT = _PLAINTEXT + 256
#: Key updates, and whatever else has nothing for the server, in the life of a connection. Clients need hardly any.
_MAX_EMPTY = 32
_WOULD_BLOCK = (BlockingIOError, InterruptedError)


class TlsSocket:
    """A connection after its handshake, used as a socket that does not block.

    Attributes:
        plain: the socket below.
        tls: what was agreed upon.
    """

    def __init__(self, plain: socket.socket, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
        """``incoming`` may hold what came right behind the handshake: begin with a :meth:`recv_into`, as no selector sees it."""
        self.plain = plain
        self.tls = tls
        self._incoming, self._outgoing = incoming, outgoing
        self._raw = incoming.read()
        self._unsent = b""
        self._taken = 0
        self._empty = 0
        self._ended = False

    def fileno(self) -> int:
        """Return the descriptor of the socket below."""
        return self.plain.fileno()

    def recv_into(self, buffer: memoryview) -> int:
        """Read what whole records have for the caller of this, which is 0 bytes at the end.

        Args:
            buffer: has room for several records.

        Raises:
            BlockingIOError: there is nothing yet.
            OSError: the connection is lost, or is not what TLS allows, or has too many records with nothing in them.
        """
        try:
            new = self.plain.recv(len(buffer) - len(self._raw))
            self._ended = self._ended or not new
        except _WOULD_BLOCK:
            new = b""
        size = self._decrypt(self._raw + new, buffer)
        if self._outgoing.pending:
            self._flush()  # an answer to a key update
        if not size and not self._ended:
            raise BlockingIOError
        return size

    def _decrypt(self, raw: bytes, buffer: memoryview) -> int:
        start = size = 0
        while not self._ended and (end := _end(raw, start)) <= len(raw):
            self._incoming.write(raw[start:end])
            start = end
            try:
                got = self.tls.read(len(buffer) - size, buffer[size:])
            except ssl.SSLWantReadError:
                self._empty += 1
                if self._empty > _MAX_EMPTY:
                    raise ConnectionAbortedError("too many TLS records without content") from None
            else:
                size += int(got)
                self._ended = not got  # close_notify
        self._raw = raw[start:]
        return size

    def send(self, data: memoryview | bytes) -> int:
        """Return how much was sent. What was not has to be sent next, the same bytes again."""
        sent = 0
        while sent < len(data):
            self._taken = self._taken or self.tls.write(data[sent : sent + _PLAINTEXT])
            if not self._flush():
                break
            sent += self._taken
            self._taken = 0
        return sent

    def _flush(self) -> bool:
        """Send what is encrypted; say whether that was all."""
        self._unsent += self._outgoing.read()
        with contextlib.suppress(*_WOULD_BLOCK):
            self._unsent = self._unsent[self.plain.send(self._unsent) :]
        return not self._unsent

    def shutdown(self, how: int) -> None:
        """Say goodbye, without waiting for the caller's own."""
        with contextlib.suppress(OSError, ValueError):
            self.tls.unwrap()
        with contextlib.suppress(OSError):
            self._flush()
        self.plain.shutdown(how)

    def close(self) -> None:
        """Close the socket below."""
        self.plain.close()


def _end(raw: bytes, start: int) -> int:
    """Return where the record ends that begins there; beyond ``raw`` if it has not arrived."""
    length = int.from_bytes(raw[start + 3 : start + _HEADER])
    if length > _MAX_CIPHERTEXT:
        raise ConnectionAbortedError("a TLS record is too long")
    return start + _HEADER + length
