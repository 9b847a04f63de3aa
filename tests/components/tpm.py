"""A TPM 2.0 in software, behind the resource manager that shares it out, and stores of tpm2-pkcs11 in it.

Starting takes a second, so there is one TPM per test process. Its stores are directories: as many as there are tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from backends.pkcs11 import Pkcs11Config
from backends.secrets import SecretRef

LABEL = "keyd tpm"
PIN = "2357-tpm"


def module() -> Path:
    return next(Path("/usr").glob("lib*/**/libtpm2_pkcs11.so.1"))


class Tpm:
    """The running TPM. Tokens are made by other programs than the backend, and copied for every test."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._template = directory / "template"
        self.environment: Mapping[str, str] = {
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path={directory}/bus",
            "TPM2_PKCS11_TCTI": "tabrmd:bus_type=session",
        }
        self._start_tpm()
        self._manager = self._start_manager()
        self._make_template()

    def config(self, store: Path, **fields: object) -> Pkcs11Config:
        """Return the configuration for a store, which is made without keys if it is not there."""
        if not store.exists():
            shutil.copytree(self._template, store)
            (store / "pin").touch(mode=0o600)
            (store / "pin").write_text(PIN + "\n")
        given: dict[str, object] = {
            "uri": "pkcs11:token=" + LABEL.replace(" ", "%20"),
            "module": module(),
            "pin": SecretRef(file=store / "pin"),
            "environment": {**self.environment, "TPM2_PKCS11_STORE": str(store)},
            "rsa_bits": 2048,
            "reopen_interval": 0.2,
        }
        return Pkcs11Config(**(given | fields))

    @contextmanager
    def gone(self) -> Iterator[None]:
        """Stop the resource manager, without which nobody gets at the TPM, and start another."""
        self._manager.kill()
        self._manager.wait(timeout=10)
        try:
            yield
        finally:
            self._manager = self._start_manager()

    def _start_tpm(self) -> None:
        state, socket, bus = self._directory / "state", self._directory / "swtpm", self._directory / "bus"
        state.mkdir()
        run = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--flags", "not-need-init,startup-clear"]
        # tpm2-tss knows the second socket by the name of the first.
        run += ["--server", f"type=unixio,path={socket}", "--ctrl", f"type=unixio,path={socket}.ctrl"]
        _spawn(self._stack, run)
        _spawn(self._stack, ["dbus-daemon", "--session", "--nofork", f"--address=unix:path={bus}"])
        _wait(lambda: socket.exists() and bus.exists(), "swtpm or dbus-daemon does not listen")

    def _start_manager(self) -> subprocess.Popen[bytes]:
        run = [_sbin("tpm2-abrmd"), "--session", "--allow-root", f"--tcti=swtpm:path={self._directory}/swtpm"]
        return _spawn(self._stack, run, {**os.environ, **self.environment})

    def _make_template(self) -> None:
        self._template.mkdir()
        environment = {**os.environ, **self.environment, "TPM2_PKCS11_STORE": str(self._template)}
        tool = ["pkcs11-tool", "--module", str(module())]

        def done(*arguments: str) -> bool:
            run = [*tool, "--so-pin", PIN, *arguments]
            return subprocess.run(run, env=environment, capture_output=True, check=False).returncode == 0

        _wait(lambda: done("--slot-index", "0", "--init-token", "--label", LABEL), "tpm2-abrmd does not answer")
        assert done("--token-label", LABEL, "--login", "--login-type", "so", "--init-pin", "--pin", PIN)


@contextmanager
def running() -> Iterator[Tpm]:
    """Run a TPM and its resource manager until the end of the context."""
    # Not in a test's own directory: the path of a Unix socket must be short.
    with tempfile.TemporaryDirectory(prefix="keyd-tpm-") as directory, ExitStack() as stack:
        yield Tpm(Path(directory), stack)


def _sbin(name: str) -> str:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or name


def _spawn(stack: ExitStack, command: list[str], environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(process.wait, timeout=10)
    stack.callback(process.kill)
    return process


def _wait(until: Callable[[], bool], complaint: str) -> None:
    end = time.monotonic() + 20
    while not until():
        assert time.monotonic() < end, complaint
        time.sleep(0.05)
