"""Callers over TCP: mutual TLS, ended here, or nothing on loopback; then the private socket, as for everybody.

grpcio could end TLS itself, but not refuse TLS 1.2, nor replace a trust bundle without dropping who is connected.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from keyd.core.principal import Principal
from keyd.process import ProcessError
from keyd.service.call import Caller
from keyd.service.gate.certificates import CertificateError, Identify, parse
from keyd.service.gate.credentials import Credentials
from keyd.service.gate.handshakes import HandshakeError, Refusals, Turns, shake_hands
from keyd.service.gate.limits import Places
from keyd.service.gate.pipe import Pipe
from keyd.service.gate.private import Link
from keyd.service.gate.records import TlsSocket

_BACKLOG = 1024
#: Connections that wait for their handshake, beyond which others wait in the kernel.
_MAX_ARRIVALS = 1024
#: After each connection, in seconds. Without it, who connects again and again has every turn of the event loop.
_BREATH = 0.001
_HOUSEKEEPING = 60.0  # seconds
_KEEPALIVE = 60  # seconds
#: grpcio says goodbye at the age, give or take a tenth; what is still there after that is a stream that never ends.
_AGE_FACTOR, _AGE_GRACE = 1.1, 30.0
_log = structlog.get_logger("keyd.tls")


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds one listener. Times in seconds.

    Attributes:
        handshake_timeout: for a handshake.
        max_handshakes: under way at one time.
        max_connection_age: when a connection is closed, so that its caller shows a certificate anew.
    """

    handshake_timeout: float = 5.0
    max_handshakes: int = 32
    max_connection_age: float = 3600.0


@dataclass(frozen=True, slots=True)
class Tls:
    """How callers prove who they are."""

    credentials: Credentials
    identify: Identify


