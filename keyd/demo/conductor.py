"""Starts the three processes of the demo, tells them what to do, and checks every answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from secrets import token_bytes
from typing import Any

from rich.console import Console

from keyd.client import AdminClient, Client, KeydClientError
from keyd.demo.stores import DemoStore, StoreMissingError

_CONFIG = """\
[server]
socket = "{directory}/run/keyd.sock"
state_dir = "{directory}/state"

[http]
listen = "127.0.0.1:0"

[jwks]
max_age = "1s"          # so that a rotation takes seconds here; the default is 5m

[defaults]
publish_lead = "3s"
sign_grace = "2s"
retention = "4s"        # nothing that is signed is valid for longer: the profile sees to it
profile = "seconds"

[profiles.seconds]
max_expires_in = "4s"

[log]
format = "json"

[backends.demo]
{section}
"""
#: What the agent may have signed: nothing but what it is for.
_GRANT = """
[grants.agent]
principals = [{{ uid = {uid} }}]
keys = ["demo"]
purposes = ["http"]
authorities = ["127.0.0.1:{port}"]
methods = ["POST"]
"""
#: What ``--backend`` takes, and the module of :mod:`keyd.demo.stores` that starts the store.
STORES = {"pkcs11": "softhsm", "vault": "openbao", "aws": "moto"}


class DemoFailedError(Exception):
    """Something was not as it should be."""


class Demo:
    """One run of the demo."""

    def __init__(self, console: Console, directory: Path, stack: ExitStack, store: DemoStore) -> None:
        self._console = console
        self._directory = directory
        self._stack = stack
        self._store = store
        self._address = f"unix:{directory}/run/keyd.sock"
        self._config = directory / "keyd.toml"
        self._log = directory / "daemon.log"
        self._jwks_url = ""

    def run(self) -> None:
        """Run every step. Raises DemoFailedError at the first that is not as it should be."""
        daemon = self._start_daemon()
        admin = self._stack.enter_context(AdminClient(self._address))
        created = admin.create_key(name="demo", purposes=["http"], algorithm=self._store.algorithm)
        first = created.key.versions[0].kid
        self._say("daemon", f"holds the key [b]demo[/], {self._store.algorithm}, version 1, kid {first}")
        self._say("", f"in {self._store.description}")
        resource = self._spawn("resource", "keyd.demo.resource", self._jwks_url, self._store.algorithm)
        port = self._read(resource, "resource")
        self._say("resource", f"listens on port {port}; all it knows of the key is {self._jwks_url}")
        agent = self._spawn("agent", "keyd.demo.agent", self._address, f"http://127.0.0.1:{port}/payments?currency=eur")
        self._say("agent", "holds no key; its requests are signed through the daemon's socket")
        self._grant(daemon, port)

        self._show_jwks("before", [first])
        answer = self._tell(agent, "one")
        self._expect(answer.get("status") == 200 and answer.get("kid") == first, f"a signed request was not verified: {answer}")
        self._say("resource", f"[green]verified[/] a POST under kid {answer['kid']}")
        answer = self._tell(agent, "tampered")
        self._expect(answer.get("status") == 401, f"a tampered request was not refused: {answer}")
        self._say("resource", f"[red]refused[/] the same with its body changed on the way: {answer['error']}")
        answer = self._tell(agent, "lured")
        self._expect(answer.get("error") == "AUTHORITY", f"a request to another authority was not refused: {answer}")
        self._say(
            "daemon", "[red]signed nothing[/] when the agent was talked into calling evil.example: its grant does not have that"
        )

        self._rotate(admin, agent, first)
        self._verify_trail()

    def _grant(self, daemon: subprocess.Popen[bytes], port: str) -> None:
        """Say what the agent may have signed, and have the daemon read it."""
        with self._config.open("a") as config:
            config.write(_GRANT.format(uid=os.geteuid(), port=port))
        daemon.send_signal(signal.SIGHUP)
        self._until(lambda: "configuration reloaded" in self._log.read_text(), "the grant was not taken over")
        self._say("daemon", f"reloads: the agent may have POSTs to 127.0.0.1:{port} signed, and nothing else")

    def _verify_trail(self) -> None:
        command = [
            sys.executable,
            "-m",
            "keyd",
            "audit",
            "verify",
            "--live",
            "--config",
            str(self._config),
            "--address",
            self._address,
        ]
        checked = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ourselves
        self._expect(checked.returncode == 0, f"the audit trail does not verify:\n{checked.stdout}{checked.stderr}")
        self._say("trail", f"[green]verified[/]: {checked.stdout.splitlines()[-1]}")

    def _rotate(self, admin: AdminClient, agent: subprocess.Popen[str], first: str) -> None:
        self._tell(agent, "start")
        rotated = admin.rotate_key("demo").key
        second = next(v.kid for v in rotated.versions if v.kid != first)
        self._say("daemon", f"rotates while requests go on: kid {second} is published now and signs in 3 s")
        self._show_jwks("during", [first, second])
        self._until(lambda: self._jwks_kids() == [second], "the first version did not leave the JWK Set")
        self._show_jwks("after", [second])
        result = self._tell(agent, "stop")
        counts, kids = result["counts"], result["kids"]
        self._expect(
            not counts.get("refused") and counts.get("verified", 0) > 0, f"requests failed during the rotation: {counts}"
        )
        self._expect(set(kids) == {first, second}, f"both versions should have signed: {kids}")
        self._say("resource", f"[green]verified {counts['verified']} of {counts['verified']}[/] requests during the rotation:")
        for kid, name in ((first, "version 1"), (second, "version 2")):
            self._say("", f"{kids[kid]:>6} under {name}, kid {kid}")

    def _start_daemon(self) -> subprocess.Popen[bytes]:
        self._config.write_text(_CONFIG.format(directory=self._directory, section=self._store.section))
        log = self._log.open("w")
        self._stack.enter_context(log)
        command = [sys.executable, "-m", "keyd", "serve", "--config", str(self._config)]
        environment = {**os.environ, **self._store.environment}
        daemon = subprocess.Popen(command, stdout=log, stderr=log, env=environment)  # noqa: S603 - ourselves
        self._stack.callback(_end, daemon)
        with Client(self._address) as client:
            self._until(lambda: self._answers(client, daemon), "the daemon did not start")
        for line in self._log.read_text().splitlines():
            self._jwks_url = json.loads(line).get("jwks") or self._jwks_url
        return daemon

    def _answers(self, client: Client, daemon: subprocess.Popen[bytes]) -> bool:
        self._expect(daemon.poll() is None, "the daemon ended:\n" + self._log.read_text())
        try:
            client.jwks()
        except KeydClientError:
            return False
        return True

    def _jwks_kids(self) -> list[str]:
        with urllib.request.urlopen(self._jwks_url, timeout=5) as response:  # noqa: S310 - our own daemon
            return [jwk["kid"] for jwk in json.load(response)["keys"]]

    def _show_jwks(self, when: str, expected: list[str]) -> None:
        kids = self._jwks_kids()
        self._expect(sorted(kids) == sorted(expected), f"the JWK Set {when} the rotation should have {expected}, has {kids}")
        self._say("JWK Set", f"[b]{when}[/] the rotation: {', '.join(kids)}")

    def _spawn(self, name: str, module: str, *args: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", module, *args]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 - ourselves
        self._stack.callback(_end, process)
        self._expect(process.stdin is not None and process.stdout is not None, f"the {name} has no pipes")
        return process

    def _tell(self, agent: subprocess.Popen[str], command: str) -> dict[str, Any]:
        assert agent.stdin is not None
        agent.stdin.write(command + "\n")
        agent.stdin.flush()
        answer: dict[str, Any] = json.loads(self._read(agent, "agent"))
        return answer

    def _read(self, process: subprocess.Popen[str], name: str) -> str:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        self._expect(bool(line), f"the {name} ended unexpectedly")
        return line

    def _until(self, condition: Any, complaint: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            self._expect(time.monotonic() < deadline, complaint)
            time.sleep(0.1)

    def _say(self, who: str, text: str) -> None:
        self._console.print(f"[cyan]{who:>9}[/]  {text}", highlight=False, soft_wrap=True)

    @staticmethod
    def _expect(holds: bool, complaint: str) -> None:
        if not holds:
            raise DemoFailedError(complaint)


def run(backend: str = "file") -> int:
    """Run the demo on a backend type, one of :data:`STORES` or ``file``.

    Returns 0 when everything was as it should be, 1 otherwise.
    """
    console = Console()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keyd-demo-")))
        try:
            start = encrypted_files if backend == "file" else import_module(f"keyd.demo.stores.{STORES[backend]}").start
            store = stack.enter_context(start(directory))
            Demo(console, directory, stack, store).run()
        except (DemoFailedError, StoreMissingError, KeydClientError) as exc:
            console.print(f"[red]demo failed:[/] {exc}", highlight=False)
            return 1
    console.print(
        "[green]demo passed[/]: one request verified, one tampered and one to elsewhere refused, one rotation without a failed request, "
        "all of it on record",
        soft_wrap=True,
    )
    return 0


@contextmanager
def encrypted_files(directory: Path) -> Iterator[DemoStore]:
    """Make what the file backend needs; there is nothing to start."""
    kek = directory / "kek"
    kek.touch(mode=0o600)
    kek.write_text(_new_kek())
    kek.chmod(0o400)
    yield DemoStore("an encrypted file", f'type = "file"\nkek = {{ file = "{kek}" }}', "Ed25519", {})


def _end(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _new_kek() -> str:
    return urlsafe_b64encode(token_bytes(32)).decode().rstrip("=") + "\n"
