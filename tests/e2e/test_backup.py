"""Backups of real daemons: made under load, restored where nothing is left, by the steps that docs/operations.md gives."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from daemon_process import DaemonProcess
from support import signature_base

from keyd.client import Client, KeydClientError

OPERATIONS = (Path(__file__).parents[2] / "docs/operations.md").read_text()
AUDITED = '[audit]\ncheckpoint_interval = "1s"\n'


@pytest.fixture
def daemon() -> Iterator[DaemonProcess]:
    daemon = DaemonProcess(sections=AUDITED).start()
    yield daemon
    daemon.close()


def run(daemon: DaemonProcess, line: str, code: int = 0) -> str:
    """Run a line of shell in which ``keyd`` and the paths of the documentation are those of the test."""
    line = line.replace("/mnt/backup", str(daemon.directory)).replace("/var/lib/keyd", str(daemon.directory / "state"))
    script = f'keyd() {{ "{sys.executable}" -m keyd "$@"; }}\n{line}'
    environment = {**os.environ, "KEYD_CONFIG": str(daemon.config), "KEYD_ADDRESS": daemon.address}
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == code, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def steps(heading: str) -> list[str]:
    """Return the commands of the documentation under a heading, without their comments."""
    section = OPERATIONS.split(f"\n### {heading}\n")[1].split("\n##")[0]
    lines = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)[0].splitlines()
    return [line.partition(" # ")[0].strip() for line in lines]


def follow(daemon: DaemonProcess, heading: str) -> str:
    """Do what the documentation says under a heading, and return what was printed."""
    printed = ""
    for step in steps(heading):
        if step == "systemctl stop keyd-signing":
            if daemon.process is not None and daemon.process.poll() is None:
                daemon.stop()
        elif step == "systemctl start keyd-signing":
            daemon.start()
        else:
            printed += run(daemon, step)
    return printed


def jwks(daemon: DaemonProcess) -> bytes:
    with urllib.request.urlopen(daemon.jwks_url, timeout=30) as response:
        return bytes(response.read())


def sign(client: Client, name: str) -> str:
    return client.sign_base(name, signature_base(time.time())).kid


def wait_for_checkpoint(daemon: DaemonProcess) -> None:
    """Wait until the trail was signed: only then is there an audit key to back up."""
    deadline = time.monotonic() + 30
    while '"operation":"checkpoint"' not in (daemon.directory / "state/audit/audit.jsonl").read_text():
        assert time.monotonic() < deadline, "no checkpoint is made"
        time.sleep(0.05)


class Load:
    """Signs and rotates until it is told to stop."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon
        self.kids: set[str] = set()
        self.failures: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._do, args=(work,)) for work in (self._sign, self._rotate)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=60)
        assert not self.failures

    def _do(self, work: object) -> None:
        try:
            with self.daemon.client() as client, self.daemon.admin() as admin:
                while not self._stop.is_set():
                    work(client, admin)  # type: ignore[operator]
                    self._stop.wait(0.01)
        except BaseException as exc:
            self.failures.append(exc)

    def _sign(self, client: Client, _: object) -> None:
        self.kids.add(sign(client, "busy"))

    def _rotate(self, _: object, admin: object) -> None:
        change = admin.rotate_key("busy", now=True)  # type: ignore[attr-defined]
        if change.version > 5:
            admin.destroy_version("busy", change.version - 4, force=True)  # type: ignore[attr-defined]


