"""TLS handshakes: how many at a time, for how long, and what is said of those that fail."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import random
import socket
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import structlog

from keyd.service.gate.records import TlsSocket

_CHUNK = 16 * 1024
#: A handshake takes two, and some more when it comes in pieces.
_USUAL_STEPS, _PAUSE = 4, 0.02  # seconds
#: For how many times its time on the processor the thread rests after each step, so that handshakes have a quarter of one at most.
_REST = 3
_HOLD = 0.2  # seconds
_MAX_WAITING = 256
_TOO_MANY = "too many handshakes from one address"
_REPORT_INTERVAL = 1.0  # seconds
_log = structlog.get_logger("keyd.tls")


class HandshakeError(Exception):
    """The handshake did not end well. The message is one of few."""


async def shake_hands(
    connected: socket.socket, context: ssl.SSLContext, executor: ThreadPoolExecutor, within: float
) -> TlsSocket:
    """Return the socket in TLS, with HTTP/2 agreed upon.

    The arithmetic is done in a thread, because it takes milliseconds in which other callers' calls would stand still; one after another,
    because several at a time would leave those calls no processor; and with rests between, because even one would take half of what a
    machine with two has, for as long as somebody floods.

    Args:
        connected: does not block. It is taken over, and closed on failure.
        context: of the server.
        executor: has the threads.
        within: seconds for all of it.

    Raises:
        HandshakeError: the caller does not speak TLS 1.3 or HTTP/2, has no certificate that is trusted, or takes too long.
    """
    try:
        async with asyncio.timeout(within):
            result = await _shake_hands(connected, context, executor)
        if result.tls.selected_alpn_protocol() != "h2":
            raise HandshakeError("the caller does not offer HTTP/2 (ALPN h2)")
    except BaseException as exc:
        connected.close()
        if isinstance(exc, TimeoutError):
            raise HandshakeError("the handshake took too long") from None
        if isinstance(exc, OSError | ValueError):
            raise HandshakeError(_reason(exc)) from None
        raise
    return result


async def _shake_hands(connected: socket.socket, context: ssl.SSLContext, executor: ThreadPoolExecutor) -> TlsSocket:
    loop = asyncio.get_running_loop()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    data = await loop.sock_recv(connected, _CHUNK)  # who connects and says nothing takes neither memory nor a thread
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    for number in itertools.count():
        if not data:
            raise ConnectionError
        incoming.write(data)
        try:
            complete = await _step(tls, executor)
        except ssl.SSLError:
            with contextlib.suppress(OSError):
                connected.send(outgoing.read())  # the alert that says why
            raise
        if outgoing.pending:
            await loop.sock_sendall(connected, outgoing.read())
        if complete:
            break
        if number >= _USUAL_STEPS:
            await asyncio.sleep(_PAUSE)  # who sends byte by byte would have as many steps as he likes
        data = await loop.sock_recv(connected, _CHUNK)
    return TlsSocket(connected, tls, incoming, outgoing)


async def _step(tls: ssl.SSLObject, executor: ThreadPoolExecutor) -> bool:
    """Go on with the handshake as far as what has arrived allows; say whether it is complete."""

    def step() -> bool:
        began = time.thread_time()
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            time.sleep(_REST * (time.thread_time() - began))
        return True

    return await asyncio.get_running_loop().run_in_executor(executor, step)


def _reason(exc: Exception) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {exc.verify_message}"  # one of OpenSSL's own sentences
    if isinstance(exc, ssl.SSLError) and not isinstance(exc, ssl.SSLEOFError) and exc.reason:
        return exc.reason.lower().replace("_", " ")
    return "the connection was lost"


class Turns:
    """How many handshakes are under way, and from where.

    One address has at most half of them, so that who stalls does not keep everybody out; its others wait, and are few. A turn is given
    back a little after its end. That bounds the handshakes in a second too, to five times the number: nobody keeps a processor busy by
    connecting again and again, whether or not he gets in.
    """

    def __init__(self, number: int) -> None:
        self._all = asyncio.Semaphore(number)
        self._share = max(1, number // 2)
        self._of: dict[str, tuple[asyncio.Semaphore, list[None]]] = {}

    @asynccontextmanager
    async def turn(self, address: str, within: float) -> AsyncIterator[None]:
        """Wait for a turn, at most ``within`` seconds, and have it for as long as the context lasts.

        Raises:
            HandshakeError: too many of this address wait already, or it took too long.
        """
        network = network_of(address)
        share, here = self._of.setdefault(network, (asyncio.Semaphore(self._share), []))
        if len(here) >= _MAX_WAITING:
            raise HandshakeError(_TOO_MANY)
        here.append(None)
        taken: list[asyncio.Semaphore] = []
        try:
            try:
                async with asyncio.timeout(within):
                    for each in (share, self._all):
                        await each.acquire()
                        taken.append(each)
            except TimeoutError:
                raise HandshakeError(_TOO_MANY) from None
            yield
        finally:
            # Not after the same time for all, or else they would come in bursts for ever.
            hold = random.uniform(0.5, 1.5) * _HOLD if len(taken) == 2 else 0  # noqa: S311
            asyncio.get_running_loop().call_later(hold, self._give_back, network, taken)

    def _give_back(self, network: str, taken: list[asyncio.Semaphore]) -> None:
        for each in taken:
            each.release()
        _, here = self._of[network]
        here.pop()
        if not here:
            del self._of[network]


def network_of(address: str) -> str:
    """Return what one party has of addresses: one of IPv4, and of IPv6 a /64."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return str(parsed) if parsed.version == 4 else str(ipaddress.ip_network((parsed, 64), strict=False))


class Refusals:
    """Reports refused connections, with counts, at most once a second."""

    def __init__(self, listener: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._listener = listener
        self._clock = clock
        self._reasons: Counter[str] = Counter()
        self._address = ""
        self._last = -_REPORT_INTERVAL
        self._timer: asyncio.TimerHandle | None = None

    def add(self, address: str, reason: str) -> None:
        """Report one, now or with those that follow within the second."""
        self._reasons[reason] += 1
        self._address = address
        left = self._last + _REPORT_INTERVAL - self._clock()
        if left <= 0:
            self.report()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(left, self.report)

    def report(self) -> None:
        """Report what has not been reported."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._reasons:
            self._last = self._clock()
            _log.warning(
                "connections refused",
                listener=self._listener,
                count=self._reasons.total(),
                reasons=dict(self._reasons),
                last_address=self._address,
            )
            self._reasons.clear()
