"""Runs the HTTP application with uvicorn, inside the daemon's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from keyd.service.http_ready import Ready

#: Connections at a time. Those of a flood are closed at once: file descriptors are for signing, too.
MOST_CONNECTIONS = 1000
#: Seconds from the connection, or the answer before, to the end of an answer; for the whole of a large set on a slow line.
PATIENCE = 60.0
#: Seconds that a stop waits for answers under way.
_LAST_ANSWERS = 5


#: Seconds from an answer until the connection is closed, unless there is another request.
_KEPT_ALIVE = 5


class _Config(uvicorn.Config):
    """``ready`` has answers that need no application."""

    ready: Ready | None = None


class _Connection(H11Protocol):  # h11 refuses a request with two Host lines
    """A connection that ends when its client does not get on: uvicorn waits for a request, or for a reader, for ever."""

    _check: asyncio.TimerHandle | None = None
    #: When the last answer was complete, or the connection was made.
    _answered = 0.0
    #: Whether it waits for a request of which nothing has come; and whether uvicorn, which closes it then, knows nothing of the last.
    _idle, _unknown = True, False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._ready = self.config.ready if isinstance(self.config, _Config) else None
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        else:
            self._answered = self.loop.time()
            self._expect_progress()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._check is not None:
            self._check.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # Who does not read gets no further answer before: uvicorn sees to that.
        if self._ready is not None and self._idle and not self.flow.write_paused:
            answer = self._ready.answer(data, self.server_state.default_headers)
            if answer is not None and not self.transport.is_closing():
                self._send(answer)
                return
        self._idle = self._unknown = False
        super().data_received(data)

    def _send(self, answer: bytes) -> None:
        self.transport.write(answer)
        self.server_state.total_requests += 1
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        self._answered, self._unknown = self.loop.time(), True

    def on_response_complete(self) -> None:
        self._answered = self.loop.time()
        super().on_response_complete()
        states = self.conn.our_state, self.conn.their_state
        self._idle = states == (h11.IDLE, h11.IDLE) and self.conn.trailing_data == (b"", False)

    def _expect_progress(self) -> None:
        """Look again when the time is over, not at each answer: to set a timer costs as much as to answer."""
        gone = self.loop.time() - self._answered
        waiting = self._unknown and self.transport.get_write_buffer_size() == 0
        patience = min(_KEPT_ALIVE, PATIENCE) if waiting else PATIENCE
        if gone < patience:
            self._check = self.loop.call_later(min(patience - gone, _KEPT_ALIVE), self._expect_progress)
        else:
            # Not to be closed: that waits until the client has read what is on its way.
            self.transport.abort()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Let it end now: by itself it looks ten times a second whether it is to."""
        self.should_exit = True
        self._stopping.set()

    async def main_loop(self) -> None:
        """Tick ten times a second, for the Date of answers, until it is to end."""
        ticks = 0
        while not await self.on_tick(ticks):
            ticks = (ticks + 1) % 864_000
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End. uvicorn's own way has a pause in which connections end: it is for nothing where there are none.

        Who becomes a connection at this very moment is one by the time that :meth:`HttpServer.stop` aborts what is left.
        """
        if self.server_state.connections or self.server_state.tasks:
            await super().shutdown(sockets)
            return
        for listener in (*self.servers, *(sockets or ())):
            listener.close()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals are the daemon's


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens there. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=2048)
    # Connections inherit it. Without it the body of each answer but the first waits some 40 ms for the head to be acknowledged.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


class HttpServer:
    """One HTTP listener.

    Attributes:
        app: the ASGI application.
        ready: answers before it, where it has some.
    """

    def __init__(self, listener: socket.socket, app: Callable[..., Any], ready: Ready | None = None) -> None:
        """Serve on a socket of :func:`bound`, which is closed with the server."""
        self._socket = listener
        config = _Config(
            app,
            http=_Connection,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=_KEPT_ALIVE,
            timeout_graceful_shutdown=_LAST_ANSWERS,
            h11_max_incomplete_event_size=16 * 1024,
        )
        self.app = app
        self.ready = config.ready = ready
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port that is bound; differs from the one asked for when that was 0."""
        port: int = self._socket.getsockname()[1]
        return port

    async def start(self) -> None:
        """Serve."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))

    async def stop(self) -> None:
        """Answer what is under way, then stop; who does not read the answer is waited for no longer than a few seconds."""
        self._server.stop()
        if self._task is not None:
            await self._task
        for connection in self._server.server_state.connections.copy():
            connection.transport.abort()
        self._socket.close()
