"""Every way in over gRPC: the public socket behind its gate, the listeners for other machines, and the sockets of one principal each."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

from google.protobuf.descriptor import ServiceDescriptor

from keyd.config import Config
from keyd.core.principal import Principal
from keyd.core.runner import THREAD_PREFIX
from keyd.service.call import Caller
from keyd.service.gate.limits import Quota
from keyd.service.gate.listener import Access, bound_by, listening
from keyd.service.gate.private import PrivateSocket
from keyd.service.gate.tcp import TcpListeners
from keyd.service.gate.unix import UnixGate
from keyd.service.grpcio import Bounds, GrpcServer


class Front:
    """The gRPC servers of a daemon, and what leads to them.

    Attributes:
        private: the socket of the server behind the gates; other gates connect through it.
        connections: counts the connections of all gates together.
        tcp: the listeners for callers on other machines.
    """

    def __init__(self, services: Mapping[ServiceDescriptor, object], config: Config) -> None:
        self._config = config
        limits, server = config.connections, config.server
        bounds = Bounds(
            max_message_bytes=server.max_message_bytes,
            max_streams=limits.max_streams,
            handshake_timeout=limits.handshake_timeout,
            idle_timeout=limits.idle_timeout,
            keepalive=limits.keepalive,
        )
        ages = [listener.max_connection_age for listener in config.tcp.values()]
        calls = Quota(server.max_concurrent_calls, limits.max_calls_per_caller)
        self.connections = Quota(limits.max, limits.max_per_caller)
        self.private = PrivateSocket(server.state_dir)
        self.tcp = TcpListeners(self.private.connect, self.connections)
        self._gated = GrpcServer(services, self.private.caller, replace(bounds, max_age=min(ages, default=None)), calls)
        # No gate counts these, so the server does: one socket must not take all descriptors of the process.
        own = replace(bounds, max_connections=limits.max_per_caller)
        self._own = {
            name: GrpcServer(services, partial(_only, Caller(Principal(socket=name))), own, calls) for name in config.sockets
        }

    async def start(self, stack: AsyncExitStack) -> None:
        """Serve; ``stack`` stops it, in this order: no new connections, calls under way end, connections are closed.

        The places of the sockets must be reserved (:func:`keyd.service.gate.listener.reserved`).

        Raises:
            ProcessError: a socket cannot be bound, or given to whom it is for.
        """
        server, limits = self._config.server, self._config.connections
        stack.callback(self.private.close)
        self.private.bind(self._gated.listen)
        for name, own in self._config.sockets.items():
            access = Access(int(own.mode, 8), own.owner, own.group)
            stack.enter_context(bound_by(self._own[name].listen, own.path, access))
        listener = stack.enter_context(
            listening(server.socket, Access(int(server.socket_mode, 8), server.socket_owner, server.socket_group))
        )
        gate = UnixGate(
            listener,
            self.private,
            self.connections,
            handshake_timeout=limits.handshake_timeout,
            thread_prefix=f"{THREAD_PREFIX}gate",
        )
        stack.push_async_callback(gate.close)
        stack.push_async_callback(self.tcp.close)
        self.tcp.open(self._config.tcp)
        for each in self._servers():
            await each.start()
        stack.push_async_callback(self._drain, server.drain_timeout)
        gate.start()
        stack.callback(gate.stop)
        self.tcp.start()
        stack.push_async_callback(self.tcp.stop_accepting)

    async def _drain(self, seconds: float) -> None:
        await asyncio.gather(*(each.stop(seconds) for each in self._servers()))

    def _servers(self) -> list[GrpcServer]:
        return [self._gated, *self._own.values()]

    async def report(self, backends: Mapping[str, bool]) -> None:
        """Say on every socket which backends are sound; see :meth:`keyd.service.grpcio.GrpcServer.report`."""
        for each in self._servers():
            await each.report(backends)


def _only(caller: Caller, peer: str) -> Caller:
    """Return who owns the socket, whatever grpcio calls the other end."""
    return caller
