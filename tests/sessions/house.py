"""keyd with an issuer key in a real OpenBao server and one in SoftHSM, and what counts the signatures that these two make."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
from components.openbao import OpenBao, until
from components.softhsm import SoftHsm
from daemon_process import DaemonProcess
from ports import free_ports

from keyd.client import AdminClient
from sessions.clock import SharedClock

#: OpenSC's module that writes down every call on its way to another module.
_SPY = "pkcs11-spy.so"
#: Issuer key and agent provider of each store.
STORES = {"openbao": "bao-agents", "softhsm": "hsm-agents"}
AUTHORITIES = ("introspection.example", "aauth.example")
LEAD = 3600.0
_CONFIG = """
[metrics]
listen = "127.0.0.1:{metrics_port}"
[defaults]
publish_lead = "1h"
[limits]
rate = 1000000
burst = 1000000
[backends.openbao]
{openbao}
[backends.softhsm]
{softhsm}
[grants.admin]
principals = [{{ uid = {uid} }}]
keys = ["*"]
operations = ["*"]
"""
_STORE = """
[issuers.{issuer_key}]
hosts = ["{issuer_key}.example"]
keys = ["{issuer_key}"]
origin = "https://{issuer_key}.example"
[issuers.{issuer_key}.agent]
[grants.{issuer_key}]
principals = [{{ uid = {uid} }}]
authorities = {authorities}
[grants.{issuer_key}.sessions]
issuer_keys = ["{issuer_key}"]
subjects = ["{agent}"]
"""


def provider(store: str) -> str:
    """Return the origin of the agent provider whose key a store has."""
    return f"https://{STORES[store]}.example"


def agent(store: str) -> str:
    """Return the identifier of the agent of a store."""
    return f"aauth:shop@{STORES[store]}.example"


class House:
    """The two stores, and the daemon in front of them. All go by ``clock``, which stands still by itself."""

    def __init__(self, stack: ExitStack) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="keyd-h-"))
        stack.callback(shutil.rmtree, self.directory)
        self.clock = SharedClock.set_up(self.clock_file, time.time())
        (self.directory / "bao").mkdir()
        self._bao = stack.enter_context(OpenBao(self.directory / "bao", audited=True))
        tenant = self._bao.tenant(self.directory)
        self._mount = tenant.mount
        self._spied = self.directory / "spied"
        softhsm = SoftHsm(self.directory)
        (self._metrics_port,) = free_ports(1)
        config = _CONFIG.format(
            metrics_port=self._metrics_port,
            openbao=tenant.section(self._bao.http),
            softhsm=self._behind_spy(softhsm),
            uid=os.getuid(),
        )
        for store, issuer_key in STORES.items():
            config += _STORE.format(
                issuer_key=issuer_key, uid=os.getuid(), authorities=json.dumps(AUTHORITIES), agent=agent(store)
            )
        self._daemon = DaemonProcess("sessions.daemon", config)
        stack.callback(self._daemon.close)
        self._daemon.env = {"KEYD_TEST_CLOCK": str(self.clock_file), "PYTHONPATH": os.pathsep.join(_import_path())}
        self._daemon.start()
        self.address = self._daemon.address
        with self.admin() as admin:
            for store, issuer_key in STORES.items():
                admin.create_key(issuer_key, backend=store, purposes=["jwt"], profile="aauth")
        # Each version proves itself twice: when it is made, and when keyd looks at the store the next time.
        until(lambda: self.by_keyd() == dict.fromkeys(STORES, 2), 30)

    @property
    def clock_file(self) -> Path:
        return self.directory / "clock"

    @property
    def http(self) -> str:
        """Where keyd serves JWK Sets."""
        return self._daemon.jwks_url.rpartition("/.well-known/")[0]

    def admin(self) -> AdminClient:
        return self._daemon.admin()

    def by_keyd(self) -> dict[str, int]:
        """Return how many signatures each store was asked for, as keyd counts them."""
        text = httpx.get(f"http://127.0.0.1:{self._metrics_port}/metrics").text
        found = dict(re.findall(r'^keyd_backend_signatures_total\{backend="(\w+)"\} ([0-9.]+)$', text, re.MULTILINE))
        return {store: int(float(found.get(store, 0))) for store in STORES}

    def by_stores(self) -> dict[str, int]:
        """Return the same as the stores count them: OpenBao's own audit log, and the calls that SoftHSM's module got.

        It is C_SignInit that counts: C_Sign is called twice for each, the first time to ask how long the signature will be.
        """
        audit = (json.loads(line) for line in (self._bao.directory / "audit.log").read_text().splitlines())
        signed = [e for e in audit if e["type"] == "response" and e["request"]["path"].startswith(f"{self._mount}/sign/")]
        calls = re.findall(r"^[0-9]+: C_SignInit$", self._spied.read_text(errors="replace"), re.MULTILINE)
        return {"openbao": len(signed), "softhsm": len(calls)}

    def _behind_spy(self, softhsm: SoftHsm) -> str:
        (spy,) = [path for path in Path("/usr/lib").glob(f"*/{_SPY}") if path.is_file()]
        module = str(softhsm.config().module)
        return (
            softhsm.section.replace(f'module = "{module}"', f'module = "{spy}"')
            + f'environment.PKCS11SPY = "{module}"\nenvironment.PKCS11SPY_OUTPUT = "{self._spied}"\n'
        )


def _import_path() -> list[str]:
    """Return where the tests are and, unless the wheel is what is tested, the sources."""
    tests = Path(__file__).parents[1]
    return [str(tests)] if os.environ.get("KEYD_TEST_WHEEL") else [str(tests), str(tests.parent)]
