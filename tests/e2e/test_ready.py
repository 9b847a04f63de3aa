"""What the service manager is told, by the whole daemon: READY once, when it serves. The HTTP/2 server would say so itself, and earlier."""

from __future__ import annotations

import contextlib
import os
import socket

import pytest
from daemon_process import DaemonProcess


@pytest.mark.parametrize("transport", ["grpcio", "http2"])
def test_ready_is_said_once(tmp_path, transport):
    daemon = DaemonProcess()
    text = daemon.config.read_text()
    before = os.environ.get("KEYD_TEST_TRANSPORT", "grpcio")
    daemon.config.write_text(text.replace(f'transport = "{before}"', f'transport = "{transport}"'))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        daemon.exec = True  # as a service manager starts it
        daemon.env["NOTIFY_SOCKET"] = str(tmp_path / "n")
        try:
            daemon.start()
            assert daemon.stop() == 0
        finally:
            daemon.close()
        manager.setblocking(False)
        told = []
        with contextlib.suppress(BlockingIOError):
            while True:
                told.append(manager.recv(4096))
    assert told == [b"READY=1", b"STOPPING=1"]
