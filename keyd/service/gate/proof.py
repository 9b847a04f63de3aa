"""The proof that the program which was identified is the one that speaks.

When the gate looks at a process, what that wrote before lies in the socket already. Between the two the process may have executed
another program: connect, write a request, execute an agent, and be taken for it. The kernel tells of no such moment. So the gate asks:
it puts a PING with random bytes (RFC 9113 section 6.7) behind the server's first frames, and passes on nothing from the client
before these bytes have come back. Only who reads the connection now can answer; what it reads and writes it as well began.

The client's ACK of the server's SETTINGS is waited for as well, and passed on before everything else: grpcio holds a client to no bound
of its headers before that (RFC 9113 section 6.5.3), and who never sent it would have none.

Every HTTP/2 library answers by itself. The usual gRPC clients wait for the server's first frame before they send a request, so that
for them this costs no round trip. Some servers speak only once they have the client's preface, which is always the same: so the
gate sends it, and leaves out the client's own (:data:`PREFACE`).
"""

from __future__ import annotations

import secrets

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#: Bytes that are held until the answer comes; more than the window that a client has before it (RFC 9113 section 6.9.2).
MAX_HELD = 256 * 1024

_HEAD = 9
_SETTINGS, _PING = 4, 6
_ACK = 1
_BOUND = bytes([0, 0, 0, _SETTINGS, _ACK, 0, 0, 0, 0])


class ProofError(Exception):
    """This is not HTTP/2, or more than may be held."""


class Proof:
    """The question and its answer on one connection."""

    def __init__(self) -> None:
        self._nonce = secrets.token_bytes(8)
        self._greeting: bytearray | None = bytearray()
        self._held = bytearray()
        self._at = 0
        self._first = 0  # where the client's own SETTINGS end
        self._answer: tuple[int, int] | None = None
        self._bound: tuple[int, int] | None = None

    def ask(self, data: bytes) -> bytes:
        """Return what the client is sent for what the server sent: the same, once with the question behind whole frames.

        Raises:
            ProofError: the server does not speak HTTP/2.
        """
        if self._greeting is None:
            return data
        self._greeting += data
        end, frames = _whole(self._greeting, 0)
        if frames and frames[0][0] != _SETTINGS:
            raise ProofError("the server did not begin with SETTINGS")
        if end != len(self._greeting) or not end:
            if len(self._greeting) > MAX_HELD:
                raise ProofError("the server sent too much before it was asked")
            return b""
        question = (8).to_bytes(3) + bytes([_PING, 0]) + bytes(4) + self._nonce
        result, self._greeting = bytes(self._greeting) + question, None
        return result

    def answered(self, data: bytes) -> bytes | None:
        """Return what the client has sent behind its preface, without the answer, as soon as that and the ACK of SETTINGS are in it; else None.

        Raises:
            ProofError: the client does not speak HTTP/2, or sends too much.
        """
        self._held += data
        if len(self._held) > MAX_HELD:
            raise ProofError("the client sent too much before it answered")
        if not self._at:
            if self._held[: len(PREFACE)] != PREFACE[: len(self._held)]:
                raise ProofError("the client does not speak HTTP/2")
            if len(self._held) < len(PREFACE):
                return None
            self._at = len(PREFACE)
        self._at, frames = _whole(self._held, self._at)
        for kind, flags, start, stop in frames:
            self._first = self._first or stop
            if kind == _SETTINGS and flags == _ACK:
                self._bound = self._bound or (start, stop)
            elif kind == _PING and flags == _ACK and self._held[start + _HEAD : stop] == self._nonce:
                self._answer = start, stop
        if self._answer is None or self._bound is None:
            return None
        return self._in_order(self._bound, self._answer)

    def _in_order(self, bound: tuple[int, int], answer: tuple[int, int]) -> bytes:
        """Return what is held with the ACK behind the first frame, and without the answer."""
        result, at = self._held[len(PREFACE) : self._first] + _BOUND, self._first
        for start, stop in sorted((bound, answer)):
            result += self._held[at:start]
            at = stop
        return bytes(result + self._held[at:])


def _whole(data: bytearray, at: int) -> tuple[int, list[tuple[int, int, int, int]]]:
    """Return where the whole frames from ``at`` on end, and each one's type, flags, start and end."""
    frames = []
    while at + _HEAD <= len(data):
        end = at + _HEAD + int.from_bytes(data[at : at + 3])
        if end > len(data):
            break
        frames.append((data[at + 3], data[at + 4], at, end))
        at = end
    return at, frames