class TcpListener:
    """One ``[tcp.NAME]``.

    Use it in this order: :meth:`bind`, :meth:`start`, :meth:`stop_accepting`, :meth:`close`.

    Args:
        name: of the listener.
        connect: opens a connection to the server on behalf of a caller.
        tls: how callers are known; None for plaintext, on which nobody is.
        connections: counts them, perhaps together with those of other gates.
        limits: what bounds it.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[Caller], Link],
        tls: Tls | None,
        connections: Places,
        limits: Limits = Limits(),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self._connect = connect
        self._tls = tls
        self._places = connections
        self._limits = limits
        self._clock = clock
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._handshaking: dict[asyncio.Task[None], socket.socket] = {}
        self._turns = Turns(limits.max_handshakes)
        self._arrivals = asyncio.Semaphore(_MAX_ARRIVALS)
        self._pipes: set[Pipe] = set()
        self._refusals = Refusals(name)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="keyd-tls")

    @property
    def port(self) -> int:
        """The port that is bound; differs from the one asked for when that was 0."""
        port: int = self._sockets[0].getsockname()[1]
        return port

    @property
    def connections(self) -> int:
        """How many callers are connected."""
        return len(self._pipes)

    def bind(self, host: str, port: int) -> None:
        """Bind the addresses of a host.

        Raises:
            ProcessError: one cannot be bound, or the host has none; or it is not loopback and there is no TLS.
        """
        self._sockets = listen(self.name, host, port)

    def start(self) -> None:
        """Accept callers."""
        if self._tls is None:
            port = self.port if self._sockets else None
            _log.warning("plaintext: every process on this machine may call as loopback", listener=self.name, port=port)
        self._accepting = [asyncio.create_task(self._accept(listening)) for listening in self._sockets]
        self._accepting.append(asyncio.create_task(self._keep_house()))

    def refresh(self) -> None:
        """Look for new credentials now."""
        if self._tls is not None:
            self._tls.credentials.refresh()

    async def stop_accepting(self) -> None:
        """Let nobody else in. Who is connected stays."""
        tasks = [*self._accepting, *self._handshaking]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listening in self._sockets:
            listening.close()
        self._refusals.report()

    async def close(self) -> None:
        """Close every connection."""
        await self.stop_accepting()
        for pipe in list(self._pipes):
            pipe.close()
        self._executor.shutdown()
        if self._tls is not None:
            self._tls.credentials.close()

    async def _keep_house(self) -> None:
        while True:
            self.refresh()
            await asyncio.sleep(_HOUSEKEEPING)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrivals.acquire()
            try:
                connected, address = await loop.sock_accept(listening)
            except BaseException as exc:
                self._arrivals.release()
                if not isinstance(exc, OSError):
                    raise
                # Out of descriptors, or the caller has gone. To try again at once would be to do nothing else.
                _log.warning("cannot accept", listener=self.name, error=str(exc.strerror))
                await asyncio.sleep(0.1)
                continue
            self._begin(connected, address[0]).add_done_callback(lambda _: self._arrivals.release())
            await asyncio.sleep(_BREATH)

    def arrive(self, connected: socket.socket, address: str) -> None:
        """Take a connection, not blocking, that another process accepted for this listener from ``address``; it is closed in the end."""
        if len(self._handshaking) < _MAX_ARRIVALS:
            self._begin(connected, address)
        else:
            connected.close()
            self._refusals.add(address, "too many connections wait for their handshake")

    def _begin(self, connected: socket.socket, address: str) -> asyncio.Task[None]:
        task = asyncio.create_task(self._admit(connected, address))
        self._handshaking[task] = connected
        task.add_done_callback(self._arrived)
        return task

    def _arrived(self, task: asyncio.Task[None]) -> None:
        connected = self._handshaking.pop(task)
        failed = None if task.cancelled() else task.exception()
        if task.cancelled() or failed is not None:
            connected.close()  # it may not even have begun
        if failed is not None:
            _log.error("connection refused, unexpectedly", listener=self.name, exc_info=failed)

    async def _admit(self, connected: socket.socket, address: str) -> None:
        _keep_alive(connected)
        try:
            if self._tls is None:
                await self._pass_on(connected, Principal(), float("inf"))
                return
            async with self._turns.turn(address, self._limits.handshake_timeout):
                wrapped, principal, seconds = await self._authenticate(connected, self._tls)
                await self._pass_on(wrapped, principal, seconds)
        except (HandshakeError, CertificateError) as exc:
            connected.close()
            self._refusals.add(address, str(exc))

    async def _authenticate(self, connected: socket.socket, tls: Tls) -> tuple[TlsSocket, Principal, float]:
        """Return the socket to use, who is at its other end, and for how many seconds that holds."""
        context = tls.credentials.context()
        if context is None:
            raise HandshakeError("there is no certificate yet")
        wrapped = await shake_hands(connected, context, self._executor, self._limits.handshake_timeout)
        try:
            certificate = parse(wrapped.tls.getpeercert(binary_form=True) or b"")
            principal = tls.identify(certificate)
            seconds = certificate.not_valid_after_utc.timestamp() - self._clock()
        except BaseException:
            wrapped.close()
            raise
        return wrapped, principal, seconds

    async def _pass_on(self, connected: socket.socket | TlsSocket, principal: Principal, seconds: float) -> None:
        leave = await self._places.take(principal.account)
        if leave is None:
            connected.close()
            raise HandshakeError("too many connections; see [connections]")

        def closed() -> None:
            link.close()
            self._pipes.discard(pipe)
            leave()

        pipe = Pipe(connected, closed)
        try:
            link = self._connect(Caller(principal, pipe.hold_back))
        except OSError:
            connected.close()
            leave()
            raise HandshakeError("the server does not accept") from None
        self._pipes.add(pipe)
        pipe.close_after(min(seconds, longest_stay(self._limits.max_connection_age)))
        if not link.ends_by_age:
            pipe.part_after(self._limits.max_connection_age)
        pipe.start(link.socket)


def longest_stay(max_connection_age: float) -> float:
    """Return for how many seconds a connection lasts at most."""
    return max_connection_age * _AGE_FACTOR + _AGE_GRACE


def listen(name: str, host: str, port: int) -> list[socket.socket]:
    """Listen on the addresses of a host for ``[tcp.NAME]``. Raises ProcessError, as :meth:`TcpListener.bind`."""
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((family, address[:2]) for family, _, _, _, address in found):
            listening = socket.create_server(address, family=family, backlog=_BACKLOG)
            listening.setblocking(False)
            sockets.append(listening)
    except OSError as exc:
        for listening in sockets:
            listening.close()
        raise ProcessError(f"tcp.{name} cannot listen on {host}, port {port}: {exc.strerror or exc}") from exc
    return sockets


def _keep_alive(connected: socket.socket) -> None:
    """Send at once, and notice when the other machine has gone."""
    with contextlib.suppress(OSError):  # the caller has gone already
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE // 4)
