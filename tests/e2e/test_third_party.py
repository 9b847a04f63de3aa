"""A backend in a distribution of its own is found, configured, contract-tested and used, with no change to keyd."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_process import DaemonProcess

SOURCE = Path(__file__).parents[1] / "third_party" / "keyd-backend-shelf"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the distribution where only those that are told find it: other tests are about keyd alone."""
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target"]
    subprocess.run([*pip, str(target), str(SOURCE)], check=True)
    return target


@pytest.fixture
def daemon(installed: Path) -> Iterator[DaemonProcess]:
    daemon = DaemonProcess()
    daemon.env["PYTHONPATH"] = str(installed)
    with daemon.config.open("a") as config:
        config.write(
            f'[backends.mine]\ntype = "shelf"\nfile = "{daemon.directory}/shelf.db"\n'
            f'passphrase = {{ file = "{daemon.directory}/kek" }}\ntimeout = "2s"\n'
        )
    yield daemon
    daemon.close()


def test_it_passes_the_contract(installed: Path, tmp_path: Path) -> None:
    pytest_ = str(Path(sys.executable).with_name("pytest"))
    plugins = ("-p", "backends.testing", "-p", "backends.testing.table", "-p", "no:cacheprovider")
    apart = ("--import-mode=importlib", "-c", os.devnull, f"--rootdir={SOURCE}")  # from this repository's settings
    result = subprocess.run(
        [pytest_, "-q", *plugins, *apart, str(SOURCE / "tests")],
        env={**os.environ, "PYTHONPATH": str(installed)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 components" in result.stdout
    assert "0 failed, 0 skipped" in result.stdout


def test_it_is_used_like_any_other(daemon: DaemonProcess) -> None:
    daemon.start()
    with daemon.admin() as admin, daemon.client() as client:
        assert [(each.name, each.type, each.failure) for each in admin.list_backends()] == [
            ("file", "file", ""),
            ("mine", "shelf", ""),
        ]
        admin.create_key("agent", backend="mine", algorithm="ES256", purposes=["raw"])
        admin.rotate_key("agent", now=True)
        signed = client.sign_message("agent", b"message")
        assert signed.version == 2
        assert [stored.handle for stored in admin.list_stored_keys("mine")] == ["agent/1", "agent/2"]


def test_without_it_the_configuration_is_refused(daemon: DaemonProcess) -> None:
    del daemon.env["PYTHONPATH"]
    result = subprocess.run([*daemon.command()], capture_output=True, text=True)
    assert result.returncode == 8
    assert "there is no backend type 'shelf'" in result.stderr
