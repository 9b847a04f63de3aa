"""The daemon as a process: hardening, the lock, the supervisor, and the place of its socket."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import gc
import os
import resource
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

#: Longest path of a Unix socket in bytes: ``sun_path`` has 108, one for the final zero (unix(7)).
SOCKET_PATH_MAX = 107

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_PROBE_TIMEOUT = 1.0  # seconds


class ProcessError(Exception):
    """The surroundings do not let the daemon start safely."""


class AlreadyRunningError(ProcessError):
    """Another keyd holds the lock or answers on the socket."""


def prepare_grpc() -> None:
    """Have grpcio listen in its older way, unless the operator says what it shall do. To be called before grpcio is imported.

    Its newer listener, an experiment that is on by default, took more CPU for each call where it was measured (docs/performance.md).
    """
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")


@contextlib.contextmanager
def settling() -> Iterator[None]:
    """Keep what is made within out of the search for garbage: it stays.

    To look through it again and again while it becomes more takes a third of the start with many keys, and a tenth of the imports; and later
    some 50 ms each time, in which nobody's call goes on. What is garbage at the end is not looked for either: a start leaves a handful
    of objects, the imports a thousand, and to find them among those of 100,000 keys takes 0.2 s.
    """
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def harden() -> list[str]:
    """Keep this process's memory and files from other users: no core dumps, no ptrace, no new privileges, umask 077.

    Returns what could not be done, as messages for the log; empty when all was. Call it before any secret is read.
    """
    os.umask(0o077)
    failed = []
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError) as error:
        failed.append(f"cannot turn core dumps off: {error}")
    if sys.platform != "linux":
        return [*failed, "cannot keep debuggers out: this system has no prctl"]
    failed += _prctl(_PR_SET_DUMPABLE, 0, "cannot keep debuggers out")
    failed += _prctl(_PR_SET_NO_NEW_PRIVS, 1, "cannot renounce new privileges")
    return failed


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process as soon as the one that started it has ended, and end at once if that is so already.

    Args:
        parent: pid of who started it.
    """
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, "")
    if os.getppid() != parent:
        os._exit(1)


def _prctl(option: int, value: int, failure: str) -> list[str]:
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError) as error:
        return [f"{failure}: {error}"]
    # A variadic function of longs: without the types, the upper halves of the arguments are not defined.
    prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    if prctl(option, value, 0, 0, 0) != 0:
        return [f"{failure}: {os.strerror(ctypes.get_errno())}"]
    return []


@contextlib.contextmanager
def lock_file(path: Path) -> Iterator[int]:
    """Hold an exclusive lock on this file, which then has our pid; made, with its directory, when missing. Gives the descriptor.

    The kernel releases the lock when the process ends, however it ends, and every other that the descriptor was passed to. The file stays: removing it would let two
    processes lock two files of one name.

    Raises:
        AlreadyRunningError: another process holds it; the message has its pid if that can be read.
        ProcessError: the file cannot be opened, or others could replace it.
    """
    _safe_directory(path.parent)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise ProcessError(f"cannot open the lock file {path}: {_reason(error)}; check the owner of its directory") from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ProcessError(f"the lock file {path} is not a file; remove it")
        _lock(fd, path)
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        yield fd
        os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        pid = os.pread(fd, 20, 0).strip()
        holder = f"pid {int(pid)}" if pid.isdigit() else "another process"
        raise AlreadyRunningError(f"keyd runs already: {holder} holds {path}; stop it or set another state_dir") from error
    except OSError as error:
        raise ProcessError(f"cannot lock {path}: {_reason(error)}; state_dir must be on a file system with locks") from error


_environment: dict[str, str] = {}


def take_service_manager() -> None:
    """Keep what the service manager is told to keyd: a library that finds its address would say READY too early."""
    _environment["NOTIFY_SOCKET"] = os.environ.pop("NOTIFY_SOCKET", "")


def notify(state: str) -> bool:
    """Tell the service manager, if there is one, for example ``"READY=1"`` or ``"STOPPING=1"`` (sd_notify(3)).

    Returns whether it was sent. Adds the time that ``RELOADING=1`` has to carry. Never raises: there may be no manager.
    """
    address = _environment.get("NOTIFY_SOCKET") or os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if state.startswith("RELOADING=1"):
        state += f"\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
            manager.connect(address)
            manager.sendall(state.encode())
    except (OSError, ValueError):
        return False
    return True


def leave_behind_threads(prefix: str, code: int) -> None:
    """End the process at once if threads whose names begin so are still at work; the interpreter would wait for them for ever."""
    for thread in threading.enumerate():
        if thread.name.startswith(prefix):
            thread.join(timeout=1.0)  # idle ones are on their way out
            if thread.is_alive():
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)


def prepare_socket(path: Path) -> None:
    """Make room for a listening Unix socket: a safe directory, and no stale socket of an earlier run.

    Raises:
        AlreadyRunningError: something listens there.
        ProcessError: the path is too long, is not a socket, or is in a directory where others could replace it.
    """
    problem = socket_path_problem(path)
    if problem:
        raise ProcessError(f"socket {path}: {problem}")
    _safe_directory(path.parent)
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ProcessError(f"{path} is there and is not a socket; move it away or set server.socket")
    _refuse_live(path)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def socket_path_problem(path: Path) -> str | None:
    """Say what keeps this path from being a Unix socket's, or None."""
    if not path.is_absolute():
        return "the path is not absolute"
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_MAX:
        return f"the path has {length} bytes and a socket takes {SOCKET_PATH_MAX}; choose a shorter one"
    return None


def _refuse_live(path: Path) -> None:
    """Raise unless the kernel says that nobody listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(_PROBE_TIMEOUT)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        # A full backlog, or a socket of another type: there is someone.
        except OSError as error:
            if error.errno in {errno.EAGAIN, errno.EPROTOTYPE} or isinstance(error, TimeoutError):
                raise AlreadyRunningError(_live(path)) from error
            raise ProcessError(f"cannot tell whether anything listens on {path}: {_reason(error)}; remove it if not") from error
    raise AlreadyRunningError(_live(path))


def _live(path: Path) -> str:
    return f"something listens on {path} already, perhaps another keyd; stop it or set server.socket"


def _safe_directory(directory: Path) -> None:
    """Make the directory, 0700, if it is missing; refuse it if others could replace what is in it or above it."""
    try:
        for missing in reversed([d for d in (directory, *directory.parents) if not d.exists()]):
            missing.mkdir(mode=0o700)
        resolved = directory.resolve(strict=True)
        if not resolved.is_dir():
            raise ProcessError(f"{directory} is not a directory; move it away or choose another place")
        for each in (resolved, *resolved.parents):
            _check_directory(each)
    except OSError as error:
        raise ProcessError(f"cannot use the directory {directory}: {_reason(error)}; make it for the daemon's user") from error


def _check_directory(directory: Path) -> None:
    found = directory.stat()
    if found.st_uid not in {0, os.geteuid()}:
        raise ProcessError(
            f"{directory} belongs to uid {found.st_uid}, who could replace its files; chown it or choose another place"
        )
    if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
        raise ProcessError(f"{directory} is writable by others, who could replace its files; run: chmod go-w {directory}")


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
