"""Transit's own habits, and the ``bao`` command as a second opinion."""

import base64
import json
import subprocess
from pathlib import Path

import pytest

from backends import errors
from backends.api import Algorithm, BackendContext, StoredKey
from backends.testing.checks import check
from backends.vault_transit import VaultTransitBackend
from keyd import config as keyd_config
from keyd.demo.stores import openbao

ED = Algorithm.ED25519
MESSAGE = b"what is signed"


def bao(server, *arguments: str) -> str:
    command = [server.bao, *arguments]
    return subprocess.run(command, env=server.environment, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("algorithm", "options", "url_safe"),
    [
        (ED, [], False),
        (Algorithm.ES256, ["hash_algorithm=sha2-256", "marshaling_algorithm=jws"], True),
        (Algorithm.ES384, ["hash_algorithm=sha2-384", "marshaling_algorithm=jws"], True),
        (Algorithm.PS512, ["hash_algorithm=sha2-512", "signature_algorithm=pss", "salt_length=hash"], False),
        (Algorithm.RS256, ["hash_algorithm=sha2-256", "signature_algorithm=pkcs1v15"], False),
    ],
    ids=lambda value: value.value if isinstance(value, Algorithm) else "",
)
def test_bao_verifies(server, tenant, backend, algorithm: Algorithm, options: list[str], url_safe: bool) -> None:
    signature = backend.sign(backend.create("k", 1, algorithm), algorithm, MESSAGE)
    text = base64.urlsafe_b64encode(signature).decode().rstrip("=") if url_safe else base64.b64encode(signature).decode()

    def verifies(message: bytes) -> bool:
        arguments = [f"input={base64.b64encode(message).decode()}", f"signature=vault:v1:{text}", *options]
        return json.loads(bao(server, "write", "-format=json", f"{tenant.mount}/verify/keyd-k", *arguments))["data"]["valid"]

    assert verifies(MESSAGE)
    assert not verifies(MESSAGE + b"!")


def test_key_made_by_bao(server, tenant, backend) -> None:
    bao(server, "write", f"{tenant.mount}/keys/theirs", "type=ecdsa-p256")
    bao(server, "write", "-f", f"{tenant.mount}/keys/theirs/rotate")
    bao(server, "write", "-f", f"{tenant.mount}/keys/symmetric")
    bao(server, "write", f"{tenant.mount}/keys/derived", "type=ed25519", "derived=true")
    assert list(backend.list()) == [], "these are none of keyd's, and it may not read them"
    names = ("theirs", "symmetric", "derived")
    tenant.allow(
        f'path "{tenant.mount}/sign/theirs" {{ capabilities = ["update"] }}\n'
        + "".join(f'path "{tenant.mount}/keys/{name}" {{ capabilities = ["read"] }}\n' for name in names)
    )
    assert list(backend.list()) == [StoredKey("theirs:1", None, None), StoredKey("theirs:2", None, None)]
    for handle in ("theirs:1", "theirs:2"):
        check(backend.public_key(handle), Algorithm.ES256, backend.sign(handle, Algorithm.ES256, MESSAGE), MESSAGE)
    for handle in ("symmetric:1", "derived:1"):
        with pytest.raises(errors.UnsupportedAlgorithmError):
            backend.sign(handle, ED, MESSAGE)
        with pytest.raises(errors.UnsupportedAlgorithmError):
            backend.public_key(handle)


def test_policy_lets_no_private_key_out(server, tenant, backend) -> None:
    backend.create("k", 1, ED)
    server.call("POST", f"{tenant.mount}/keys/theirs", {"type": "ed25519"})
    login = {"role_id": tenant.role_id, "secret_id": tenant.secret_file.read_text()}
    token = server.call("POST", f"auth/{tenant.approle_mount}/login", login)["auth"]["client_token"]
    for method, path, body in [
        ("GET", "export/signing-key/keyd-k", None),
        ("GET", "backup/keyd-k", None),
        ("POST", "keys/keyd-k/config", {"exportable": True}),
        ("POST", "keys/keyd-k/config", {"allow_plaintext_backup": True}),
        ("POST", "keys/keyd-k/config", {"exportable": True, "deletion_allowed": True}),
        ("POST", "keys/keyd-new", {"type": "ed25519", "exportable": True}),
        ("POST", "keys/keyd-new/import", {"type": "ed25519", "ciphertext": "x"}),
        ("POST", "keys/theirs/rotate", {}),
        ("GET", "keys/theirs", None),
        ("POST", "sign/theirs", {"input": "eA=="}),
        ("POST", "encrypt/keyd-k", {"plaintext": "eA=="}),
    ]:
        with pytest.raises(RuntimeError, match=": 403 "):
            server.call(method, f"{tenant.mount}/{path}", body, token=token)


def test_policy_names_mount_prefix_and_namespace(tenant) -> None:
    text = VaultTransitBackend.policy(tenant.config(mount="team/sign", prefix="agents-", namespace="ns1"))
    assert 'path "team/sign/keys/agents-*"' in text and 'path "team/sign/sign/agents-*"' in text
    assert "namespace ns1" in text and "keyd-" not in text
    assert 'path "transit/sign/keyd-*"' in VaultTransitBackend.policy(None)


