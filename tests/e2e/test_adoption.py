"""Keys that were there before keyd: taken over where they live, and what keyd signs with them is verified by the store's own tool."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from components.openbao import OpenBao
from components.softhsm import SoftHsm
from daemon_process import DaemonProcess

MESSAGE = b"what an agent signs"


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="keyd-a-") as directory:  # short: a socket path has at most 107 bytes
        yield Path(directory)


@contextmanager
def running(section: str) -> Iterator[DaemonProcess]:
    daemon = DaemonProcess(sections=f"[backends.store]\n{section}")
    try:
        yield daemon.start()
    finally:
        daemon.close()


def keyd(daemon: DaemonProcess, *arguments: str) -> str:
    command = [sys.executable, "-m", "keyd", "--address", daemon.address, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def unrecorded(daemon: DaemonProcess) -> list[str]:
    listed = json.loads(keyd(daemon, "backend", "keys", "store", "--unrecorded", "--json"))
    return [key["handle"] for key in listed["keys"]]


def adopted(daemon: DaemonProcess, handle: str) -> bytes:
    """Adopt the one key that is there, and have an agent sign with it."""
    assert unrecorded(daemon) == [handle]
    keyd(daemon, "key", "adopt", "legacy", handle, "--backend", "store", "--purpose", "raw", "--kid", "known-to-verifiers")
    assert unrecorded(daemon) == []
    with daemon.client() as client:
        signed = client.sign_message("legacy", MESSAGE)
    assert (signed.kid, signed.jose_algorithm) == ("known-to-verifiers", "Ed25519")
    return signed.signature


def test_a_key_of_pkcs11_tool(directory: Path) -> None:
    token = SoftHsm(directory)
    token.tool("--keypairgen", "--key-type", "EC:edwards25519", "--id", "0a17", "--label", "made by hand", "--usage-sign")
    with running(token.section) as daemon:
        signature = adopted(daemon, "id=0a17")
        keyd(daemon, "key", "rotate", "legacy", "--now", "--yes")
        with daemon.client() as client:
            assert client.sign_message("legacy", MESSAGE).version == 2
    message, signed = directory / "message", directory / "signature"
    message.write_bytes(MESSAGE)
    signed.write_bytes(signature)
    verify = ("--verify", "--id", "0a17", "--mechanism", "EDDSA", "--input-file", str(message), "--signature-file", str(signed))
    assert "Signature is valid" in token.tool(*verify)
    signed.write_bytes(bytes(64))
    assert "Signature is valid" not in token.tool(*verify)


def test_a_key_of_bao(directory: Path) -> None:
    with OpenBao(directory) as server:
        tenant = server.tenant(directory)

        def bao(*arguments: str) -> str:
            command = [server.bao, *arguments]
            return subprocess.run(command, env=server.environment, capture_output=True, text=True, check=True).stdout

        bao("write", f"{tenant.mount}/keys/orders", "type=ed25519")
        tenant.allow(
            f'path "{tenant.mount}/sign/orders" {{ capabilities = ["update"] }}\n'
            f'path "{tenant.mount}/keys/orders" {{ capabilities = ["read"] }}\n'
        )
        with running(tenant.section(server.unix)) as daemon:
            signature = adopted(daemon, "orders:1")
            keyd(daemon, "key", "rotate", "legacy", "--now", "--yes")
            with daemon.client() as client:
                assert client.sign_message("legacy", MESSAGE).version == 2

        def verifies(signature: bytes) -> bool:
            arguments = (
                f"input={base64.b64encode(MESSAGE).decode()}",
                f"signature=vault:v1:{base64.b64encode(signature).decode()}",
            )
            answer = json.loads(bao("write", "-format=json", f"{tenant.mount}/verify/orders", *arguments))
            return bool(answer["data"]["valid"])

        assert verifies(signature)
        assert not verifies(bytes(64))
