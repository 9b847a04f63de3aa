"""Runs the HTTP application with uvicorn, inside the daemon's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

#: Connections at a time. Those of a flood are closed at once: file descriptors are for signing, too.
MOST_CONNECTIONS = 1000
#: Seconds from the connection, or the answer before, to the end of an answer; for the whole of a large set on a slow line.
PATIENCE = 60.0
#: Seconds that a stop waits for answers under way.
_LAST_ANSWERS = 5


class _Connection(H11Protocol):  # h11 refuses a request with two Host lines
    """A connection that ends when its client does not get on: uvicorn waits for a request, or for a reader, for ever."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        else:
            self._expect_progress()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._expect_progress()
        super().on_response_complete()

    def _expect_progress(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        # Not to be closed: that waits until the client has read what is on its way.
        self._deadline = self.loop.call_later(PATIENCE, self.transport.abort)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals are the daemon's


class HttpServer:
    """One HTTP listener."""

    def __init__(self, app: Callable[..., Any], host: str, port: int) -> None:
        """Bind the address at once, so that a taken port stops the start. Raises OSError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=2048)
        # Connections inherit it. Without it the body of each answer but the first waits some 40 ms for the head to be acknowledged.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = uvicorn.Config(
            app,
            http=_Connection,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=_LAST_ANSWERS,
            h11_max_incomplete_event_size=16 * 1024,
        )
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
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        for connection in self._server.server_state.connections.copy():
            connection.transport.abort()
        self._socket.close()
