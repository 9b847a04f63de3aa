"""The services as the daemon puts them together, without a socket: a byte chooses the call, the rest is the message on the wire."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from support import FakeClock

from keyd import app, config
from keyd.core.errors import KeydError
from keyd.core.principal import Principal
from keyd.service.admission import methods
from keyd.service.call import Call, Caller
from keyd.service.status import to_status
from keyd.v1 import key_service_pb2, types_pb2

CONFIG = """
[server]
socket = "{directory}/s"
state_dir = "{directory}/state"
[http]
enabled = false
[backends.memory]
type = "memory"
[limits]
rate = 1000000
burst = 1000000
[issuers.a]
hosts = ["a.example"]
keys = ["a"]
origin = "https://a.example"
[profiles.legacy]
unsigned_parameters = true
required_parameters = []
"""
MAX_KEYS = 60  # a fuzzer finds out how to make keys; then it starts again


class RecordedFront:
    """Stands in for every way in: keeps the services that it is given, and listens to nothing."""

    services: dict[Any, Any] = {}  # noqa: RUF012 - of the last one
    tcp = None

    def __init__(self, services: dict[Any, Any], *_: object) -> None:
        RecordedFront.services = services

    async def start(self, stack: AsyncExitStack) -> None: ...

    async def report(self, backends: object) -> None: ...


class Daemon:
    """A daemon with some keys, in this process."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.directory = Path(tempfile.mkdtemp(prefix="keyd-f-"))
        self._stack = AsyncExitStack()
        self.methods: list[MethodDescriptor] = []
        self.names: dict[str, str] = {}
        self.keys = 0
        path = self.directory / "keyd.toml"
        path.write_text(CONFIG.format(directory=self.directory))
        self.loop.run_until_complete(self._start(path))

    async def _start(self, path: Path) -> None:
        real, app.Front = app.Front, RecordedFront  # type: ignore[assignment, misc]
        try:
            self._daemon = await app.start(config.load(path), self._stack, FakeClock())
        finally:
            app.Front = real  # type: ignore[misc]
        for descriptor in RecordedFront.services:
            for method, name in methods(descriptor):
                self.names[method.full_name] = name
                if not (method.client_streaming or method.server_streaming):
                    self.methods.append(method)
        # The corpus has them by number: what is new goes to the end.
        later = ("AuditService", "SessionService", "SessionAdminService")
        order = {name: place for place, name in enumerate(later, 1)}
        self.methods.sort(key=lambda method: (order.get(method.containing_service.name, 0), method.full_name))
        for name, profile, purposes in (
            ("a", "rfc9421", ["http", "jwt"]),
            ("b", "aauth", ["http"]),
            ("c", "lumoauth", ["http"]),
            ("d", "web-bot-auth", ["http", "directory"]),
            ("e", "legacy", ["http"]),
            ("f", "rfc9421", ["raw"]),
        ):
            numbers = [types_pb2.Purpose.Value(f"PURPOSE_{purpose.upper()}") for purpose in purposes]
            spec = key_service_pb2.KeySpec(name=name, profile=profile, purposes=numbers)
            await self._call("CreateKey", key_service_pb2.CreateKeyRequest(spec=spec))

    async def _call(self, name: str, request: Message) -> None:
        (method,) = [method for method in self.methods if method.name == name]
        await self.serve(method, request)

    async def serve(self, method: MethodDescriptor, request: Message) -> None:
        """Do what the gRPC server does with a message."""
        service = RecordedFront.services[method.containing_service]
        call = Call(Caller(Principal(uid=os.geteuid())))
        answer = await getattr(service, self.names[method.full_name])(request, call)
        assert isinstance(answer, Message)
        answer.SerializeToString()
        self.keys = len(self._daemon.keyring.snapshot.keys)

    def close(self) -> None:
        self.loop.run_until_complete(self._close())
        self.loop.close()
        shutil.rmtree(self.directory)

    async def _close(self) -> None:
        await self._stack.aclose()
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)


_daemon: Daemon | None = None


def one_input(data: bytes) -> None:
    """Call one method. Only the errors that have a status may come out of it."""
    global _daemon  # noqa: PLW0603 - as long as the process
    if _daemon is None or _daemon.keys > MAX_KEYS:
        close()
        _daemon = Daemon()
    if not data:
        return
    method = _daemon.methods[data[0] % len(_daemon.methods)]
    try:
        request = GetMessageClass(method.input_type).FromString(data[1:])
    except DecodeError:
        return
    try:
        _daemon.loop.run_until_complete(_daemon.serve(method, request))
    except KeydError as error:
        assert type(error) is not KeydError
        to_status(error).SerializeToString()


def encode(method: str, request: Message) -> bytes:
    """Return the input that makes this call."""
    global _daemon  # noqa: PLW0603
    _daemon = _daemon or Daemon()
    (place,) = [i for i, known in enumerate(_daemon.methods) if known.name == method]
    return bytes([place]) + request.SerializeToString()


def close() -> None:
    """End the daemon, so that nothing stays behind."""
    global _daemon  # noqa: PLW0603
    if _daemon is not None:
        _daemon.close()
        _daemon = None
