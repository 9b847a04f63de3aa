"""The software token of NSS, with a database of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

from backends.pkcs11 import Pkcs11Config
from backends.secrets import SecretRef

LABEL = "NSS Certificate DB"
PASSWORD = "nss-test-1"


def module() -> Path:
    return next(Path("/usr").glob("lib*/**/libsoftokn3.so"))


class Nss:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pin = directory / "password"
        self.pin.touch(mode=0o600)
        self.pin.write_text(PASSWORD + "\n")
        subprocess.run(["certutil", "-N", "-d", f"sql:{directory}", "-f", str(self.pin)], check=True, capture_output=True)

    def config(self, **fields: object) -> Pkcs11Config:
        given: dict[str, object] = {
            "uri": "pkcs11:token=" + LABEL.replace(" ", "%20"),
            "module": module(),
            "pin": SecretRef(file=self.pin),
            "library_parameters": f"configdir='sql:{self.directory}' certPrefix='' keyPrefix='' secmod='secmod.db' flags=",
            "rsa_bits": 2048,
            "reopen_interval": 0.2,
        }
        return Pkcs11Config(**(given | fields))
