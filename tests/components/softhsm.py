"""SoftHSM 2 with one token, in a directory."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from backends.pkcs11 import Pkcs11Config
from backends.secrets import SecretRef

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
LABEL = "keyd test"
PIN = "2357-test"
SO_PIN = "11131719-test"


class SoftHsm:
    """A token store of its own; :meth:`tool` is the other program that uses it, too."""

    def __init__(self, directory: Path) -> None:
        self.tokens = directory / "tokens"
        self.tokens.mkdir(mode=0o700)
        conf = directory / "softhsm2.conf"
        conf.write_text(f"directories.tokendir = {self.tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
        self.environment: Mapping[str, str] = {"SOFTHSM2_CONF": str(conf)}
        self.pin = directory / "pin"
        self.write_pin(PIN)
        self._away = directory / "away"
        self.init_token(LABEL)

    def write_pin(self, pin: str) -> None:
        self.pin.unlink(missing_ok=True)
        self.pin.touch(mode=0o600)
        self.pin.write_text(pin + "\n")

    def init_token(self, label: str, *more: str) -> None:
        """Make a token, or with ``--slot`` or ``--serial`` in ``more`` make one anew."""
        self.run("softhsm2-util", "--init-token", *(more or ("--free",)), "--label", label, "--pin", PIN, "--so-pin", SO_PIN)

    def tool(self, *arguments: str, label: str = LABEL, pin: str = PIN) -> str:
        """Run pkcs11-tool, logged in, and return what it prints."""
        login = ("--module", str(MODULE), "--token-label", label, "--login", "--pin", pin)
        return self.run("pkcs11-tool", *login, *arguments)

    def config(self, **fields: object) -> Pkcs11Config:
        given: dict[str, object] = {
            "uri": "pkcs11:token=" + LABEL.replace(" ", "%20"),
            "module": MODULE,
            "pin": SecretRef(file=self.pin),
            "environment": dict(self.environment),
            "rsa_bits": 2048,
            "reopen_interval": 0.2,
        }
        return Pkcs11Config(**(given | fields))

    @property
    def section(self) -> str:
        """The lines of the daemon's configuration for a backend on this token."""
        environment = "".join(f'environment.{name} = "{value}"\n' for name, value in self.environment.items())
        return (
            f'type = "pkcs11"\nuri = "{self.config().uri}"\nmodule = "{MODULE}"\npin = {{ file = "{self.pin}" }}\n{environment}'
        )

    @contextmanager
    def gone(self) -> Iterator[None]:
        """Take every token away, as a hand that pulls them out would, and put them back."""
        self._away.mkdir(exist_ok=True)
        for token in [*self.tokens.iterdir()]:
            token.rename(self._away / token.name)
        try:
            yield
        finally:
            for token in [*self._away.iterdir()]:
                token.rename(self.tokens / token.name)

    def run(self, *command: str) -> str:
        """Run a program on this store, and return what it prints."""
        done = subprocess.run(command, env={**os.environ, **self.environment}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout
