"""SoftHSM 2 for the demo: a token of its own, in a directory that is gone afterwards."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keyd.demo.stores import DemoStore, StoreMissingError

_INSTALL = "run apt install softhsm2, dnf install softhsm or brew install softhsm, and try again"
_MODULES = (  # in which package managers install it
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/*/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
)


@contextmanager
def start(directory: Path) -> Iterator[DemoStore]:
    """Make a token in this directory. SoftHSM is a library: nothing runs but the daemon that loads it.

    Raises:
        StoreMissingError: SoftHSM is not installed.
    """
    utility, module = shutil.which("softhsm2-util"), _module()
    if utility is None or module is None:
        raise StoreMissingError(f"SoftHSM 2 is not installed; {_INSTALL}")
    tokens, configuration, pin_file = directory / "tokens", directory / "softhsm2.conf", directory / "pin"
    tokens.mkdir(mode=0o700)
    configuration.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
    pin = secrets.token_hex(8)
    pin_file.touch(mode=0o600)
    pin_file.write_text(pin)
    environment = {"SOFTHSM2_CONF": str(configuration)}
    token = ["--init-token", "--free", "--label", "keyd", "--pin", pin, "--so-pin", secrets.token_hex(8)]
    try:
        subprocess.run([utility, *token], env={**os.environ, **environment}, check=True, capture_output=True, timeout=30)  # noqa: S603
        version = subprocess.run([utility, "--version"], check=True, capture_output=True, text=True, timeout=30).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        # The command, and so the exception, holds the PIN.
        raise StoreMissingError(f"softhsm2-util does not work ({type(error).__name__}); reinstall SoftHSM 2") from None
    yield DemoStore(
        description=f"SoftHSM {version.strip()}, a PKCS#11 token",
        section=(
            'type = "pkcs11"\n'
            'uri = "pkcs11:token=keyd"\n'
            f'module = "{module}"\n'
            f'pin = {{ file = "{pin_file}" }}\n'
            f'environment = {{ SOFTHSM2_CONF = "{configuration}" }}\n'
        ),
        algorithm="Ed25519",
        environment={},
    )


def _module() -> Path | None:
    root = Path("/")
    found = (path for pattern in _MODULES for path in sorted(root.glob(pattern[1:])))
    return next(found, None)
