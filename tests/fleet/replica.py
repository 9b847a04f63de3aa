"""One replica as a process of its own, which can be killed, stopped and started again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import suppress
from math import inf
from pathlib import Path

from components.openbao import Tenant
from components.postgres import Database
from ports import free_ports

from keyd.client import AdminClient, Client, KeydClientError

CONFIG = """
[server]
socket = "{directory}/keyd.sock"
state_dir = "{directory}/state"
drain_timeout = "2s"
[store]
url = "{url}"
replica = "{name}"
[http]
listen = "127.0.0.1:{http}"
[metrics]
listen = "127.0.0.1:{metrics}"
[log]
format = "json"
[limits]
rate = 100000
burst = 100000
[jwks]
max_age = "1s"
[defaults]
backend = "bao"
profile = "fleet"
publish_lead = "{lead}s"
sign_grace = "5s"
retention = "12s"
[profiles.fleet]
max_created_age = "60s"
max_expires_in = "10s"
[backends.bao]
"""
#: What a planned version is published before it signs, in seconds: as short as a max-age of 1 s lets it be.
LEAD = 2
#: Seconds in which a replica that was hurt may be behind the others.
CATCHES_UP = 3.0


class Replica:
    """One replica. Its address stays the same from one process to the next."""

    def __init__(self, name: str, database: Database, tenant: Tenant) -> None:
        self.name = name
        self.directory = Path(tempfile.mkdtemp(prefix=f"keyd-{name}-"))
        http, metrics = free_ports(2)
        self.http, self.metrics = f"http://127.0.0.1:{http}", f"http://127.0.0.1:{metrics}"
        self.config = self.directory / "keyd.toml"
        values = {"directory": self.directory, "url": database.url, "name": name, "lead": LEAD}
        self.config.write_text(CONFIG.format(http=http, metrics=metrics, **values) + tenant.section(tenant.server.unix))
        self.log = self.directory / "log"
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._hurt_until = 0.0
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"unix:{self.directory}/keyd.sock"

    def client(self) -> Client:
        return Client(self.address, timeout=3.0, retries=0)

    def admin(self) -> AdminClient:
        return AdminClient(self.address, timeout=10.0, retries=0)

    def hurt(self) -> None:
        """It may be gone or behind from now on."""
        self._hurt_until = inf

    def healed(self) -> None:
        self._hurt_until = time.monotonic() + CATCHES_UP

    def was_hurt(self, since: float) -> bool:
        """Say whether it was hurt at some time since then, on the monotonic clock."""
        return self._hurt_until > since

    def start(self) -> None:
        with self.log.open("a") as log:
            command = [sys.executable, "-m", "keyd", "serve", "--config", str(self.config)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self.starts += 1

    def wait_until_up(self, seconds: float = 90) -> None:
        """Wait until it serves. One that ends, because its database is away, is started again, as a service manager does."""
        deadline = time.monotonic() + seconds
        with self.client() as client:
            while True:
                assert time.monotonic() < deadline, f"replica {self.name} does not come up:\n{self.log.read_text()[-3000:]}"
                if self._process is None or self._process.poll() is not None:
                    self.start()
                with suppress(KeydClientError):
                    client.key_info("agent-0", refresh=True)
                    if self.ready():
                        return
                time.sleep(0.2)

    def ready(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.http}/readyz", timeout=3) as answer:
            return bool(answer.status == 200)
        return False

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def end(self, number: signal.Signals) -> int:
        """End the process and return how it ended."""
        assert self._process is not None
        if self._process.poll() is None:
            self.signal(number)
        return self._process.wait(60)

    def close(self) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                self.signal(signal.SIGCONT)
            self.end(signal.SIGKILL)
        shutil.rmtree(self.directory)

    def figure(self, name: str) -> float:
        """Return one of its figures. Raises OSError when it does not answer."""
        with urllib.request.urlopen(f"{self.metrics}/metrics", timeout=3) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(f"{name} "):
                    return float(line.split()[1])
        raise OSError(f"no figure {name}")

    def document(self, path: str) -> tuple[bytes, str]:
        """Return a JWK Set and its ETag. Raises OSError when it does not answer."""
        with urllib.request.urlopen(f"{self.http}{path}", timeout=3) as answer:
            return answer.read(), answer.headers["ETag"]
