"""Every way in over gRPC: the public sockets behind their gates, the listeners for other machines, and the sockets of one principal each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from google.protobuf.descriptor import ServiceDescriptor

from keyd.config import Config
from keyd.core.principal import Principal
from keyd.core.runner import THREAD_PREFIX
from keyd.places import unix_ways
from keyd.process import ProcessError
from keyd.service.bounds import Bounds
from keyd.service.call import Caller
from keyd.service.gate.entrance import KUBERNETES, MAIN, Entrance
from keyd.service.gate.limits import Places, Quota
from keyd.service.gate.listener import Access, bound_by, listening
from keyd.service.gate.private import PrivateSocket
from keyd.service.gate.tcp import TcpListeners
from keyd.service.gate.unix import UnixGate
from keyd.service.grpcio import GrpcServer
from keyd.service.transport import Transport


@dataclass(frozen=True, slots=True)
class _Gated:
    """A public socket, and the server behind its gate."""

    way: str
    path: Path
    access: Access
    private: PrivateSocket
    server: Transport


class Front:
    """The gRPC servers of a daemon, and what leads to them.

    Attributes:
        private: the socket of the server behind the gates; other gates connect through it.
        connections: counts the connections of all gates together.
        tcp: the listeners for callers on other machines.
    """

    def __init__(
        self,
        services: Mapping[ServiceDescriptor, object],
        config: Config,
        kubernetes: Mapping[ServiceDescriptor, object] | None = None,
        own_sockets: Collection[str] | None = None,
    ) -> None:
        """``kubernetes`` are the services of the socket for kube-apiserver, and of no other; ``own_sockets`` those of [sockets] to serve."""
        self._config = config
        limits, server = config.connections, config.server
        bounds = Bounds(
            max_message_bytes=server.max_message_bytes,
            max_streams=limits.max_streams,
            handshake_timeout=limits.handshake_timeout,
            idle_timeout=limits.idle_timeout,
            keepalive=limits.keepalive,
            drain_timeout=server.drain_timeout,
        )
        ages = [listener.max_connection_age for listener in config.tcp.values()]
        calls = Quota(server.max_concurrent_calls, limits.max_calls_per_caller)
        self.connections = Quota(limits.max, limits.max_per_caller)
        proxied = server.transport == "http2"  # grpcio knows nothing of the PROXY protocol
        self.private = PrivateSocket(server.state_dir, proxied=proxied)
        self.tcp = TcpListeners(self.private.connect, self.connections)
        serve = _transport(server.transport)
        main = serve(services, self.private.caller, replace(bounds, max_age=min(ages, default=None)), calls, proxied=proxied)
        ways = unix_ways(config)
        self._gated = [_Gated(MAIN, *ways[MAIN], self.private, main)]
        if KUBERNETES in ways and kubernetes is not None:
            private = PrivateSocket(server.state_dir)
            self._gated.append(
                _Gated(KUBERNETES, *ways[KUBERNETES], private, GrpcServer(kubernetes, private.caller, bounds, calls))
            )
        # No gate counts these, so the server does: one socket must not take all descriptors of the process.
        own = replace(bounds, max_connections=limits.max_per_caller)
        self._own: dict[str, Transport] = {
            name: serve(services, partial(_only, Caller(Principal(socket=name))), own, calls)
            for name in config.sockets
            if own_sockets is None or name in own_sockets
        }

    async def start(self, stack: AsyncExitStack) -> None:
        """Serve; ``stack`` stops it, in this order: no new connections, calls under way end, connections are closed.

        The places of the sockets must be reserved (:func:`keyd.service.gate.listener.reserved`).

        Raises:
            ProcessError: a socket cannot be bound, or given to whom it is for.
        """
        self._bind(stack)
        gates = [self._gate(each, stack) for each in self._gated]
        stack.push_async_callback(self.tcp.close)
        self.tcp.open(self._config.tcp)
        await self._serve(stack)
        for gate in gates:
            gate.start()
            stack.callback(gate.stop)
        self.tcp.start()
        stack.push_async_callback(self.tcp.stop_accepting)

    async def start_behind(self, connections: Places, left: Callable[[int], None], stack: AsyncExitStack) -> Entrance:
        """Serve as :meth:`start` does, the connections that another process accepts.

        Args:
            connections: counts those over TCP, whose account only this process finds out.
            left: called with the number of each connection over a Unix socket that is over.
            stack: as there.

        Raises:
            ProcessError: as there.
        """
        self._bind(stack)
        servers = {each.way: each.private for each in self._gated}
        entrance = Entrance(servers, self.tcp, self._config.connections.handshake_timeout, left)
        stack.callback(entrance.close)
        stack.push_async_callback(self.tcp.close)
        self.tcp.connections = connections
        self.tcp.open(self._config.tcp, bind=False)
        await self._serve(stack)
        self.tcp.start()
        stack.push_async_callback(self.tcp.stop_accepting)
        stack.callback(entrance.stop)
        return entrance

    def _bind(self, stack: AsyncExitStack) -> None:
        for behind in self._servers():
            stack.callback(behind.close)
        for each in self._gated:
            stack.callback(each.private.close)
            each.private.bind(each.server.listen)
        for name, server in self._own.items():
            own = self._config.sockets[name]
            stack.enter_context(bound_by(server.listen, own.path, Access(int(own.mode, 8), own.owner, own.group)))

    def _gate(self, gated: _Gated, stack: AsyncExitStack) -> UnixGate:
        gate = UnixGate(
            stack.enter_context(listening(gated.path, gated.access)),
            gated.private,
            self.connections,
            handshake_timeout=self._config.connections.handshake_timeout,
            thread_prefix=f"{THREAD_PREFIX}gate",
        )
        stack.push_async_callback(gate.close)
        return gate

    async def _serve(self, stack: AsyncExitStack) -> None:
        for server in self._servers():
            await server.start()
        stack.push_async_callback(self._drain, self._config.server.drain_timeout)

    async def _drain(self, seconds: float) -> None:
        await asyncio.gather(*(each.stop(seconds) for each in self._servers()))

    def _servers(self) -> list[Transport]:
        return [*(each.server for each in self._gated), *self._own.values()]

    async def report(self, backends: Mapping[str, bool]) -> None:
        """Say on every socket which backends are sound; see :meth:`keyd.service.transport.Transport.report`."""
        for each in self._servers():
            await each.report(backends)


def _transport(name: str) -> Callable[..., Transport]:
    """Return what makes a server: of its services, who calls, the bounds of a connection, and the quota of calls.

    Raises:
        ProcessError: what it needs is not installed.
    """
    if name == "grpcio":
        return GrpcServer
    try:
        from keyd.service.http2.server import Http2Server
    except ImportError as error:
        raise ProcessError(
            f'server.transport is "http2", which needs {error.name}; run: pip install "keyd[http2]", or set it to "grpcio"'
        ) from error
    return Http2Server


def _only(caller: Caller, peer: str) -> Caller:
    """Return who owns the socket, whatever the server calls the other end."""
    return caller