def test_key_that_is_deleted_softly(server, tenant, backend) -> None:
    handle = backend.create("k", 1, ED)
    server.call("DELETE", f"{tenant.mount}/keys/keyd-k/soft-delete")
    assert list(backend.list()) == [StoredKey(handle, "k", 1)], "it can be restored"
    backend.public_key(handle)
    with pytest.raises(errors.BackendAccessError, match="restore the key"):
        backend.sign(handle, ED, MESSAGE)
    with pytest.raises(errors.BackendAccessError, match="restore the key"):
        backend.create("k", 2, ED)
    server.call("POST", f"{tenant.mount}/keys/keyd-k/soft-delete-restore")
    backend.sign(handle, ED, MESSAGE)
    server.call("DELETE", f"{tenant.mount}/keys/keyd-k/soft-delete")
    backend.destroy(handle)
    assert list(backend.list()) == []


@pytest.mark.parametrize("name", ["k.", "k-", "", "a/b", "é", "x" * 64])
def test_names_that_transit_does_not_take(backend, name: str) -> None:
    with pytest.raises(errors.BackendError, match="takes no key named"):
        backend.create(name, 1, ED)


def test_one_transit_key_has_one_type(backend) -> None:
    backend.create("k", 1, ED)
    with pytest.raises(errors.UnsupportedAlgorithmError, match="under another name"):
        backend.create("k", 2, Algorithm.ES256)


def test_version_below_the_operators_minimum(server, tenant, backend) -> None:
    handles = [backend.create("k", version, ED) for version in (1, 2)]
    server.call("POST", f"{tenant.mount}/keys/keyd-k/config", {"min_encryption_version": 2})
    with pytest.raises(errors.KeyNotFoundError, match="min_encryption_version"):
        backend.sign(handles[0], ED, MESSAGE)
    backend.sign(handles[1], ED, MESSAGE)
    server.call("POST", f"{tenant.mount}/keys/keyd-k/config", {"min_decryption_version": 2})
    with pytest.raises(errors.DestructionPendingError):
        backend.destroy(handles[1])  # what is only hidden is not destroyed on the side
    server.call("POST", f"{tenant.mount}/keys/keyd-k/config", {"min_decryption_version": 1, "min_encryption_version": 0})
    backend.sign(handles[0], ED, MESSAGE)


def test_message_larger_than_a_request(backend) -> None:
    handle = backend.create("k", 1, ED)
    backend.sign(handle, ED, bytes(1 << 20))
    with pytest.raises(errors.MessageSizeError, match="max_request_size"):
        backend.sign(handle, ED, bytes(26 << 20))


def test_rsa_of_the_configured_size(open_backend) -> None:
    backend = open_backend(rsa_bits=3072)
    assert backend.public_key(backend.create("k", 1, Algorithm.PS512)).key_size == 3072


def test_demo_store(tmp_path: Path) -> None:
    with openbao.start(tmp_path) as store:
        assert store.description.startswith("OpenBao 2.")
        path = tmp_path / "keyd.toml"
        path.write_text(f"[backends.demo]\n{store.section}")
        options = keyd_config.load(path).backends["demo"].options
        backend = VaultTransitBackend.open(options, BackendContext("demo", tmp_path))
        try:
            handle = backend.create("demo", 1, Algorithm(store.algorithm))
            check(backend.public_key(handle), ED, backend.sign(handle, ED, MESSAGE), MESSAGE)
        finally:
            backend.close()


def test_keys_that_can_be_exported_get_no_versions(server, tenant, backend) -> None:
    server.call("POST", f"{tenant.mount}/keys/keyd-open", {"type": "ed25519", "exportable": True})
    with pytest.raises(errors.BackendIntegrityError, match="exportable"):
        backend.create("open", 2, ED)
    assert backend.find("open", 1) == "keyd-open:1"
    assert backend.find("open", 2) is None


def test_a_key_that_came_to_be_meanwhile_is_not_trimmed(server, tenant, backend, monkeypatch) -> None:
    """A creation fails, somebody else makes the key, the next creation rotates it: what it had before stays."""

    def refused(*_args: object, **_more: object) -> None:
        raise errors.BackendUnavailableError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(backend._transit, "create_key", refused)
        with pytest.raises(errors.BackendUnavailableError):
            backend.create("theirs", 3, ED)
    server.call("POST", f"{tenant.mount}/keys/keyd-theirs", {"type": "ed25519"})
    assert backend.find("theirs", 1) == "keyd-theirs:1"
    backend.create("theirs", 4, ED)
    assert {key.handle for key in backend.list()} == {f"keyd-theirs:{number}" for number in (1, 2, 3, 4)}


def test_a_version_that_somebody_makes_during_a_deletion_stays(server, tenant, backend, monkeypatch) -> None:
    handle = backend.create("k", 1, ED)
    allow = backend._transit.update_key_configuration

    def rotated(name: str, **more: object) -> object:
        if more.get("deletion_allowed"):
            server.call("POST", f"{tenant.mount}/keys/{name}/rotate", {})
        return allow(name, **more)

    monkeypatch.setattr(backend._transit, "update_key_configuration", rotated)
    with pytest.raises(errors.BackendError, match="rotated transit key"):
        backend.destroy(handle)
    assert backend.find("k", 2) == "keyd-k:2"
