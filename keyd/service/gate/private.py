"""The private socket: how the gate reaches the gRPC server, and nobody else does.

The gate tells the server who the caller is by 128 random bits, in one of two ways. grpcio knows of the other end of a Unix socket
only the name that it is bound to: so the gate binds its own end of each connection to an abstract name. Another server takes a header
of the PROXY protocol, version 2, in front of everything else: the bits are the address that it says the connection comes from.

Secrecy of the names is not enough (that of the header would be: nobody sees it). The kernel shows abstract names to everyone in ``/proc/net/unix``, and each network namespace has
names of its own: a process of our uid could read a name there, bind the same in a namespace that it made, and connect by the path
of the server's socket. So there is no path: as soon as grpcio has bound it, the socket is opened and its file removed. What is left
leads through ``/proc/self/fd``, which other processes may follow only with the right to trace this one; a daemon that is not dumpable
(:func:`keyd.process.harden`) gives that to nobody but root. Who connects in the moment before has a name that is not in the
registry, and gets UNAUTHENTICATED for ever, because grpcio asks for the name once, when it accepts. One without a header is closed.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from ipaddress import IPv6Address
from pathlib import Path
from types import TracebackType

from keyd.service.call import Caller

_PREFIX = "keyd-"
#: PROXY protocol, version 2 (haproxy.org, proxy-protocol.txt, section 2.2): a proxied connection over TCP and IPv6, addresses of 36 bytes.
_PROXY = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24"
_PROXY_TO = IPv6Address("::1").packed + (1).to_bytes(2) + (1).to_bytes(2)  # whom for, and both ports: of no meaning here


class Link:
    """One connection to the server on behalf of a caller. A context manager that closes it at the end.

    Attributes:
        socket: connected and not blocking.
        ends_by_age: the server sends away who is connected for too long; otherwise the gate has to.
    """

    def __init__(self, link: socket.socket, forget: Callable[[], object], *, ends_by_age: bool = True) -> None:
        self.socket = link
        self.ends_by_age = ends_by_age
        self._forget = forget

    def close(self) -> None:
        """Forget the caller, then close the connection: afterwards its name is anybody's."""
        self._forget()
        self.socket.close()

    def __enter__(self) -> socket.socket:
        return self.socket

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class PrivateSocket:
    """The socket that the gRPC server listens on, and who is at the other end of each connection to it.

    Use it in this order: :meth:`bind`, :meth:`connect` as often as there are callers, :meth:`close` after the server has stopped.
    """

    def __init__(self, directory: Path, *, proxied: bool = False) -> None:
        """``directory`` holds the socket for the moment in which it has a path; only the daemon's user may write there.

        Args:
            proxied: the server takes headers of the PROXY protocol, and not names.
        """
        self._directory = directory
        self._proxied = proxied
        self._callers: dict[str, Caller] = {}
        self._open = ExitStack()
        self._path = ""

    def bind(self, listen: Callable[[str], object]) -> None:
        """Have a server bind the socket, and hide it.

        Args:
            listen: binds the gRPC address that it is given, and listens, before it returns.

        Raises:
            OSError: no directory can be made in the one for it, or the system has no ``/proc``.
        """
        place = Path(tempfile.mkdtemp(prefix=".keyd-", dir=self._directory))  # mode 0700
        try:
            # Through the descriptor the path is short, wherever the directory is. The server removes the file once more when it
            # stops; until then the descriptor stays open, so that the path means nothing else.
            held = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self._open.callback(os.close, held)
            path = Path(f"/proc/self/fd/{held}/{secrets.token_hex(8)}")
            listen(f"unix:{path}")
            bound = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            self._open.callback(os.close, bound)
            self._path = f"/proc/self/fd/{bound}"
        finally:
            shutil.rmtree(place)  # with the socket's file

    def connect(self, caller: Caller) -> Link:
        """Return a new connection to the server, on which every call is this caller's.

        Raises:
            OSError: there are no descriptors left, or the server does not accept as fast as callers come.
        """
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        address = _address()
        name = _PREFIX + address.packed.hex()
        peer = str(address) if self._proxied else f"unix-abstract:{name}"  # as the server writes it
        self._callers[peer] = caller
        result = Link(link, lambda: self._callers.pop(peer, None), ends_by_age=not self._proxied)
        try:
            if not self._proxied:
                link.bind(f"\0{name}")
            link.connect(self._path)
            if self._proxied:
                link.send(_PROXY + address.packed + _PROXY_TO)  # there is room for it: it is the first
        except BaseException:
            result.close()
            raise
        return result

    def caller(self, peer: str) -> Caller | None:
        """Return who is at the other end of a connection, by the server's name for it; None: nobody that was let in."""
        return self._callers.get(peer)

    def close(self) -> None:
        """Let go of the socket. The server must have stopped."""
        self._callers.clear()
        self._open.close()


def _address() -> IPv6Address:
    """Return a random address that everybody writes alike: in eight groups, none of which is left out."""
    groups = (1 + secrets.randbelow(0xFFFF) for _ in range(8))
    return IPv6Address(b"".join(group.to_bytes(2) for group in groups))
