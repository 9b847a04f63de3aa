"""The real daemon as a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import forked

from keyd.client import AdminClient, Client, KeydClientError

CONFIG = """
[server]
transport = "grpcio"
socket = "{directory}/run/keyd.sock"
state_dir = "{directory}/state"
drain_timeout = "2s"
[http]
listen = "127.0.0.1:0"
[log]
format = "json"
[backends.file]
type = "file"
kek = {{ file = "{directory}/kek" }}
rsa_bits = 2048
[profiles.vectors]
allow_empty_coverage = true
allow_response_components = true
required_parameters = []
max_created_age = "none"
max_expires_in = "2d"
"""
CONFIG = CONFIG.replace("grpcio", os.environ.get("KEYD_TEST_TRANSPORT", "grpcio"))


class DaemonProcess:
    """A directory with a configuration, and the daemon that runs on it, or does not."""

    def __init__(self, module: str = "keyd", sections: str = "") -> None:
        """``sections`` is more configuration, behind what every daemon here has. ``module`` can be one of the tests."""
        self.directory = Path(tempfile.mkdtemp(prefix="keyd-e-"))
        self.config = self.directory / "keyd.toml"
        self.config.write_text(CONFIG.format(directory=self.directory) + sections)
        self.write_kek(os.urandom(32))
        self.log = self.directory / "log"
        self.process: subprocess.Popen[bytes] | forked.Process | None = None
        self.module = module
        self.logged = 0  # bytes that were in the log at the last start
        self.exec = False  # it is a process from its very beginning, for tests that are about that
        self.env: dict[str, str] = {}
        self.passed: tuple[int, ...] = ()  # descriptors that the daemon is started with, as a service manager may

    def copy(self) -> DaemonProcess:
        """Return another one, with the same state in a directory of its own. This one must not run."""
        twin = DaemonProcess()
        shutil.copytree(self.directory, twin.directory, dirs_exist_ok=True)
        twin.config.write_text(self.config.read_text().replace(str(self.directory), str(twin.directory)))
        return twin

    @property
    def address(self) -> str:
        return f"unix:{self.directory}/run/keyd.sock"

    def write_kek(self, kek: bytes) -> None:
        path = self.directory / "kek"
        path.unlink(missing_ok=True)
        path.write_bytes(kek)
        path.chmod(0o400)

    def client(self, timeout: float = 5.0, retries: int = 2) -> Client:
        return Client(self.address, timeout=timeout, retries=retries)

    def admin(self) -> AdminClient:
        return AdminClient(self.address, timeout=20)

    def command(self) -> list[str]:
        return [sys.executable, "-m", self.module, "serve", "--config", str(self.config)]

    def start(self, *, wait: bool = True) -> DaemonProcess:
        with self.log.open("a") as log:
            self.logged = log.tell()
            environment = {**os.environ, **self.env}
            if self.exec or not forked.can_run(environment):
                self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, env=environment, pass_fds=self.passed)
            else:
                out, arguments = log.fileno(), ["serve", "--config", str(self.config)]
                self.process = forked.Process(
                    self.module, arguments, stdout=out, stderr=out, env=environment, pass_fds=self.passed
                )
        if wait:
            self.wait_until_up()
        return self

    def wait_until_up(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + 30
        # A client that finds nobody there pauses for longer and longer, so it begins when there is somebody.
        while b'"serving"' not in self.log.read_bytes()[self.logged :] and self.process.poll() is None:
            assert time.monotonic() < deadline, f"the daemon does not serve:\n{self.log.read_text()}"
            time.sleep(0.01)
        with self.client() as client:
            while True:
                assert self.process.poll() is None, f"the daemon ended:\n{self.log.read_text()}"
                try:
                    client.jwks()
                    return
                except KeydClientError:
                    assert time.monotonic() < deadline, "the daemon does not answer"

    def events(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    @property
    def jwks_url(self) -> str:
        return [str(event["jwks"]) for event in self.events() if event.get("event") == "serving"][-1]

    def stop(self, signal_number: int = 15) -> int:
        assert self.process is not None
        self.process.send_signal(signal_number)
        return self.process.wait(timeout=30)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop(9)
        shutil.rmtree(self.directory)
