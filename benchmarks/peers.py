"""What keyd is compared with: OpenBao's transit engine, ssh-agent, python-pkcs11 on SoftHSM. All of them real."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pkcs11
from components.openbao import OpenBao
from components.softhsm import LABEL, MODULE, PIN, SoftHsm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from benchmarks.load import Target
from benchmarks.payload import base


class Transit:
    """An OpenBao server with an Ed25519 key in its transit engine, and its file audit on."""

    def __init__(self, server: OpenBao, mount: str) -> None:
        self._server = server
        self._path = f"{mount}/sign/bench"
        self._log = server.directory / "audit.log"
        self._counted = 0
        self._offset = 0
        server.call("POST", f"{mount}/keys/bench", {"type": "ed25519"})
        key = server.call("GET", f"{mount}/keys/bench")["data"]["keys"]["1"]["public_key"]
        self._public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key))
        self._mark = f'"path":"{self._path}"'.encode()

    def target(self) -> Target:
        """Return what h2load has to know, over the server's Unix socket as over keyd's."""
        headers = (f"X-Vault-Token: {self._server.token}", "X-Vault-Request: true", "content-type: application/json")
        url = f"http://localhost/v1/{self._path}"
        return Target(
            "OpenBao", self._server.process.pid, url, self._server.unix, headers, self._body, http1=True, done=self.signed
        )

    def signed(self) -> float:
        """Return how many signatures the audit log has. It is emptied of what was counted."""
        with self._log.open("rb") as log:
            log.seek(self._offset)
            for line in log:
                self._counted += b'"type":"response"' in line and self._mark in line
            self._offset = log.tell()
        return self._counted

    def check(self) -> None:
        """Have one signature made and verify it."""
        message = base()
        transport = httpx.HTTPTransport(uds=str(self._server.directory / "bao.sock"))
        with httpx.Client(transport=transport, headers={"X-Vault-Token": str(self._server.token)}) as client:
            body = {"input": base64.b64encode(message).decode()}
            answer = client.post(f"http://localhost/v1/{self._path}", json=body).raise_for_status().json()
        self._public.verify(base64.b64decode(answer["data"]["signature"].rpartition(":")[2]), message)

    @staticmethod
    def _body() -> bytes:
        return json.dumps({"input": base64.b64encode(base()).decode()}).encode()


@contextmanager
def openbao() -> Iterator[Transit]:
    """A server of its own, for as long as it takes."""
    directory = Path(tempfile.mkdtemp(prefix="keyd-b-"))
    try:
        with OpenBao(directory, audited=True) as server:
            yield Transit(server, server.tenant(directory).mount)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def per_second(sign: Callable[[], object], seconds: float) -> float:
    """Return how often one thread does that in a second."""
    sign()
    count, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        sign()
        count += 1
    return count / took


@contextmanager
def ssh_agent() -> Iterator[Callable[[], object]]:
    """OpenSSH's agent with an Ed25519 key; yields what signs a base over one kept connection, in OpenSSH's form of a signature."""
    with tempfile.TemporaryDirectory(prefix="keyd-s-") as name:
        directory = Path(name)
        path, key = directory / "agent.sock", Ed25519PrivateKey.generate()
        (file := directory / "key").write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
        )
        file.chmod(0o600)
        with subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL) as process:
            try:
                while not path.exists():
                    time.sleep(0.01)
                environment = {**os.environ, "SSH_AUTH_SOCK": str(path)}
                subprocess.run(["ssh-add", str(file)], env=environment, check=True, capture_output=True)
                with socket.socket(socket.AF_UNIX) as agent:
                    agent.connect(str(path))
                    yield _ssh_signer(agent, key.public_key())
            finally:
                process.kill()


def _ssh_signer(agent: socket.socket, public: Ed25519PublicKey) -> Callable[[], object]:
    """Sign as draft-ietf-sshm-ssh-agent section 3.6 says; the first signature is verified."""
    blob = _string(b"ssh-ed25519") + _string(public.public_bytes_raw())

    def sign(message: bytes | None = None) -> bytes:
        message = base() if message is None else message
        request = b"\x0d" + _string(blob) + _string(message) + struct.pack(">I", 0)
        agent.sendall(_string(request))
        (size,) = struct.unpack(">I", agent.recv(4, socket.MSG_WAITALL))
        answer = agent.recv(size, socket.MSG_WAITALL)
        assert answer[0] == 14, "ssh-agent refuses"
        return answer[-64:]

    message = base()
    public.verify(sign(message), message)
    return sign


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


@contextmanager
def softhsm() -> Iterator[Callable[[], object]]:
    """SoftHSM through python-pkcs11, one session; yields what signs a base."""
    directory = Path(tempfile.mkdtemp(prefix="keyd-h-"))
    try:
        store = SoftHsm(directory)
        os.environ.update(store.environment)
        token = pkcs11.lib(str(MODULE)).get_token(token_label=LABEL)
        with token.open(rw=True, user_pin=PIN) as session:
            parameters = session.create_domain_parameters(
                pkcs11.KeyType.EC_EDWARDS,
                {pkcs11.Attribute.EC_PARAMS: pkcs11.util.ec.encode_named_curve_parameters("1.3.101.112")},
                local=True,
            )
            _, private = parameters.generate_keypair(mechanism=pkcs11.Mechanism.EC_EDWARDS_KEY_PAIR_GEN)
            yield lambda: private.sign(base(), mechanism=pkcs11.Mechanism.EDDSA)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
