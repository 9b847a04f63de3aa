"""The gate in front of a Unix socket: accepts, finds out who it is, and relays.

Two halves, so that they can be in two processes: a :class:`Door` accepts and identifies, and :class:`Relays` lead to the server.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from keyd.core.turns import Turns
from keyd.service.call import Caller
from keyd.service.gate.limits import Arrivals, Complaints, Quota
from keyd.service.gate.peer import IdentificationError, Peer, credentials, has_gone, identify
from keyd.service.gate.private import PrivateSocket
from keyd.service.gate.relay import Relay
from keyd.service.gate.resets import Resets

#: How long connections are accepted, and how long the others are then left in the queue, in seconds: so that a crowd at the door takes a fortieth
#: of the time from those who are in.
_ACCEPTING, _OTHERS_TURN = 0.00025, 0.00975
#: How long to leave connections in the queue when there are no descriptors left, in seconds.
_PAUSE = 0.2
#: Identification reads files that a caller may have put on a file system of his own making, which never answers: so it has threads
#: of its own, and no account gets all of them.
_THREADS = 8
_THREADS_PER_ACCOUNT = 3
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Door:
    """Lets callers of one listening socket in, as far as they may, and says who they are."""

    def __init__(
        self,
        listener: socket.socket,
        connections: Quota,
        enter: Callable[[socket.socket, Peer, str], Awaitable[None]],
        *,
        handshake_timeout: float,
        thread_prefix: str = "keyd-gate",
        identify: Callable[[socket.socket], Peer] = identify,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``listener`` is one of :func:`keyd.service.gate.listener.listening`; :meth:`stop` closes it.

        Args:
            connections: counts them, perhaps together with those of other gates. Who is in is taken off by whom ``enter`` gives it to.
            enter: takes a connection, who it is, and the account that it counts for; closes both also where it raises IdentificationError
                or OSError. In time means: within what is left of ``handshake_timeout``.
            handshake_timeout: seconds from the connection until the caller must have entered.
            identify: finds out who it is; called in threads named with ``thread_prefix``.
        """
        self._listener = listener
        self._connections = connections
        self._enter = enter
        self._timeout = handshake_timeout
        self._identify = identify
        self._monotonic = monotonic
        self._arriving = Arrivals(monotonic)
        self._complain = Complaints()
        self._threads = ThreadPoolExecutor(_THREADS, thread_prefix)
        self._turns = Turns()
        self._arrivals: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Accept connections, in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept)

    def stop(self) -> None:
        """Accept no more, and let those go that have not entered yet."""
        if self._listener.fileno() < 0:
            return
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for arrival in self._arrivals:
            arrival.cancel()

    async def close(self) -> None:
        """Wait for those that :meth:`stop` has let go."""
        await asyncio.gather(*self._arrivals, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _accept(self) -> None:
        end = self._monotonic() + _ACCEPTING
        while True:
            try:
                client, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause_for(error)
                return
            if has_gone(client):
                client.close()  # nobody is there to be answered, and it takes neither the place nor the turn of another of its account
            else:
                self._admit(client)
            if self._monotonic() >= end:
                self._leave_waiting(_OTHERS_TURN)
                return

    def _leave_waiting(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._pause = self._loop.call_later(seconds, self._loop.add_reader, self._listener, self._accept)

    def _pause_for(self, error: OSError) -> None:
        """Leave the others in the queue for a while: asking at once again would find the same, for ever."""
        if error.errno in _NO_DESCRIPTORS:
            self._complain("no connection can be accepted", reason="no file descriptors or memory left; raise LimitNOFILE")
        else:
            self._complain("no connection can be accepted", reason=error.strerror)
        self._leave_waiting(_PAUSE)

    def _admit(self, client: socket.socket) -> None:
        account = f"uid:{credentials(client)[1]}"
        if not self._connections.enter(account):
            client.close()
            self._complain("connection refused", reason="too many connections; see [connections]", caller=account)
            return
        client.setblocking(False)
        arrival = self._loop.create_task(self._arrive(client, account))
        self._arrivals.add(arrival)
        arrival.add_done_callback(self._arrivals.discard)

    async def _arrive(self, client: socket.socket, account: str) -> None:
        """Bring a connection so far that it has entered, or close it."""
        peer, entered = None, False
        try:
            async with asyncio.timeout(self._timeout):
                await asyncio.sleep(self._arriving.wait(account))
                peer = await self._find_out(client, account)
                entered = True
                await self._enter(client, peer, account)
        except (IdentificationError, OSError) as error:  # TimeoutError is an OSError
            self._complain("connection refused", reason=why(error), caller=account if peer is None else str(peer.principal))
        finally:
            if not entered:
                client.close()
                self._connections.leave(account)

    async def _find_out(self, client: socket.socket, account: str) -> Peer:
        """Identify in a thread. It is waited for no longer than for anything else, but its turn ends when it does."""
        await self._turns.take(account, _THREADS_PER_ACCOUNT, None)
        found = self._loop.run_in_executor(self._threads, self._identify, client)
        found.add_done_callback(lambda _: self._turns.give_back(account))
        try:
            return await asyncio.shield(found)
        except asyncio.CancelledError:
            found.add_done_callback(_forget)
            raise


class Relays:
    """The connections that lead to one server."""

    def __init__(self, private: PrivateSocket, complain: Complaints, left: Callable[[str], None]) -> None:
        """``private`` leads to the server; ``left`` is called with the account of each connection that is over."""
        self._private = private
        self._complain = complain
        self._account_left = left
        self._resets = Resets()
        self._relays: set[Relay] = set()

    def __iter__(self) -> Iterator[Relay]:
        return iter(self._relays)

    def __len__(self) -> int:
        return len(self._relays)

    async def enter(self, client: socket.socket, peer: Peer, account: str) -> None:
        """Relay a connection, and return when its caller has spoken, or is gone. Raises OSError when the server is not reached."""
        settled = asyncio.Event()
        loop = asyncio.get_running_loop()
        may_send = partial(self._resets.allows, account)
        relay = Relay(loop, client, peer, settled.set, self._complain, partial(self._left, account, settled), may_send)
        self._relays.add(relay)
        try:
            relay.start(self._private.connect(Caller(peer.principal, relay.hold_back)))
            await settled.wait()
        except BaseException:
            relay.close()
            raise

    def _left(self, account: str, settled: asyncio.Event, relay: Relay) -> None:
        settled.set()
        self._relays.discard(relay)
        self._account_left(account)

    def close(self) -> None:
        """Close every connection."""
        for relay in list(self._relays):
            relay.close()


class UnixGate(Door):
    """The gate of one listening socket: a door, and the relays behind it."""

    def __init__(
        self,
        listener: socket.socket,
        private: PrivateSocket,
        connections: Quota,
        *,
        handshake_timeout: float,
        thread_prefix: str = "keyd-gate",
        identify: Callable[[socket.socket], Peer] = identify,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``private`` leads to the server. Callers have entered when they have spoken; the rest is as for a :class:`Door`."""
        self._relays = Relays(private, Complaints(), connections.leave)
        super().__init__(
            listener,
            connections,
            self._relays.enter,
            handshake_timeout=handshake_timeout,
            thread_prefix=thread_prefix,
            identify=identify,
            monotonic=monotonic,
        )

    async def close(self) -> None:
        """Close every connection. After :meth:`stop`."""
        await super().close()
        self._relays.close()


def why(error: IdentificationError | OSError) -> str:
    """Return why a connection was refused, for the log."""
    return "the client did not speak in time" if isinstance(error, TimeoutError) else str(error)


def _forget(found: asyncio.Future[Peer]) -> None:
    """Close what was found out too late."""
    if not found.cancelled() and found.exception() is None:
        found.result().close()
