"""The RFC's own vectors, signed through the daemon. What libraries say of its signatures is in tests/examples."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from daemon_process import DaemonProcess

from backends.api import Algorithm
from backends.encoding import verify_raw
from keyd.client import Client
from keyd.core.jwk import to_public_key

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/rfc9421_appendix_b.json").read_text())
PEMS = {name: entry["pem"][-1] for name, entry in VECTORS["keys"].items() if entry["pem"]}
KEYS = {  # label of the vector -> algorithm, key, kid in the vector
    "sig-b21": (Algorithm.PS512, "Example RSA PSS Key", "test-key-rsa-pss"),
    "sig-b22": (Algorithm.PS512, "Example RSA PSS Key", "test-key-rsa-pss"),
    "sig-b23": (Algorithm.PS512, "Example RSA PSS Key", "test-key-rsa-pss"),
    "sig-b24": (Algorithm.ES256, "Example ECC P-256 Test Key", "test-key-ecc-p256"),
    "sig-b26": (Algorithm.ED25519, "Example Ed25519 Test Key", "test-key-ed25519"),
}


@pytest.fixture(scope="module")
def shared() -> Iterator[DaemonProcess]:
    daemon = DaemonProcess()
    daemon.start()
    with daemon.admin() as admin:
        for algorithm, key, kid in set(KEYS.values()):
            private = load_pem_private_key(PEMS[key].encode(), None)
            pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            admin.import_key(name=kid, pkcs8_pem=pem, kid=kid, algorithm=algorithm.value, profile="vectors")
    yield daemon
    daemon.close()


@pytest.fixture
def client(shared: DaemonProcess) -> Iterator[Client]:
    with shared.client() as client:
        yield client


def public_key(client: Client, name: str) -> Any:
    return to_public_key(json.dumps(client.jwks(name)["keys"][0]))


@pytest.mark.parametrize("label", KEYS)
def test_rfc_9421_appendix_b(client: Client, label: str) -> None:
    (vector,) = [vector for vector in VECTORS["vectors"] if vector["label"] == label]
    algorithm, _, kid = KEYS[label]
    base, expected = vector["base"].encode(), base64.b64decode(vector["signature_b64"])
    public = public_key(client, kid)
    verify_raw(public, algorithm, expected, base)
    signed = client.sign_base(kid, base)
    verify_raw(public, algorithm, signed.signature, base)
    if algorithm is Algorithm.ED25519:  # the deterministic one: to the byte
        assert signed.signature == expected
    for wrong in (base[:-1] + b"x", base.replace(b"16188", b"16189")):
        with pytest.raises(InvalidSignature):
            verify_raw(public, algorithm, signed.signature, wrong)
