"""Fixtures: a fake daemon on a Unix socket, and the command line in this process."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from cli.fake_daemon import FakeDaemon, Run
from click.testing import CliRunner, Result

from keyd.cli import cli
from keyd.v1 import (
    audit_service_pb2_grpc,
    backend_service_pb2_grpc,
    key_service_pb2_grpc,
    session_service_pb2_grpc,
    signing_service_pb2_grpc,
)


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    """A running fake daemon to which $KEYD_ADDRESS points."""
    fake = FakeDaemon()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    key_service_pb2_grpc.add_KeyServiceServicer_to_server(fake, server)
    signing_service_pb2_grpc.add_SigningServiceServicer_to_server(fake, server)
    backend_service_pb2_grpc.add_BackendServiceServicer_to_server(fake, server)
    audit_service_pb2_grpc.add_AuditServiceServicer_to_server(fake, server)
    session_service_pb2_grpc.add_SessionServiceServicer_to_server(fake, server)
    session_service_pb2_grpc.add_SessionAdminServiceServicer_to_server(fake, server)
    address = f"unix:{tmp_path}/keyd.sock"
    server.add_insecure_port(address)
    server.start()
    monkeypatch.setenv("KEYD_ADDRESS", address)
    yield fake
    server.stop(None).wait()


@pytest.fixture
def run() -> Run:
    """Run the command line in this process."""

    def invoke(*args: str, stdin: str | bytes | None = None, env: dict[str, str] | None = None) -> Result:
        return CliRunner().invoke(cli, args, input=stdin, env=env, prog_name="keyd")

    return invoke


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that there is someone to ask."""
    monkeypatch.setattr("keyd.cli.prompts.interactive", lambda: True)
