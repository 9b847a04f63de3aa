"""Runs the HTTP application with uvicorn, inside the daemon's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn


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
        config = uvicorn.Config(
            app,
            http="h11",  # the one that refuses a request with two Host lines
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=5,
            limit_concurrency=1000,
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
        """Answer what is under way, then stop."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        self._socket.close()
