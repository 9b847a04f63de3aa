"""A real OpenBao server for the tests of this process, with a mount, a policy and a role of its own for each."""

import atexit
import datetime as dt
import functools
import ipaddress
import itertools
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from ports import free_ports

from backends.vault_transit import VaultTransitBackend
from keyd.demo.stores.openbao import Server, binary

_CONFIG = """\
{storage}
listener "unix" {{
  address = "{directory}/bao.sock"
  tls_disable = true
  socket_mode = "0600"
}}
listener "tcp" {{
  address = "127.0.0.1:{port}"
  tls_disable = true
}}
listener "tcp" {{
  address = "127.0.0.1:{tls_port}"
  tls_cert_file = "{directory}/server.pem"
  tls_key_file = "{directory}/server.key"
}}
api_addr = "http://127.0.0.1:{port}"
cluster_addr = "http://127.0.0.1:1"
log_level = "warn"
"""
_IN_MEMORY = 'storage "inmem" {}'
_ON_DISK = """\
storage "raft" {{
  path = "{directory}/data"
  node_id = "one"
  performance_multiplier = 1
}}"""
_AUDIT = """
audit "file" "file" {{
  options {{
    file_path = "{directory}/audit.log"
  }}
}}
"""


class OpenBao(Server):
    """One server with a Unix socket, a plain port and a TLS port. With ``audited``, ``audit.log`` has what it is asked, a JSON object a line."""

    def __init__(self, directory: Path, *, durable: bool = False, audited: bool = False) -> None:
        self.directory = directory
        self.authority = Authority(directory)
        self.authority.issue("server", server=True)
        port, tls_port = free_ports(2)
        self.http = f"http://127.0.0.1:{port}"
        self.https = f"https://127.0.0.1:{tls_port}"
        self.unix = f"unix:{directory}/bao.sock"
        self.bao = binary()
        self._numbers = itertools.count(1)
        storage = _IN_MEMORY
        if durable:
            (directory / "data").mkdir()
            storage = _ON_DISK.format(directory=directory)
        config = _CONFIG + _AUDIT if audited else _CONFIG
        super().__init__(directory, config.format(directory=directory, storage=storage, port=port, tls_port=tls_port))
        self.initialise()

    @property
    def environment(self) -> dict[str, str]:
        """What the ``bao`` command needs."""
        return {"BAO_ADDR": self.http, "BAO_TOKEN": str(self.token), "HOME": str(self.directory)}

    def tenant(self, directory: Path, **role: object) -> "Tenant":
        """Make a transit mount, and what keyd needs to use it."""
        return Tenant(self, next(self._numbers), directory, role)

    @contextmanager
    def sealed(self) -> Iterator[None]:
        self.call("PUT", "sys/seal")
        try:
            yield
        finally:
            self.unseal()

    @contextmanager
    def hung(self) -> Iterator[None]:
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            until(lambda: all(state(thread) == "T" for thread in Path(f"/proc/{self.process.pid}/task").iterdir()))
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)


