"""Passes bytes between a caller that came over TCP, in TLS or not, and the private socket.

TLS 1.3 makes that simple: reading never has to wait for writing, nor the other way round (:mod:`keyd.service.gate.records`).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

from keyd.service.gate.farewell import GOAWAY, Frames
from keyd.service.gate.records import TlsSocket

#: More than a TLS record.
_CHUNK = 64 * 1024
_HALF_CLOSED = 10.0  # seconds
_LINGER = 1.0  # seconds
#: How long a caller may take none of what is there for it. Meanwhile the server is not read from, so that it cannot be seen to give up.
_STALLED = 60.0  # seconds
#: One event loop, one buffer: what is not written at once is copied.
_buffer = memoryview(bytearray(_CHUNK))


class Pipe:
    """One connection of a caller. ``on_close`` is called once, at its end."""

    def __init__(self, caller: socket.socket | TlsSocket, on_close: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._caller = caller
        self._on_close = on_close
        self._timers: list[asyncio.TimerHandle] = []
        self._release: asyncio.TimerHandle | None = None
        self._up: _Flow | None = None
        self._down: _Flow | None = None
        self._server: socket.socket | None = None
        self._part_after: float | None = None
        self._closed = False

    def start(self, server: socket.socket) -> None:
        """Pass bytes on; ``server`` is the private socket. Neither socket may block."""
        self._server = server
        self._up = _Flow(self._loop, self._caller, server, self._caller_ended, self.close)
        self._down = _Flow(self._loop, server, self._caller, self._server_ended, self.close, _STALLED)
        if self._part_after is not None:
            self._down.frames = Frames()
            self._timers.append(self._loop.call_later(self._part_after, self._down.part))
        self._down.watch()
        self._up.watch()
        self._up.read()  # what came with the handshake

    def close_after(self, seconds: float) -> None:
        """Close the connection when so many seconds have passed."""
        if not self._closed:
            self._timers.append(self._loop.call_later(max(0.0, seconds), self.close))

    def part_after(self, seconds: float) -> None:
        """Send the caller away when so many seconds have passed, without an end to its calls. Before :meth:`start`."""
        self._part_after = seconds

    def hold_back(self, seconds: float) -> None:
        """Read nothing from the caller for so long. What it sends waits in the kernel, at last in its own."""
        if self._closed or self._up is None:
            return
        until = self._loop.time() + seconds
        if self._release is not None:
            if self._release.when() >= until:
                return
            self._release.cancel()
        self._up.hold(held=True)
        self._release = self._loop.call_at(until, self._let_go)

    def close(self) -> None:
        """Close both ends at once."""
        if self._closed:
            return
        self._closed = True
        for timer in (*self._timers, self._release):
            if timer is not None:
                timer.cancel()
        for end in (self._caller, self._server):
            if end is not None:
                _forget(self._loop, end)
        if self._down is not None:
            self._down.stop_waiting()
        self._caller.close()
        self._on_close()

    def _let_go(self) -> None:
        self._release = None
        if self._up is not None:
            self._up.hold(held=False)

    def _caller_ended(self) -> None:
        assert self._server is not None
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_WR)
        self.close_after(_HALF_CLOSED)

    def _server_ended(self) -> None:
        """Say goodbye. To close with bytes unread would be a reset, which takes back what the caller has not read yet."""
        assert self._server is not None
        self._up = None
        for end in (self._caller, self._server):
            _forget(self._loop, end)
        with contextlib.suppress(OSError):
            self._caller.shutdown(socket.SHUT_WR)
        self._loop.add_reader(self._caller.fileno(), self._drain)
        self.close_after(_LINGER)

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError, InterruptedError):
            try:
                plain = self._caller.plain if isinstance(self._caller, TlsSocket) else self._caller
                if plain.recv_into(_buffer):
                    return
            except ConnectionError:
                pass
            self.close()


class _Flow:
    """One direction."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        source: socket.socket | TlsSocket,
        sink: socket.socket | TlsSocket,
        on_end: Callable[[], None],
        on_error: Callable[[], None],
        patience: float = float("inf"),
    ) -> None:
        """``patience`` is for how many seconds the sink may take nothing."""
        self._patience = patience
        self._waiting: asyncio.TimerHandle | None = None
        self._loop, self._source, self._sink = loop, source, sink
        self._on_end, self._on_error = on_end, on_error
        self._rest = b""
        self._held = False
        self._ended = False
        self._parts = False
        #: Set if this direction is to be parted from.
        self.frames: Frames | None = None

    def part(self) -> None:
        """Say goodbye to the sink, as soon as that does not come within a frame."""
        if self.frames is None or self._rest or not self.frames.between:
            self._parts = True
            return
        self._parts = False
        self._write(memoryview(GOAWAY))

    def watch(self) -> None:
        """Read when there is something to read, and nothing against it."""
        if not (self._rest or self._held or self._ended):
            self._loop.add_reader(self._source.fileno(), self.read)

    def hold(self, *, held: bool) -> None:
        """Stop reading, or go on."""
        self._held = held
        if held:
            self._loop.remove_reader(self._source.fileno())
        else:
            self.watch()

    def read(self) -> None:
        """Read once."""
        try:
            size = self._source.recv_into(_buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._on_error()
            return
        if size:
            self._write(_buffer[:size])
        else:
            self._ended = True
            self._loop.remove_reader(self._source.fileno())
            self._on_end()

    def _write(self, data: memoryview) -> None:
        if self.frames is not None:
            self.frames.follow(data)
        sent = self._send(data)
        if self._parts and sent == len(data):
            self.part()
        elif 0 <= sent < len(data):
            self._rest = bytes(data[sent:])
            self._loop.remove_reader(self._source.fileno())
            self._loop.add_writer(self._sink.fileno(), self._flush)
            self._wait()

    def _wait(self) -> None:
        self.stop_waiting()
        if self._patience < float("inf"):
            self._waiting = self._loop.call_later(self._patience, self._on_error)

    def stop_waiting(self) -> None:
        """Wait no longer for the sink."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _flush(self) -> None:
        sent = self._send(self._rest)
        if sent < 0:
            return
        self._rest = self._rest[sent:]
        if self._rest:
            if sent:
                self._wait()
        else:
            self.stop_waiting()
            self._loop.remove_writer(self._sink.fileno())
            if self._parts:
                self.part()
            self.watch()

    def _send(self, data: memoryview | bytes) -> int:
        """Return how much was sent, or -1 after an error, which has ended the connection."""
        try:
            return self._sink.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self._on_error()
            return -1


def _forget(loop: asyncio.AbstractEventLoop, end: socket.socket | TlsSocket) -> None:
    loop.remove_reader(end.fileno())
    loop.remove_writer(end.fileno())
