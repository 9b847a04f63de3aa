"""Listening on a Unix socket that the right people can connect to, and only they, from its first moment on."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import secrets
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from keyd import process

_BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class Access:
    """Who may connect: the mode, and names or numbers of the owner and the group; None leaves the daemon's own."""

    mode: int = 0o600
    owner: str | None = None
    group: str | None = None

    def apply(self, path: Path) -> None:
        """Give the file to them.

        Raises:
            ProcessError: there are no such owner and group, or the daemon must not give it to them.
        """
        uid = -1 if self.owner is None else _number(self.owner, "user", lambda name: pwd.getpwnam(name).pw_uid)
        gid = -1 if self.group is None else _number(self.group, "group", lambda name: grp.getgrnam(name).gr_gid)
        try:
            if (uid, gid) != (-1, -1):
                os.chown(path, uid, gid, follow_symlinks=False)
            path.chmod(self.mode)
        except OSError as error:
            raise process.ProcessError(
                f"cannot give the socket {path} to its owner and group: {error.strerror}; only root gives files to others, "
                "and everybody to the groups that he is in"
            ) from error


def _number(name: str, kind: str, look_up: Callable[[str], int]) -> int:
    if name.isdecimal():
        return int(name)
    try:
        return look_up(name)
    except KeyError:
        raise process.ProcessError(
            f"there is no {kind} {name}, who is to have a socket; make it or change the configuration"
        ) from None


@contextlib.contextmanager
def reserved(path: Path) -> Iterator[None]:
    """Keep the place of a socket: locked against other daemons, and without the socket of an earlier run.

    Raises:
        ProcessError: it is taken, or others could replace it.
    """
    process.prepare_socket(path)
    with process.lock_file(path.with_name(path.name + ".lock")):
        yield


@contextlib.contextmanager
def listening(address: Path, access: Access) -> Iterator[socket.socket]:
    """Listen on a socket: its path, which must be :func:`reserved`, or ``@name`` for an abstract one, to which everybody in the
    network namespace can connect.

    Raises:
        ProcessError: the name is taken, or the socket cannot be given to whom it is for.
    """
    with contextlib.ExitStack() as stack:
        abstract = str(address).startswith("@")
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC))
        try:
            listener.bind("\0" + str(address)[1:] if abstract else os.fspath(address))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise process.AlreadyRunningError(
                    f"something listens on {address} already; stop it or set server.socket"
                ) from error
            raise process.ProcessError(f"cannot bind the socket {address}: {error.strerror}") from error
        if not abstract:
            stack.callback(address.unlink, missing_ok=True)
            access.apply(address)
        # Accepted sockets inherit it. From the first moment on, as what is written before would be without its writer's credentials.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        listener.listen(_BACKLOG)  # before this, nobody can connect, whatever the mode was
        yield listener


@contextlib.contextmanager
def bound_by(listen: Callable[[str], object], path: Path, access: Access) -> Iterator[None]:
    """Have a gRPC server bind a socket, and put it in its :func:`reserved` place when it belongs to whom it is for.

    Args:
        listen: binds the gRPC address that it is given.

    Raises:
        ProcessError: it cannot be given to them.
    """
    with contextlib.ExitStack() as stack:
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, directory)
        # By a name that is no longer than it has to be, in a directory that cannot be exchanged meanwhile.
        new = Path(f"/proc/self/fd/{directory}/.{secrets.token_hex(8)}")
        stack.callback(new.unlink, missing_ok=True)
        listen(f"unix:{new}")
        access.apply(new)
        new.rename(f"/proc/self/fd/{directory}/{path.name}")
        stack.callback(path.unlink, missing_ok=True)
        yield
