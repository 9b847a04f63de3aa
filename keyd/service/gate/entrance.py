"""Where connections enter that another process of this daemon has accepted, each by the way that it came."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from keyd.service.gate.limits import Complaints
from keyd.service.gate.peer import Peer
from keyd.service.gate.private import PrivateSocket
from keyd.service.gate.tcp import TcpListeners
from keyd.service.gate.unix import Relays, why

#: The ways over Unix sockets: ``server.socket``, and that of [kubernetes].
MAIN, KUBERNETES = "main", "kubernetes"
#: Before the name of a ``[tcp.NAME]``.
TCP = "tcp:"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A connection that was accepted.

    Attributes:
        number: what the process that accepted it calls it.
        way: which way it came.
        client: connected, and not blocking.
        peer: who it is, on a Unix socket.
        address: where it comes from, on TCP.
    """

    number: int
    way: str
    client: socket.socket
    peer: Peer | None = None
    address: str = ""


class Entrance:
    """Leads connections to the servers of this process."""

    def __init__(
        self, servers: Mapping[str, PrivateSocket], tcp: TcpListeners, handshake_timeout: float, left: Callable[[int], None]
    ) -> None:
        """Lead those over Unix sockets to ``servers``, by their way, and the others to ``tcp``.

        Args:
            servers: lead to the gRPC servers.
            tcp: its listeners have TLS.
            handshake_timeout: seconds in which a caller over a Unix socket must have spoken.
            left: called with the number of each connection over a Unix socket that is over.
        """
        self._tcp = tcp
        self._timeout = handshake_timeout
        self._complain = Complaints()
        self._relays = {way: Relays(server, self._complain, lambda number: left(int(number))) for way, server in servers.items()}
        self._arrivals: set[asyncio.Task[None]] = set()

    def enter(self, arrival: Arrival) -> None:
        """Take a connection, which is closed in the end."""
        if arrival.peer is None:
            self._tcp[arrival.way.removeprefix(TCP)].arrive(arrival.client, arrival.address)
            return
        task = asyncio.create_task(self._relay(arrival, arrival.peer))
        self._arrivals.add(task)
        task.add_done_callback(self._arrivals.discard)

    async def _relay(self, arrival: Arrival, peer: Peer) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._relays[arrival.way].enter(arrival.client, peer, str(arrival.number))
        except OSError as error:  # TimeoutError is one
            self._complain("connection refused", reason=why(error), caller=str(peer.principal))

    def stop(self) -> None:
        """Let those go that have not spoken yet. What is relayed still is."""
        for arrival in self._arrivals:
            arrival.cancel()

    def close(self) -> None:
        """Close every connection. After :meth:`stop`."""
        for relays in self._relays.values():
            relays.close()