def test_under_load_and_back(daemon: DaemonProcess) -> None:
    """Backups that are made while keys are made and destroyed are whole; a lost daemon comes back from one as it was."""
    with daemon.admin() as admin:
        for name, algorithm in (("ed", "Ed25519"), ("es", "ES256"), ("rsa", "PS512"), ("off", "ES384")):
            admin.create_key(name=name, algorithm=algorithm, kid_format="name-version")
        admin.disable_key("off")
        admin.rotate_key("ed")
        admin.create_key(name="busy", kid_format="name-version")
    with Load(daemon) as load:
        for number in range(3):
            run(daemon, f"keyd backup create /mnt/backup/busy-{number}")
    for number in range(3):
        run(daemon, f"keyd backup verify /mnt/backup/busy-{number}")
    assert len(load.kids) > 5, "nothing was rotated meanwhile"
    wait_for_checkpoint(daemon)
    follow(daemon, "Making backups")
    before = jwks(daemon)
    daemon.stop(9)
    shutil.rmtree(daemon.directory / "state/backends")
    for path in (daemon.directory / "state").glob("keyd.db*"):
        path.unlink()
    printed = follow(daemon, "Restoring")
    assert "private keys are those on record" in printed
    assert jwks(daemon) == before
    with daemon.client() as client, daemon.admin() as admin:
        kids = {name: sign(client, name) for name in ("ed", "es", "rsa", "busy")}
        assert (kids["ed"], kids["es"]) == ("ed-1", "es-1")
        with pytest.raises(KeydClientError, match="disabled"):
            sign(client, "off")
        assert admin.rotate_key("busy", now=True).version > 1000, "a number that may have been used is left out"
        assert sign(client, "busy") not in load.kids
    assert "the chain is whole" in run(daemon, "keyd audit verify --live")
    assert "the chain is whole" in run(daemon, "keyd audit verify")


def test_an_old_backup_does_not_bring_back_what_was_stopped_since(daemon: DaemonProcess) -> None:
    with daemon.admin() as admin, daemon.client() as client:
        for name in ("leaked", "gone", "kept"):
            admin.create_key(name=name, kid_format="name-version")
        wait_for_checkpoint(daemon)
        run(daemon, "keyd backup create /mnt/backup/keyd.backup")
        admin.compromise_version("leaked", 1, reason="laptop stolen")
        admin.rotate_key("gone", now=True)
        admin.destroy_version("gone", 1, force=True)
        admin.create_key(name="born-later")
        assert sign(client, "gone") == "gone-2"
    printed = follow(daemon, "Restoring")
    assert "1 versions marked compromised, 1 destroyed" in printed
    assert "create_key born-later" in printed
    with daemon.admin() as admin, daemon.client() as client:
        for name in ("leaked", "gone"):
            try:
                assert int(sign(client, name).removeprefix(f"{name}-")) > 1000, "keyd has made a successor by itself"
            except KeydClientError as exc:
                assert "no active version" in str(exc), "it has not made one yet"
            with pytest.raises(KeydClientError, match="does not sign"):
                client.sign_base(name, signature_base(time.time(), keyid=f"{name}-1"))
        assert sign(client, "kept") == "kept-1"
        assert not (daemon.directory / "state/backends/file/keys/gone.1.key").exists(), "it was destroyed, and is so again"
        admin.rotate_key("gone", now=True)
        assert sign(client, "gone") not in ("gone-1", "gone-2")
        published = {jwk["kid"] for jwk in client.jwks()["keys"]}
        assert "leaked-1" not in published
    assert "the chain is whole" in run(daemon, "keyd audit verify")


def test_a_key_encryption_key_among_the_rest_stays_where_it_is(daemon: DaemonProcess) -> None:
    """As the one that keyd makes itself, in the state directory."""
    daemon.stop()
    path = daemon.directory / "state/backends/file/kek"
    (daemon.directory / "kek").rename(path)
    daemon.config.write_text(daemon.config.read_text().replace(str(daemon.directory / "kek"), str(path)))
    daemon.start()
    with daemon.admin() as admin, daemon.client() as client:
        admin.create_key(name="agent")
        kid = sign(client, "agent")
        run(daemon, "keyd backup create /mnt/backup/keyd.backup")
        follow(daemon, "Restoring")
    with daemon.client() as client:
        assert sign(client, "agent") == kid


def test_a_running_daemon_is_not_restored_into(daemon: DaemonProcess) -> None:
    run(daemon, "keyd backup create /mnt/backup/keyd.backup")
    before = jwks(daemon)
    run(daemon, "keyd backup restore /mnt/backup/keyd.backup --yes", code=1)
    assert jwks(daemon) == before


def test_through_a_pipe(daemon: DaemonProcess) -> None:
    with daemon.admin() as admin:
        admin.create_key(name="agent")
    document = json.loads(run(daemon, "keyd backup create - | tee /mnt/backup/copy | keyd backup verify - --json"))
    assert {key["name"] for key in document["keys"]} >= {"agent"}
    assert document["backends"] == {"file": {"type": "file", "private_keys": True}}
    run(daemon, "keyd backup verify /mnt/backup/copy")
