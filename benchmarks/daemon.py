"""The keyd that is measured: as it is delivered, but that one caller may have all the rate there is."""

from __future__ import annotations

import base64
import functools
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import grpc
import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from daemon_process import DaemonProcess

from backends.api import Algorithm, PublicKey
from backends.encoding import verify_raw
from benchmarks.load import GRPC, Target
from benchmarks.payload import SIGN, SIGN_BATCH, base, batch_request, frame, sign_request
from keyd.client import Client, KeydClientError
from keyd.v1 import signing_service_pb2 as pb
from keyd.v1 import signing_service_pb2_grpc

GUARDED = """
[metrics]
listen = "127.0.0.1:0"
{backend}[limits]
rate = 1000000
burst = 1000000
[sockets.bench]
path = "{directory}/run/bench.sock"
[grants.owner]
principals = [{ uid = UID }]
operations = ["*"]
keys = ["*"]
[grants.bench]
principals = [{ uid = UID }, { socket = "bench" }]
keys = ["bench"]
purposes = ["http"]
authorities = ["api.example.com"]
methods = ["GET", "POST"]
paths = ["/v1/"]
[grants.raw]
principals = [{ uid = UID }, { socket = "bench" }]
keys = ["raw"]
purposes = ["raw"]
""".replace("UID", str(os.geteuid()))
#: Keys in memory; where several processes sign, keys in files, which the configuration has already.
BACKENDS = {
    "memory": '[backends.memory]\ntype = "memory"\n[defaults]\nbackend = "memory"\n',
    "file": '[defaults]\nbackend = "file"\n',
}
SILENT = "[audit]\nenabled = false\n"


class BenchDaemon(DaemonProcess):
    """A daemon with a key for bases and one for raw bytes, run by the Python that is given."""

    def __init__(
        self, sections: str = "", *, server: str = "", http: str = "", backend: str = "memory", python: str = sys.executable
    ) -> None:
        """``server`` is more lines for ``[server]``, such as ``workers = 2``, and ``http`` for ``[http]``; ``backend`` is ``memory`` or ``file``."""
        super().__init__(sections=GUARDED.replace("{backend}", BACKENDS[backend]) + sections)
        text = self.config.read_text().replace("{directory}", str(self.directory))
        text = as_delivered(text)
        text = text.replace("[server]\n", f"[server]\n{server}\n", 1).replace("[http]\n", f"[http]\n{http}\n", 1)
        self.config.write_text(text)
        self.python = python
        self.exec = (
            True  # it is what is delivered, from its very beginning, and may be another keyd than the one that is installed here
        )

    def command(self) -> list[str]:
        return [self.python, *super().command()[1:]]

    def wait_until_up(self) -> None:
        """Wait for the first answer about a key. Not for the JWK Set, which can be larger than a message."""
        assert self.process is not None
        deadline = time.monotonic() + 600  # a slow start is a figure, and no failure
        # A channel that was refused waits up to two seconds before it connects again, which is no time that the daemon takes.
        while not self._listens():
            assert self.process.poll() is None, f"the daemon ended:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, "the daemon does not listen"
            time.sleep(0.01)
        with Client(self.address, timeout=1, retries=0) as client:
            while True:
                assert self.process.poll() is None, f"the daemon ended:\n{self.log.read_text()}"
                try:
                    client.key_info("bench", refresh=True)
                except KeydClientError as refusal:
                    if refusal.reason == "NOT_FOUND":
                        return
                    assert time.monotonic() < deadline, f"the daemon does not answer: {refusal}"
                    time.sleep(0.01)
                else:
                    return

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.directory / "run" / "keyd.sock")) == 0

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def metrics_url(self) -> str:
        """Where the daemon says that its figures are."""
        return [str(event["metrics"]) for event in self.events() if event.get("event") == "serving"][-1]

    def allowed(self) -> float:
        """Return how many signatures the daemon says that it allowed."""
        return sum(self.allowed_by_worker().values())

    def allowed_by_worker(self) -> dict[str, float]:
        """Return the same by worker; under no name where there is one process."""
        return allowed_in(httpx.get(self.metrics_url).text)

    def public_key(self, key: str) -> PublicKey:
        """Return the public key that signs now."""
        with self.client() as client:
            info = client.key_info(key)
        assert info.active is not None
        return public_key(info.active.public_jwk)

    def target(self, name: str = "keyd", *, key: str = "bench", base_uri: str | None = None, batch: int = 0) -> Target:
        """Return what h2load has to know to have bases, raw bytes or batches signed."""

        def body() -> bytes:
            if batch:
                return frame(batch_request(key, batch))
            return frame(pb.SignRequest(key=key, message=base()) if key == "raw" else sign_request(key))

        where = base_uri or self.address
        url = SIGN_BATCH if batch else SIGN
        return Target(name, self.pid, url, where, GRPC, body, done=self.allowed, each=max(1, batch))