class Tenant:
    """One keyd's share of a server: a mount, the policy that keyd prints, and an AppRole that has nothing but it."""

    def __init__(self, server: OpenBao, number: int, directory: Path, role: dict[str, object]) -> None:
        self.server = server
        self.mount = f"transit-{number}"
        self.role_path = f"auth/approle-{number}/role/keyd"
        self.approle_mount = f"approle-{number}"
        self.secret_file = directory / "secret_id"
        self.policy_name = f"keyd-{number}"
        server.call("POST", f"sys/mounts/{self.mount}", {"type": "transit"})
        self.allow("")
        server.call("POST", f"sys/auth/{self.approle_mount}", {"type": "approle"})
        # Without the policy named default, which allows more than keyd asks for.
        server.call("POST", self.role_path, {"token_policies": self.policy_name, "token_no_default_policy": True} | role)
        self.role_id = server.call("GET", f"{self.role_path}/role-id")["data"]["role_id"]
        self.renew_secret()

    @property
    def auth(self) -> dict:
        secret = {"file": str(self.secret_file)}
        return {"approle": {"role_id": self.role_id, "secret_id": secret, "mount": self.approle_mount}}

    def config(self, **fields: object) -> "VaultTransitBackend.Config":
        values = {"address": self.server.http, "mount": self.mount, "rsa_bits": 2048, "auth": self.auth} | fields
        return VaultTransitBackend.Config.model_validate(values)

    def section(self, address: str) -> str:
        """Return the lines of the daemon's configuration for a backend on this mount."""
        return (
            f'type = "vault"\naddress = "{address}"\nmount = "{self.mount}"\n'
            f'auth = {{ approle = {{ role_id = "{self.role_id}", mount = "{self.approle_mount}", '
            f'secret_id = {{ file = "{self.secret_file}" }} }} }}\n'
        )

    def allow(self, more: str) -> None:
        """Install the policy that keyd prints, and these lines."""
        config = VaultTransitBackend.Config(address="unix:/x", mount=self.mount, auth={"token": {"env": "X"}})
        self.server.call("PUT", f"sys/policies/acl/{self.policy_name}", {"policy": VaultTransitBackend.policy(config) + more})

    def deny(self) -> None:
        """Leave a policy that allows nothing but to look up the token."""
        policy = 'path "auth/token/lookup-self" { capabilities = ["read"] }'
        self.server.call("PUT", f"sys/policies/acl/{self.policy_name}", {"policy": policy})

    def renew_secret(self) -> None:
        answer = self.server.call("POST", f"{self.role_path}/secret-id", {})
        self.put_secret(answer["data"]["secret_id"])

    def put_secret(self, secret: str) -> None:
        write_private(self.secret_file, secret)

    def revoke_secret(self) -> None:
        self.server.call("POST", f"{self.role_path}/secret-id/destroy", {"secret_id": self.secret_file.read_text().strip()})

    def revoke_tokens(self) -> None:
        self.server.call("PUT", f"sys/leases/revoke-force/auth/{self.approle_mount}/login", {})

    @contextmanager
    def throttled(self) -> Iterator[None]:
        quota = f"sys/quotas/rate-limit/{self.mount}"
        self.server.call("POST", quota, {"path": f"{self.mount}/", "rate": 0.001})
        try:
            # Per client address, and not over Unix sockets. Some requests have room at first.
            url = f"{self.server.http}/v1/{self.mount}/keys/none"
            for _ in range(100):
                if urllib3.request("GET", url, headers={"X-Vault-Token": self.server.token}, retries=False).status == 429:
                    break
            else:
                raise AssertionError("the server does not throttle")
            yield
        finally:
            self.server.call("DELETE", quota)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        self.revoke_secret()
        self.revoke_tokens()
        try:
            yield
        finally:
            self.renew_secret()


class Authority:
    """A certificate authority, and certificates as files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "keyd test authority")])
        self.certificate = self._sign(self._name, self._key, x509.BasicConstraints(ca=True, path_length=0), [])
        self.file = directory / "ca.pem"
        self.file.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def issue(self, name: str, *, server: bool = False) -> tuple[Path, Path]:
        """Write NAME.pem and NAME.key and return their paths."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.oid.ExtendedKeyUsageOID.SERVER_AUTH if server else x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        more = [x509.ExtendedKeyUsage([usage]), names]
        certificate = self._sign(subject, key, x509.BasicConstraints(ca=False, path_length=None), more)
        paths = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        paths[0].write_bytes(certificate.public_bytes(Encoding.PEM))
        write_private(paths[1], key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())
        return paths

    def _sign(self, subject, key, constraints, more):
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - dt.timedelta(minutes=1))
        builder = builder.not_valid_after(now + dt.timedelta(days=1)).add_extension(constraints, critical=True)
        for extension in more:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self._key, hashes.SHA256())


@functools.cache
def shared() -> OpenBao:
    """Return the one server of this process, which ends with it."""
    directory = Path(tempfile.mkdtemp(prefix="keyd-bao-"))
    server = OpenBao(directory)
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    atexit.register(server.stop)
    return server


def state(task: Path) -> str:
    """Return the state of a thread as in proc(5)."""
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "T"  # there is no such thread any more


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something, at most so long."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.02)


def write_private(path: Path, content: str) -> None:
    """Replace a file in one step, as an agent does."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.touch(mode=0o600)
    temporary.write_text(content)
    temporary.rename(path)
