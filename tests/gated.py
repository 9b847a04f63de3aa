"""A gate in the test process, in front of a server that answers who calls; and programs of their own that call it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio

from keyd.service.gate.limits import Quota
from keyd.service.gate.listener import Access, listening
from keyd.service.gate.private import PrivateSocket
from keyd.service.gate.unix import UnixGate

WHO = "/test.Who/Who"
BIG = "/test.Who/Big"
TESTS = Path(__file__).parent


class Gated:
    """``callers`` has the principal of every call that the server saw."""

    def __init__(self, stack: AsyncExitStack, **options: Any) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="keyd-g-"))
        stack.callback(shutil.rmtree, self.directory)
        self.socket = self.directory / "s"
        self.callers: list[dict[str, Any]] = []
        self.kept: list[Any] = []
        self.private = PrivateSocket(self.directory)
        self.quota = options.pop("quota", Quota(1000, 1000))
        self.server = grpc.aio.server()
        handlers = {name: grpc.unary_unary_rpc_method_handler(getattr(self, name.lower())) for name in ("Who", "Big")}
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Who", handlers),))
        self.listener = stack.enter_context(listening(self.socket, Access()))
        self.gate = UnixGate(self.listener, self.private, self.quota, **{"handshake_timeout": 5.0, **options})
        self.stack = stack

    async def start(self) -> Gated:
        """Start the server; the gate not yet, so that callers can be made to wait."""
        self.stack.callback(self.private.close)
        self.private.bind(self.server.add_insecure_port)
        await self.server.start()
        self.stack.push_async_callback(self.gate.close)
        self.stack.push_async_callback(self.server.stop, 0)
        return self

    def accept(self) -> None:
        self.gate.start()
        self.stack.callback(self.gate.stop)

    async def who(self, request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        caller = self.private.caller(context.peer())
        assert caller is not None
        if request.startswith(b"hold"):
            caller.hold_back(float(request[4:]))
        self.kept.append(caller)
        found = asdict(caller.principal)
        self.callers.append(found)
        return json.dumps(found, default=sorted).encode()

    async def big(self, request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        return request[::-1]


@contextlib.asynccontextmanager
async def gated(*, accept: bool = True, **options: Any) -> AsyncIterator[Gated]:
    async with AsyncExitStack() as stack:
        result = await Gated(stack, **options).start()
        if accept:
            result.accept()
        yield result


PRELUDE = """
import array, json, os, signal, socket, sys, time
sys.path.insert(0, {tests!r})
from raw_grpc import RawChannel
PATH = {path!r}
def connect():
    connected = socket.socket(socket.AF_UNIX)
    connected.settimeout(10)
    connected.connect(PATH)
    return connected
def say(thing):
    print(thing if isinstance(thing, str) else thing.decode() if thing is not None else "error", flush=True)
def attempt(channel):
    try:
        say(channel.call("/test.Who/Who"))
    except (OSError, ConnectionError) as error:
        say("closed")
"""


class Program:
    """A program that runs Python code, under an executable of its own if it is given one."""

    def __init__(self, code: str, path: Path, executable: Path | None = None, before: Sequence[str] = (), **options: Any) -> None:
        script = PRELUDE.format(tests=str(TESTS), path=str(path)) + code
        program = executable or Path(sys.executable)
        self.process = subprocess.Popen(
            [*before, str(program), "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONHOME": sys.base_prefix, "PYTHONDONTWRITEBYTECODE": "1"},
            text=True,
            **options,
        )

    async def line(self) -> str:
        """Return the next line that it prints."""
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            return (await asyncio.to_thread(self.process.stdout.readline)).strip()

    async def caller(self) -> dict[str, Any]:
        return dict(json.loads(await self.line()))

    def tell(self, line: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def connected(path: Path) -> socket.socket:
    """A blocking connection, for a thread."""
    result = socket.socket(socket.AF_UNIX)
    result.settimeout(10)
    try:
        result.connect(str(path))
    except OSError:
        result.close()
        raise
    return result


def copy_of_python(path: Path) -> Path:
    """Make an executable that is another file, and does the same."""
    shutil.copy(os.path.realpath(sys.executable), path)
    return path
