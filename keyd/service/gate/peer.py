"""Who is at the other end of a Unix socket, as the kernel has it.

SO_PEERCRED names a process, and by the time that one looks, the number may be another's. So everything that is read in ``/proc`` is
read through one descriptor of its directory, between two looks at a pidfd of the process that connected: the pidfd says whether it
still lives, and while it lives the number is its own. A process that ended in between is refused.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from keyd.core.principal import Principal
from keyd.service.gate.cgroup import Place, place

PROC = Path("/proc")

_SO_PEERPIDFD = 77  # Linux 6.5
_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid
_MAX_FILE = 64 * 1024
_PAGEMAP_ENTRY = 8
_NOTHING_LEFT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class IdentificationError(Exception):
    """The process that connected cannot be told: it has ended, or is not the one that the socket names."""


@dataclass(slots=True)
class Peer:
    """A process that connected.

    Attributes:
        credentials: what the kernel attaches to what the process writes (``struct ucred``; the uid and gid are the real ones).
    """

    principal: Principal
    credentials: bytes
    _program: int | None = None
    _process: int | None = None
    _directory: int | None = None
    _file: tuple[int, int] | None = None

    def runs_the_same_program(self) -> bool:
        """Say whether the process has neither ended nor executed a program since it was identified."""
        if self._program is not None:
            # Reads one entry of the page map through a descriptor that belongs to the address space of then, not to the process.
            # Executing a program makes a new address space, even of the same program; the old one then reads as empty, unless the
            # program shared it with another process (CLONE_VM).
            try:
                return len(os.pread(self._program, _PAGEMAP_ENTRY, 0)) == _PAGEMAP_ENTRY
            except OSError:
                return False
        # Without the right to that, the process can at least not end and leave its number to another.
        if self._process is not None and _ended(self._process):
            return False
        return self._file is None or _file(self._directory) == self._file

    def lives(self) -> bool:
        """Say whether there is a process of its number: good enough for the log."""
        try:
            os.kill(self.principal.pid or 0, 0)
        except OSError as error:
            return error.errno == errno.EPERM
        return True

    def parts(self) -> tuple[dict[str, Any], list[int]]:
        """Return what :meth:`of_parts` makes the same peer of in another process, and the descriptors to pass along."""
        held = {"program": self._program, "process": self._process, "directory": self._directory}
        there = {name: fd for name, fd in held.items() if fd is not None}
        who = {name: value for name, value in asdict(self.principal).items() if value is not None}
        members = {
            "principal": {**who, "groups": sorted(self.principal.groups)},
            "credentials": self.credentials.hex(),
            "descriptors": list(there),
            "file": self._file,
        }
        return members, list(there.values())

    @classmethod
    def of_parts(cls, members: Mapping[str, Any], descriptors: Sequence[int]) -> Self:
        """Return the peer that another process of this daemon identified. It owns the descriptors from here on."""
        who = {**members["principal"], "groups": frozenset(members["principal"]["groups"]), "dns_names": ()}
        held = dict(zip(members["descriptors"], descriptors, strict=True))
        file = members["file"]
        return cls(
            Principal(**who),
            bytes.fromhex(members["credentials"]),
            held.get("program"),
            held.get("process"),
            held.get("directory"),
            None if file is None else (file[0], file[1]),
        )

    def close(self) -> None:
        """Let go of the descriptors."""
        for fd in (self._program, self._process, self._directory):
            if fd is not None:
                os.close(fd)
        self._program = self._process = self._directory = None
        self._file = (-1, -1)


def credentials(connection: socket.socket) -> tuple[int, int, int]:
    """Return pid, uid and gid of who connected, as they were then. The pid is 0 for who is not visible in our PID namespace."""
    pid, uid, gid = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid, gid


def has_gone(connection: socket.socket) -> bool:
    """Say whether the other end is closed, and not only done with writing."""
    waiting = select.poll()
    waiting.register(connection, 0)
    return any(events & select.POLLHUP for _, events in waiting.poll(0))


@dataclass(slots=True)
class _Files:
    """Descriptors that are closed unless they are kept."""

    fds: list[int] = field(default_factory=list)

    def add(self, fd: int) -> int:
        self.fds.append(fd)
        return fd

    def keep(self, fd: int) -> int:
        self.fds.remove(fd)
        return fd

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


def identify(connection: socket.socket, proc: Path = PROC, between: Callable[[], None] = lambda: None) -> Peer:
    """Find out who connected. Touches the file of the program, which can be slow: not for the event loop.

    Args:
        proc: where procfs is.
        between: called after everything was read and before the second look at the process; for tests.

    Raises:
        IdentificationError: the process has ended, or changed its uid.
        OSError: there are no descriptors left.
    """
    pid, uid, gid = credentials(connection)
    if pid == 0:
        return Peer(Principal(uid=uid, gid=gid), _CREDENTIALS.pack(0, uid, gid))
    files = _Files()
    try:
        pidfd = files.add(_pidfd(connection, pid))
        peer = _identify(pid, uid, gid, proc / str(pid), files, between)
        if _ended(pidfd):
            peer.close()
            raise IdentificationError("the process that connected has ended")
        if peer._program is None:
            peer._process = files.keep(pidfd)
        return peer
    finally:
        files.close()


def _identify(pid: int, uid: int, gid: int, directory: Path, files: _Files, between: Callable[[], None]) -> Peer:
    try:
        at = files.add(os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        started = _start_time(at)
    except (FileNotFoundError, PermissionError):
        between()  # not there for us (hidepid): what the socket says has to do; whether it lives still, the pidfd says
        return Peer(Principal(uid=uid, gid=gid, pid=pid), _CREDENTIALS.pack(pid, uid, gid))
    except (OSError, ValueError) as error:
        raise _unreadable(error) from error
    try:
        status = _status(at)
        uids, gids = status["Uid"], status["Gid"]
        where = place(_read(at, "cgroup").decode("utf-8", "replace"))
    except (OSError, ValueError, LookupError) as error:
        raise _unreadable(error) from error
    if uids[1] != uid or gids[1] != gid:
        raise IdentificationError("the process that connected has another uid or gid by now")
    program = _open_program(at)
    if program is not None:
        files.add(program)
    file = _file(at)
    executable = _executable(at, file)
    between()
    if _start_time_or_none(at) != started:
        raise IdentificationError("the process that connected has ended")
    if program is not None and _file(at) != file:
        raise IdentificationError("the process that connected executes another program")
    groups = frozenset(status["Groups"]) - {gid}
    principal = _principal(uid, gid, groups, pid, executable, where)
    # What is written carries the real ids, while the socket has the effective ones.
    peer = Peer(principal, _CREDENTIALS.pack(pid, uids[0], gids[0]))
    if program is not None:
        peer._program = files.keep(program)
    elif file is not None:
        peer._directory, peer._file = files.keep(at), file
    return peer


def _principal(uid: int, gid: int, groups: frozenset[int], pid: int, executable: str | None, where: Place) -> Principal:
    return Principal(
        uid=uid,
        gid=gid,
        groups=groups,
        pid=pid,
        executable=executable,
        cgroup=where.cgroup,
        unit=where.unit,
        user_unit=where.user_unit,
        container=where.container,
    )


def _pidfd(connection: socket.socket, pid: int) -> int:
    """Return a pidfd of the process that connected; of the one that has its number by now where the kernel is older than 6.5."""
    try:
        return int(struct.unpack("i", connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, 4))[0])
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise _gone(error) from error
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        raise _gone(error) from error


def _gone(error: OSError) -> Exception:
    return error if error.errno in _NOTHING_LEFT else IdentificationError("the process that connected has ended")


def _unreadable(error: Exception) -> Exception:
    if isinstance(error, OSError) and error.errno in _NOTHING_LEFT:
        return error
    return IdentificationError("the process that connected cannot be read; it has probably ended")


def _ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _read(directory: int, name: str) -> bytes:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    with os.fdopen(fd, "rb") as file:
        content = file.read(_MAX_FILE + 1)
    if len(content) > _MAX_FILE:
        raise ValueError(f"{name} is too long")
    return content


def parse_status(content: bytes) -> dict[str, tuple[int, ...]]:
    """Return the lines ``Uid``, ``Gid`` (real, effective, saved, file system) and ``Groups`` of ``/proc/PID/status`` (proc(5)).

    Raises:
        ValueError: one is not of numbers, is there twice, or has too few.
        KeyError: one is missing.
    """
    found: dict[str, tuple[int, ...]] = {}
    for line in content.split(b"\n"):  # the name of the process has its line breaks escaped
        name, _, value = line.partition(b":\t")
        if name in (b"Uid", b"Gid", b"Groups"):
            if name.decode() in found:
                raise ValueError("a line is there twice")
            found[name.decode()] = tuple(_number(word) for word in value.split())
    if len(found["Uid"]) != 4 or len(found["Gid"]) != 4:
        raise ValueError("not four ids")
    return {name: found[name] for name in ("Uid", "Gid", "Groups")}


def parse_start_time(content: bytes) -> int:
    """Return field 22 of ``/proc/PID/stat`` (proc(5)), in clock ticks since boot. The name of the process may hold anything.

    Raises:
        ValueError: it has no such field.
    """
    fields = content.rpartition(b") ")[2].split()
    if len(fields) < 20:
        raise ValueError("too few fields")
    return _number(fields[19])


def _number(word: bytes) -> int:
    if not word.isdigit() or len(word) > 20:
        raise ValueError("not a number")
    return int(word)


def _status(directory: int) -> dict[str, tuple[int, ...]]:
    return parse_status(_read(directory, "status"))


def _start_time(directory: int) -> int:
    return parse_start_time(_read(directory, "stat"))


def _start_time_or_none(directory: int) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return _start_time(directory)
    return None


def _open_program(directory: int) -> int | None:
    """Open the page map of the process's address space; None without the right to, or when it is going to be another."""
    try:
        fd = os.open("pagemap", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        if error.errno in _NOTHING_LEFT:
            raise  # or whoever uses descriptors up would not be held to its program
        return None
    try:
        if len(os.pread(fd, _PAGEMAP_ENTRY, 0)) == _PAGEMAP_ENTRY:
            return fd
    except OSError:
        pass
    os.close(fd)
    return None


def _file(directory: int | None) -> tuple[int, int] | None:
    """Return device and inode of the program's file; None when it cannot be told."""
    try:
        found = os.stat("exe", dir_fd=directory)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _executable(directory: int, file: tuple[int, int] | None) -> str | None:
    """Return the path of the program, if it is the same file for us as for the process.

    The path alone proves nothing: in a mount namespace of its own, a process can have any file under any name.
    """
    if file is None:
        return None
    try:
        path = os.readlink("exe", dir_fd=directory)
        if not path.startswith("/") or path.endswith(" (deleted)") or not path.isprintable():
            return None
        found = Path(path).stat()
    except (OSError, ValueError):
        return None
    return path if (found.st_dev, found.st_ino) == file else None
