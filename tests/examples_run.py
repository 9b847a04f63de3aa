"""Runs the programs in ``examples`` against the real daemon, and against resources that verify with the libraries."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from daemon_process import DaemonProcess

ROOT = Path(__file__).parents[1]
ISSUER, AGENT = "https://agents.example", "aauth:shop@agents.example"
ALGORITHMS = ("Ed25519", "ES256", "ES384", "PS512", "RS256")
#: The keys named ``elsewhere...`` may sign for another authority and another issuer only.
GRANTS = f"""
[grants.agents]
principals = [{{ uid = {os.getuid()} }}]
keys = ["http-*", "jwt-*", "aauth-*", "bot", "lumo", "issuer", "lumo-issuer"]
purposes = ["http", "jwt"]
[grants.elsewhere]
principals = [{{ uid = {os.getuid()} }}]
keys = ["elsewhere-*"]
purposes = ["http", "jwt"]
authorities = ["api.example.com"]
issuers = ["https://other.example"]
"""


@dataclass(frozen=True)
class Ran:
    """What an example did."""

    code: int
    said: str
    complained: str


def interpreter(*, peers: bool) -> str:
    """Return the Python with the libraries: ours, or that of the dependency group `peers`."""
    if not peers:
        return sys.executable
    python = os.environ.get("KEYD_PEERS_PYTHON")
    assert python, (
        "set KEYD_PEERS_PYTHON to the Python of an environment with the group `peers` and keyd, as `make examples` does"
    )
    return python


def run_example(daemon: DaemonProcess, name: str, key: str, url: str, *, peers: bool = False, issuer_key: str = "issuer") -> Ran:
    """Run a program in ``examples`` to its end. ``issuer_key`` may be empty."""
    environment = {
        **os.environ,
        "KEYD_ADDRESS": daemon.address,
        "KEYD_KEY": key,
        "RESOURCE_URL": url,
        "AGENT_ISSUER": ISSUER,
        "AGENT_ID": AGENT,
        "SIGNATURE_AGENT": ISSUER,
        **({"KEYD_ISSUER_KEY": issuer_key} if issuer_key else {}),
    }
    command = [interpreter(peers=peers), str(ROOT / "examples" / f"{name}.py")]
    ran = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
    return Ran(ran.returncode, ran.stdout.strip(), ran.stderr.strip())


class Resources:
    """Resources that run, one for each library that verifies; each is started when it is first asked for.

    Args:
        daemon: whose JWK Sets they fetch.
    """

    def __init__(self, daemon: DaemonProcess) -> None:
        self._keys = daemon.jwks_url.rpartition("/.well-known/")[0] + "/keys"
        self._running: dict[tuple[str, str], tuple[subprocess.Popen[str], list[str]]] = {}

    def urls(self, library: str, key: str, algorithm: str, *, peers: bool = False, issuer_key: str = "issuer") -> list[str]:
        """Return the URL for a key at a resource, and the same where requests are altered on the way."""
        if (library, issuer_key) not in self._running:
            process = subprocess.Popen(
                [interpreter(peers=peers), "-m", "peers.resource", library, self._keys, f"{self._keys}/{issuer_key}/jwks.json"],
                env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert process.stdout is not None
            self._running[library, issuer_key] = process, process.stdout.readline().split()
        ports = self._running[library, issuer_key][1]
        return [f"http://127.0.0.1:{port}/{key}/{algorithm}/orders" for port in ports]

    def close(self) -> None:
        for process, _ in self._running.values():
            process.communicate(timeout=30)  # closes its standard input, which ends it


def make_keys(daemon: DaemonProcess) -> None:
    """Make every key that the examples need."""
    with daemon.admin() as admin:
        for algorithm in ALGORITHMS:
            admin.create_key(f"http-{algorithm}", algorithm=algorithm)
            admin.create_key(f"jwt-{algorithm}", algorithm=algorithm, purposes=["jwt"])
        for algorithm in ("Ed25519", "ES256", "ES384"):
            admin.create_key(f"aauth-{algorithm}", algorithm=algorithm, profile="aauth")
        admin.create_key("issuer", profile="aauth", purposes=["jwt"])
        admin.create_key("lumo-issuer", profile="lumoauth", purposes=["jwt"])
        for name, profile in (("bot", "web-bot-auth"), ("lumo", "lumoauth")):
            admin.create_key(name, profile=profile)
        for name, profile in (("http", "rfc9421"), ("aauth", "aauth"), ("bot", "web-bot-auth"), ("lumo", "lumoauth")):
            admin.create_key(f"elsewhere-{name}", profile=profile)
        admin.create_key("elsewhere-jwt", purposes=["jwt"])
