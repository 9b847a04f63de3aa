"""The HTTP/2 server under the ASGI application: h2corn, inside the daemon's event loop. Its I/O has a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping

import h2corn
from google.protobuf.descriptor import ServiceDescriptor

from keyd.service import transport
from keyd.service.bounds import Bounds
from keyd.service.door import Callers, Door
from keyd.service.gate.limits import Quota
from keyd.service.http2 import health, reflection
from keyd.service.http2.application import Application
from keyd.service.http2.methods import by_path

_BACKLOG = 1024
#: As little as HTTP/2 allows, for one call; and for all of a connection. What a client may have on its way is memory of the daemon's.
_STREAM_WINDOW, _CONNECTION_WINDOW = 65_535, 256 * 1024
_FRAME = 16_384
#: What a Connect request has around its message.
_AROUND_MESSAGE = 1024
#: It is keyd that ends calls: :meth:`Http2Server.stop`. So much later, in seconds, the server cuts off who does not read how they ended.
_LAST_WORDS = 1.0


class Http2Server:
    """A :class:`keyd.service.transport.Transport`."""

    def __init__(
        self,
        services: Mapping[ServiceDescriptor, object],
        callers: Callers,
        bounds: Bounds,
        calls: Quota,
        *,
        proxied: bool = False,
    ) -> None:
        """``calls`` bounds the calls under way; several servers may share it.

        Args:
            callers: says who calls: ``proxied``, by the address in the header of the PROXY protocol; otherwise by "".
            proxied: every connection begins with such a header, or is closed.
        """
        self._bounds = bounds
        self._proxied = proxied
        self._health = health.Health()
        self._names = [descriptor.full_name for descriptor in services]
        open_to_all = by_path({health.SERVICE: self._health}, anybody=True) | reflection.methods(self._names)
        served = by_path(services) | open_to_all
        self._application = Application(served, Door(calls), callers, bounds)
        self._listeners: list[socket.socket] = []
        self._server: h2corn.Server | None = None
        self._serving: asyncio.Task[None] | None = None

    def listen(self, address: str) -> None:
        """Bind one address, ``unix:`` and a path, and listen. Raises OSError when it cannot be bound."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._listeners.append(listener)
        listener.bind(address.removeprefix("unix:"))
        listener.listen(_BACKLOG)

    async def start(self) -> None:
        """Serve. Raises what keeps the server from it."""
        self._server = h2corn.Server(self._application, self._config())
        self._serving = asyncio.create_task(self._server.serve())
        started = asyncio.ensure_future(self._server.wait_started())
        await asyncio.wait((started, self._serving), return_when=asyncio.FIRST_COMPLETED)
        await started

    async def report(self, backends: Mapping[str, bool]) -> None:
        """Say which backends are sound (grpc.health.v1)."""
        self._health.set(transport.health(self._names, backends))

    async def stop(self, drain: float) -> None:
        """Take no new calls, give those under way ``drain`` seconds, then cancel them."""
        self._health.stop()
        if self._server is not None and self._serving is not None:
            self._server.shutdown()
            for listener in self._listeners:
                listener.shutdown(socket.SHUT_RDWR)  # who connects now is refused, and does not wait for the end of the drain
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._serving), drain)
            self._application.cancel()
            await self._serving

    def close(self) -> None:
        """Let go of what it listens on, whether it was started or not."""
        while self._listeners:
            self._listeners.pop().close()

    def _config(self) -> h2corn.Config:
        """Return the bounds as h2corn has them. Nothing that a caller sends may say who it is: no forwarding headers."""
        bounds = self._bounds
        return h2corn.Config(
            bind=tuple(f"fd://{listener.fileno()}" for listener in self._listeners),
            proxy_protocol="v2" if self._proxied else "off",
            forwarded_allow_ips=("unix",),
            proxy_headers=False,
            grpc=True,
            http1=not self._proxied,  # behind the gate, the caller has to prove that it reads, which only HTTP/2 can
            lifespan="off",
            access_log=False,
            log_format="json",
            runtime_threads=1,
            date_header=False,
            max_concurrent_streams=bounds.max_streams,
            limit_connections=bounds.max_connections or 0,
            h2_max_header_list_size=bounds.max_header_bytes,
            h2_max_header_block_size=bounds.max_header_bytes,
            limit_request_head_size=bounds.max_header_bytes,
            limit_request_line=bounds.max_header_bytes,
            limit_request_field_size=bounds.max_header_bytes,
            h2_max_inbound_frame_size=_FRAME,
            h2_initial_stream_window_size=_STREAM_WINDOW,
            h2_initial_connection_window_size=_CONNECTION_WINDOW,
            max_request_body_size=bounds.max_message_bytes + _AROUND_MESSAGE,
            timeout_handshake=bounds.handshake_timeout,
            timeout_keep_alive=bounds.idle_timeout,
            timeout_request_header=bounds.handshake_timeout,
            timeout_graceful_shutdown=bounds.drain_timeout + _LAST_WORDS,
        )
