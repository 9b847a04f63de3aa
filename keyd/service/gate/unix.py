"""The gate in front of a Unix socket: accepts, finds out who it is, and relays."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from keyd.core.turns import Turns
from keyd.service.call import Caller
from keyd.service.gate.limits import Arrivals, Complaints, Quota
from keyd.service.gate.peer import IdentificationError, Peer, credentials, identify
from keyd.service.gate.private import PrivateSocket
from keyd.service.gate.relay import Relay

#: How long connections are accepted, and how long the others are then left in the queue, in seconds: so that a crowd at the door takes a twentieth
#: of the time from those who are in.
_ACCEPTING, _OTHERS_TURN = 0.0005, 0.0095
#: How long to leave connections in the queue when there are no descriptors left, in seconds.
_PAUSE = 0.2
#: Identification reads files that a caller may have put on a file system of his own making, which never answers: so it has threads
#: of its own, and no account gets all of them.
_THREADS = 8
_THREADS_PER_ACCOUNT = 3
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class UnixGate:
    """The gate of one listening socket."""

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
        """``listener`` is one of :func:`keyd.service.gate.listener.listening`; :meth:`stop` closes it.

        Args:
            private: leads to the server.
            connections: counts them, perhaps together with those of other gates.
            handshake_timeout: seconds from the connection until the caller must have spoken.
            identify: finds out who it is; called in threads named with ``thread_prefix``.
        """
        self._listener = listener
        self._private = private
        self._connections = connections
        self._timeout = handshake_timeout
        self._identify = identify
        self._monotonic = monotonic
        self._arriving = Arrivals(monotonic)
        self._complain = Complaints()
        self._threads = ThreadPoolExecutor(_THREADS, thread_prefix)
        self._turns = Turns()
        self._arrivals: set[asyncio.Task[None]] = set()
        self._relays: set[Relay] = set()
        self._pause: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Accept connections, in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept)

    def stop(self) -> None:
        """Accept no more, and let those go that have not spoken yet. What was relayed still is."""
        if self._listener.fileno() < 0:
            return
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for arrival in self._arrivals:
            arrival.cancel()

    async def close(self) -> None:
        """Close every connection. After :meth:`stop`."""
        await asyncio.gather(*self._arrivals, return_exceptions=True)
        for relay in list(self._relays):
            relay.close()
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
        """Bring a connection so far that it is relayed and its caller has spoken, or close it."""
        relay = peer = None
        try:
            async with asyncio.timeout(self._timeout):
                await asyncio.sleep(self._arriving.wait(account))
                peer = await self._find_out(client, account)
                settled = asyncio.Event()  # it has spoken, or is gone
                relay = Relay(self._loop, client, peer, settled.set, self._complain, partial(self._left, account, settled))
                self._relays.add(relay)
                relay.start(self._private.connect(Caller(peer.principal, relay.hold_back)))
                await settled.wait()
        except (IdentificationError, OSError) as error:  # TimeoutError is an OSError
            reason = "the client did not speak in time" if isinstance(error, TimeoutError) else str(error)
            self._complain("connection refused", reason=reason, caller=account if peer is None else str(peer.principal))
            self._give_up(relay, client, account)
        except BaseException:
            self._give_up(relay, client, account)
            raise

    def _give_up(self, relay: Relay | None, client: socket.socket, account: str) -> None:
        if relay is not None:
            relay.close()
        else:
            client.close()
            self._connections.leave(account)

    def _left(self, account: str, settled: asyncio.Event, relay: Relay) -> None:
        settled.set()
        self._relays.discard(relay)
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


def _forget(found: asyncio.Future[Peer]) -> None:
    """Close what was found out too late."""
    if not found.cancelled() and found.exception() is None:
        found.result().close()
