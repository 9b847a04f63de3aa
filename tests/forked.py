"""Processes that have keyd imported when they begin.

To import all of keyd takes most of a daemon's start. Here one process does it, once for each process of pytest, and is forked for each daemon.
What it forks runs ``python -m MODULE`` from there on, with the environment, the directory and the descriptors of who asked, and ends as any
other interpreter does. multiprocessing has a fork server too; what that starts ends without the exit handlers, and so without its coverage.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

#: Variables that an interpreter or a library reads when it is loaded: who is forked would come too late.
_READ_WHEN_LOADED = ("PYTHON", "LD_", "GRPC_", "OPENSSL_", "MALLOC_", "LANG", "LC_", "TZ", "COVERAGE_")
_NUMBER = struct.Struct("i")
_LONGEST = 1 << 17  # bytes of an order: most of it is the environment


# ---- in the process that asks


class Process:
    """A process that was forked with keyd imported. It has what the tests use of :class:`subprocess.Popen`."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        stdout: int,
        stderr: int,
        env: Mapping[str, str],
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Run ``python -m module arguments``. Descriptors in ``pass_fds`` keep their numbers."""
        self.args = [module, *arguments]
        self.returncode: int | None = None
        self._report, theirs = os.pipe()
        weakref.finalize(self, os.close, self._report)
        order = {"arguments": self.args, "environment": dict(env), "directory": str(Path.cwd()), "numbers": [1, 2, *pass_fds]}
        try:
            _server().send(json.dumps(order).encode(), [theirs, stdout, stderr, *pass_fds])
        finally:
            os.close(theirs)
        self.pid = self._number()

    def _number(self) -> int:
        read = os.read(self._report, _NUMBER.size)
        assert read, f"who forks for the tests has ended, and with it {self.args}"
        return int(_NUMBER.unpack(read)[0])

    def poll(self) -> int | None:
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._look(timeout)
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return code

    def _look(self, seconds: float | None) -> int | None:
        if self.returncode is None:
            poller = select.poll()
            poller.register(self._report, select.POLLIN)
            if poller.poll(None if seconds is None else seconds * 1000):
                self.returncode = self._number()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def can_run(env: Mapping[str, str]) -> bool:
    """Say whether a forked process would be what ``exec`` makes with this environment."""

    def early(environment: Mapping[str, str]) -> dict[str, str]:
        return {name: value for name, value in environment.items() if name.startswith(_READ_WHEN_LOADED)}

    return early(env) == early(_server().environment)


class _Server:
    """The process that forks, as those have it for whom it does. It ends when this one does."""

    def __init__(self) -> None:
        self.environment = dict(os.environ)
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, __file__, str(theirs.fileno())]
        with theirs:  # in a session of its own: Ctrl-C is for pytest, which then lets go
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=self.environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        atexit.register(self._end)

    def send(self, order: bytes, descriptors: Sequence[int]) -> None:
        socket.send_fds(self._orders, [order], descriptors)

    def _end(self) -> None:
        """Have it write what coverage has measured before somebody combines it."""
        self._orders.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


_servers: list[_Server] = []
_lock = threading.Lock()


def _server() -> _Server:
    with _lock:
        if not _servers:
            _servers.append(_Server())
        return _servers[0]


# ---- in the process that forks


@dataclass
class _Order:
    """What somebody wants to have run, and the descriptors that came with it."""

    arguments: list[str]
    environment: dict[str, str]
    directory: str
    numbers: list[int]
    descriptors: list[int]


def _import_all() -> None:
    """Import what every daemon needs. Nothing of it may start a thread, or open what two processes must not share."""
    # sys.path as with -m, and the modules of the tests behind all else.
    if not sys.flags.safe_path:
        sys.path[0] = str(Path.cwd())
    sys.path.append(str(Path(__file__).parent))
    import keyd.cli
    from keyd import process

    process.prepare_grpc()
    import backends.file  # noqa: F401
    import keyd.app
    import keyd.workers.serve  # noqa: F401

    threads = len(list(Path("/proc/self/task").iterdir()))
    assert threads == 1, f"to import keyd starts {threads - 1} threads: it cannot be forked"


def _serve(orders: socket.socket) -> _Order | None:
    """Fork for each order. Returns the order in the process that was forked; None in this one, when nobody gives orders any more."""
    running: dict[int, tuple[int, int]] = {}  # by pidfd: the pid, and where its end is told
    poller = select.poll()
    poller.register(orders, select.POLLIN)
    while True:
        for ready, _ in poller.poll():
            if ready != orders.fileno():
                poller.unregister(ready)
                _tell_end(ready, *running.pop(ready))
                continue
            message, received, *_ = socket.recv_fds(orders, _LONGEST, 64)
            if not message:
                return None
            report, *descriptors = received
            # An interpreter forgets the signals that come while it is forked.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            pid = os.fork()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            if pid == 0:
                orders.close()
                for each in (report, *running, *(told for _, told in running.values())):
                    os.close(each)
                return _Order(**json.loads(message), descriptors=descriptors)
            for each in descriptors:
                os.close(each)
            with suppress(BrokenPipeError):  # who asked waits no longer: it was interrupted, or timed out
                os.write(report, _NUMBER.pack(pid))
            pidfd = os.pidfd_open(pid)
            running[pidfd] = pid, report
            poller.register(pidfd, select.POLLIN)


def _tell_end(pidfd: int, pid: int, report: int) -> None:
    _, status = os.waitpid(pid, 0)
    with suppress(BrokenPipeError):  # nobody waits for it
        os.write(report, _NUMBER.pack(os.waitstatus_to_exitcode(status)))
    os.close(report)
    os.close(pidfd)


def _become(order: _Order, parent: int) -> None:
    from keyd.process import end_with_parent

    end_with_parent(parent)
    # First out of the way of the numbers that they shall have.
    held = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 512) for each in order.descriptors]
    for each in order.descriptors:
        os.close(each)
    for each, number in zip(held, order.numbers, strict=True):
        os.dup2(each, number)
        os.close(each)
    os.environ.clear()
    os.environ.update(order.environment)
    os.chdir(order.directory)
    sys.argv = order.arguments
    runpy.run_module(order.arguments[0], run_name="__main__", alter_sys=True)


def _main() -> None:
    orders, here = socket.socket(fileno=int(sys.argv[1])), os.getpid()
    _import_all()
    gc.freeze()  # what is here stays: no process that is forked need look through it
    order = _serve(orders)
    if order is not None:
        _become(order, here)


if __name__ == "__main__":
    _main()