@contextmanager
def daemon(
    sections: str = "", *, server: str = "", http: str = "", backend: str = "memory", python: str = sys.executable
) -> Iterator[BenchDaemon]:
    """A daemon that runs, with its keys, for as long as it takes."""
    process = BenchDaemon(sections, server=server, http=http, backend=backend, python=python)
    try:
        process.start()
        with process.admin() as admin:
            admin.create_key("bench", backend=backend)
            admin.create_key("raw", backend=backend, purposes=["raw"])
        yield process
    finally:
        process.close()


def as_delivered(text: str) -> str:
    """Return the configuration of a daemon of the tests without the transport that the tests choose."""
    return re.sub("^transport = .*\n", "", text, flags=re.MULTILINE)


def allowed_in(figures: str) -> dict[str, float]:
    """Return how many signatures were allowed, by the figures of a daemon, for each worker that they tell apart, whatever else they do."""
    allowed: dict[str, float] = {}
    for labels, value in re.findall(r"^keyd_decisions_total\{([^}]*)\} ([0-9.e+]+)", figures, re.MULTILINE):
        said = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if (said.get("operation"), said.get("reason")) == ("sign", ""):
            worker = said.get("worker", "")
            allowed[worker] = allowed.get(worker, 0.0) + float(value)
    return allowed


def public_key(jwk: str) -> PublicKey:
    """Return the key of a public JWK."""
    x = json.loads(jwk)["x"]
    return Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(x + "=" * (-len(x) % 4)))


def spot_check(address: str, request: pb.SignRequest, public: PublicKey) -> None:
    """Sign once and verify it: what is counted are signatures, not answers."""
    with grpc.insecure_channel(address) as channel:
        response = signing_service_pb2_grpc.SigningServiceStub(channel).Sign(request, timeout=10)
    verify_raw(public, Algorithm.ED25519, response.signature, getattr(request, str(request.WhichOneof("input"))))


@functools.cache
def takes(server: str, sections: str = "", python: str = sys.executable) -> bool:
    """Say whether the daemon takes more lines for ``[server]``, and more sections: it may be older than they are."""
    process = BenchDaemon(sections, server=server, backend="file", python=python)
    try:
        line = [python, "-m", "keyd", "config", "check", "--config", str(process.config)]
        return subprocess.run(line, capture_output=True, check=False).returncode == 0
    finally:
        process.close()


@functools.cache
def defaults(python: str = sys.executable) -> Mapping[str, object]:
    """Return the section ``[server]`` of a daemon whose configuration says nothing."""
    import tomllib

    with tempfile.NamedTemporaryFile(suffix=".toml") as empty:
        line = [python, "-m", "keyd", "config", "show", "--config", empty.name]
        shown = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    section = tomllib.loads(shown)["server"]
    assert isinstance(section, dict)
    return section


def transports(python: str = sys.executable) -> dict[str, str]:
    """Return the line of ``[server]`` for each transport that there is, the default first."""
    default = str(defaults(python).get("transport", "grpcio"))
    lines = {name: f'transport = "{name}"' for name in ("grpcio", "http2") if name != default}
    return {default: ""} | {name: line for name, line in lines.items() if takes(line, python=python)}
