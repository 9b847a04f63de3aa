"""A whole daemon inside the test process: real sockets, real files, a clock that the test moves."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from support import FakeClock

from keyd import app, config
from keyd.core.store import SqlStore
from keyd.v1 import backend_service_pb2_grpc, key_service_pb2_grpc, signing_service_pb2_grpc

CONFIG = """
[server]
transport = "grpcio"
socket = "{directory}/run/keyd.sock"
state_dir = "{directory}/state"
drain_timeout = "1s"
[http]
listen = "127.0.0.1:0"
[limits]
rate = 1000000
burst = 1000000
[metrics]
listen = "127.0.0.1:0"
[backends.file]
type = "file"
kek = {{ file = "{directory}/kek" }}
rsa_bits = 2048
[profiles.lenient]
allow_empty_coverage = true
allow_response_components = true
required_parameters = []
max_created_age = "36500d"
max_expires_in = "36500d"
"""
#: What serves the daemons of tests that do not say; both where it matters, by tests/service/conftest.py.
TRANSPORT = os.environ.get("KEYD_TEST_TRANSPORT", "grpcio")
CONFIG = CONFIG.replace("grpcio", TRANSPORT)


@dataclass
class Running:
    directory: Path
    clock: FakeClock
    daemon: app.Daemon
    signing: signing_service_pb2_grpc.SigningServiceAsyncStub
    keys: key_service_pb2_grpc.KeyServiceAsyncStub
    backends: backend_service_pb2_grpc.BackendServiceAsyncStub

    @property
    def address(self) -> str:
        return f"unix:{self.directory}/run/keyd.sock"

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.daemon.http_port}"


@cache
def empty_database() -> bytes:
    """Return the database of a daemon that has never done anything: to make one takes as long as the rest of a start."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "keyd.db"
        SqlStore(path).close()
        return path.read_bytes()


@asynccontextmanager
async def running_in(directory: Path, clock: FakeClock, sections: str = "") -> AsyncIterator[Running]:
    """Run a daemon on what is in a directory, which must have a ``kek``. ``sections`` is more configuration."""
    path = directory / "keyd.toml"
    path.write_text(CONFIG.format(directory=directory) + sections)
    async with AsyncExitStack() as stack:
        daemon = await app.start(config.load(path), stack, clock)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"unix:{directory}/run/keyd.sock"))
        yield Running(
            directory,
            clock,
            daemon,
            signing_service_pb2_grpc.SigningServiceStub(channel),  # type: ignore[arg-type]
            key_service_pb2_grpc.KeyServiceStub(channel),  # type: ignore[arg-type]
            backend_service_pb2_grpc.BackendServiceStub(channel),  # type: ignore[arg-type]
        )
    await asyncio.sleep(0)


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    directory = Path(tempfile.mkdtemp(prefix="keyd-t-"))  # short: a socket path has at most 107 bytes
    (directory / "kek").write_bytes(os.urandom(32))
    (directory / "kek").chmod(0o400)
    (directory / "state").mkdir(mode=0o700)
    (directory / "state/keyd.db").touch(mode=0o600)
    (directory / "state/keyd.db").write_bytes(empty_database())
    async with running_in(directory, FakeClock()) as daemon:
        yield daemon
    shutil.rmtree(directory)


@dataclass
class Refusal:
    code: grpc.StatusCode
    reason: str
    message: str
    metadata: dict[str, str]


async def refused(call: object) -> Refusal:
    """Await a call that must fail, and return how it did."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    assert status is not None, "an error without details"
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "keyd"
    return Refusal(caught.value.code(), info.reason, status.message, dict(info.metadata))
