"""Every way to a token, on the real server."""

import logging
import subprocess
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from components.fake_token_review import fake_token_review, service_account_token
from components.openbao import Authority, until, write_private

from backends import errors
from backends.api import Algorithm, BackendContext
from backends.testing.checks import check
from backends.vault_transit import VaultTransitBackend

ED = Algorithm.ED25519


def works(backend, name: str = "k") -> None:
    handle = backend.create(name, 1, ED)
    check(backend.public_key(handle), ED, backend.sign(handle, ED, b"message"), b"message")


def tokens(server, path: str) -> dict[str, dict]:
    """Return what the server knows of the tokens that came from this login, by accessor."""
    found = {}
    for accessor in server.call("LIST", "auth/token/accessors")["data"]["keys"]:
        try:
            facts = server.call("POST", "auth/token/lookup-accessor", {"accessor": accessor})["data"]
        except RuntimeError:
            continue  # has just expired
        if facts["path"] == path:
            found[accessor] = facts
    return found


def new_token(server, tenant, **fields: object) -> str:
    body = {"policies": [tenant.policy_name], "no_default_policy": True} | fields
    return server.call("POST", "auth/token/create", body)["auth"]["client_token"]


def test_token(server, tenant, tmp_path: Path, open_backend) -> None:
    write_private(tmp_path / "token", new_token(server, tenant) + "\n")
    works(open_backend(auth={"token": {"file": str(tmp_path / "token")}}))


def test_token_file_is_read_again_when_its_token_is_refused(server, tenant, tmp_path: Path, open_backend) -> None:
    path = tmp_path / "token"
    first = new_token(server, tenant)
    write_private(path, first)
    backend = open_backend(auth={"token_file": str(path)})
    works(backend, "one")
    write_private(path, new_token(server, tenant))
    server.call("POST", "auth/token/revoke", {"token": first})
    works(backend, "two")


def test_token_file_may_come_later(server, tenant, tmp_path: Path, open_backend) -> None:
    backend = open_backend(auth={"token_file": str(tmp_path / "token")})
    with pytest.raises(errors.BackendUnavailableError, match="check what should write it there"):
        backend.list()
    write_private(tmp_path / "token", new_token(server, tenant))
    works(backend)


def test_token_file_of_everybody_is_refused(server, tenant, tmp_path: Path, open_backend) -> None:
    write_private(tmp_path / "token", new_token(server, tenant))
    (tmp_path / "token").chmod(0o640)  # what Vault Agent writes
    works(open_backend(auth={"token_file": str(tmp_path / "token")}))
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(errors.BackendConfigError, match="open to other users"):
        open_backend(auth={"token_file": str(tmp_path / "token")})


def test_secret_that_is_not_there(open_backend, tenant, tmp_path: Path) -> None:
    tenant.secret_file.unlink()
    with pytest.raises(errors.BackendConfigError, match="secret_id: No such file"):
        open_backend()


def test_wrapped_secret_id_serves_once_and_then_from_memory(server, tenant, open_backend) -> None:
    path = f"{tenant.role_path}/secret-id"
    wrapping = wrapped(server, path)
    tenant.put_secret(wrapping)
    auth = tenant.auth
    auth["approle"]["wrapped"] = True
    backend = open_backend(auth=auth)
    works(backend, "one")
    tenant.revoke_tokens()
    works(backend, "two")
    other = open_backend(auth=auth)
    with pytest.raises(errors.BackendAccessError, match="somebody else has read the secret_id"):
        other.list()
    tenant.put_secret(wrapped(server, path))
    works(other, "three")


def wrapped(server, path: str) -> str:
    command = [server.bao, "write", "-wrap-ttl=60", "-field=wrapping_token", "-f", path]
    return subprocess.run(command, env=server.environment, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def kubernetes(server, tenant):
    """Provide a Kubernetes login whose service account has a token, and the fake that knows it."""
    with fake_token_review(service_account_token()) as fake:
        mount = f"kubernetes-{tenant.mount}"
        server.call("POST", f"sys/auth/{mount}", {"type": "kubernetes"})
        config = {
            "kubernetes_host": fake.address,
            "disable_local_ca_jwt": True,
            "kubernetes_ca_cert": server.authority.file.read_text(),
        }
        server.call("POST", f"auth/{mount}/config", config)
        role = {
            "bound_service_account_names": "keyd",
            "bound_service_account_namespaces": "agents",
            "token_policies": tenant.policy_name,
        }
        server.call("POST", f"auth/{mount}/role/keyd", role)
        yield mount, fake


def test_kubernetes(kubernetes, tmp_path: Path, open_backend) -> None:
    mount, fake = kubernetes
    (tmp_path / "jwt").write_text(fake.token)
    works(open_backend(auth={"kubernetes": {"role": "keyd", "jwt_file": str(tmp_path / "jwt"), "mount": mount}}))
    assert fake.reviews == 1


def test_refused_login_is_not_repeated_by_every_caller(kubernetes, tmp_path: Path, open_backend) -> None:
    mount, fake = kubernetes
    token, fake.token = fake.token, "another"
    (tmp_path / "jwt").write_text(token)
    backend = open_backend(auth={"kubernetes": {"role": "keyd", "jwt_file": str(tmp_path / "jwt"), "mount": mount}})

    def work(_: int) -> None:
        for _ in range(3):
            with pytest.raises(errors.BackendAccessError, match="the Kubernetes login"):
                backend.sign("keyd-k:1", ED, b"")

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    assert fake.reviews <= 3, "a storm of logins"
    fake.token = token
    (tmp_path / "jwt").write_text(token + "\n")
    until(lambda: answers(backend))


def answers(backend) -> bool:
    try:
        return list(backend.list()) == []
    except errors.BackendError:
        return False


def test_tls_certificate(server, tenant, open_backend) -> None:
    certificate, key = server.authority.issue("keyd")
    mount = f"cert-{tenant.mount}"
    server.call("POST", f"sys/auth/{mount}", {"type": "cert"})
    role = {"certificate": server.authority.file.read_text(), "token_policies": tenant.policy_name}
    server.call("POST", f"auth/{mount}/certs/keyd", role)
    fields = {
        "address": server.https,
        "ca_file": str(server.authority.file),
        "client_certificate": str(certificate),
        "client_key": str(key),
        "auth": {"cert": {"name": "keyd", "mount": mount}},
    }
    backend = open_backend(**fields)
    works(backend, "one")
    server.call("PUT", f"sys/leases/revoke-force/auth/{mount}/login", {})
    works(backend, "two")


def test_certificate_of_another_authority(server, tmp_path: Path, open_backend) -> None:
    backend = open_backend(address=server.https, ca_file=str(Authority(tmp_path).file))
    with pytest.raises(errors.BackendAccessError, match="set ca_file"):
        backend.list()


def test_unusable_tls_files(server, tmp_path: Path, open_backend) -> None:
    with pytest.raises(errors.BackendConfigError, match=r"cannot read certificates from .*none\.pem"):
        open_backend(address=server.https, ca_file=str(tmp_path / "none.pem"))
    certificate, key = Authority(tmp_path).issue("keyd")
    key.chmod(0o644)
    with pytest.raises(errors.BackendConfigError, match=r"keyd\.key is open to other users"):
        open_backend(address=server.https, client_certificate=str(certificate), client_key=str(key))
    write_private(key, "nonsense")
    with pytest.raises(errors.BackendConfigError, match="belong together"):
        open_backend(address=server.https, client_certificate=str(certificate), client_key=str(key))


def test_unix_socket(server, open_backend) -> None:
    works(open_backend(address=server.unix))


def test_namespace(server, tenant, tmp_path: Path, open_backend) -> None:
    space = f"team-{tenant.mount}"
    server.call("POST", f"sys/namespaces/{space}")
    server.call("POST", "sys/mounts/inner", {"type": "transit"}, namespace=space)
    config = tenant.config(mount="inner")
    server.call("PUT", "sys/policies/acl/keyd", {"policy": VaultTransitBackend.policy(config)}, namespace=space)
    token = server.call("POST", "auth/token/create", {"policies": ["keyd"]}, namespace=space)["auth"]["client_token"]
    write_private(tmp_path / "token", token)
    auth = {"token_file": str(tmp_path / "token")}
    works(open_backend(mount="inner", namespace=space, auth=auth))
    assert server.call("LIST", "inner/keys", namespace=space)["data"]["keys"] == ["keyd-k"]
    with pytest.raises(errors.BackendAccessError):
        open_backend(mount="inner", auth=auth).list()


def test_token_is_renewed_and_replaced_before_it_ends(server, tmp_path: Path) -> None:
    tenant = server.tenant(tmp_path, token_ttl="3s", token_max_ttl="6s")
    backend = VaultTransitBackend.open(tenant.config(), BackendContext("vault", tmp_path))
    try:
        path = f"auth/{tenant.approle_mount}/login"
        until(lambda: len(tokens(server, path)) == 1)
        (first,) = tokens(server, path)
        until(lambda: "last_renewal" in tokens(server, path).get(first, {}))
        # Nobody calls meanwhile. The second token is there while the first still is.
        until(lambda: tokens(server, path).keys() > {first})
        works(backend)
    finally:
        backend.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "keyd-vault-token"]


def test_token_that_cannot_be_replaced(server, tenant, tmp_path: Path, open_backend, caplog) -> None:
    write_private(tmp_path / "token", new_token(server, tenant, ttl="3s", renewable=False))
    backend = open_backend(auth={"token": {"file": str(tmp_path / "token")}})
    until(lambda: "ends soon and cannot be renewed" in caplog.text)
    until(lambda: not answers(backend))
    with pytest.raises(errors.BackendAccessError, match="neither expired nor revoked"):
        backend.list()


def test_denied_by_policy_is_no_reason_to_log_in(server, tenant, backend) -> None:
    works(backend)
    tenant.deny()
    for _ in range(3):
        with pytest.raises(errors.BackendAccessError, match=r"denies POST transit-.*keyd backend policy"):
            backend.sign("keyd-k:1", ED, b"")
    assert len(tokens(server, f"auth/{tenant.approle_mount}/login")) == 1
    tenant.allow("")
    backend.sign("keyd-k:1", ED, b"")


def test_one_login_for_many_callers(server, tenant, backend) -> None:
    works(backend)
    tenant.revoke_tokens()
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda _: backend.sign("keyd-k:1", ED, b""), range(64)))
    assert len(tokens(server, f"auth/{tenant.approle_mount}/login")) == 1


def test_secrets_stay_out_of_messages_and_logs(server, tenant, backend, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    works(backend)
    secret = tenant.secret_file.read_text()
    with tenant.refusing(), pytest.raises(errors.BackendAccessError) as caught:
        backend.sign("keyd-k:1", ED, b"")
    shown = "".join(traceback.format_exception(caught.value)) + caplog.text + repr(backend) + repr(tenant.config())
    assert "has no token" in shown
    assert secret not in shown
    assert server.token not in shown


def test_nonsense_in_the_place_of_a_token(tmp_path: Path, open_backend) -> None:
    write_private(tmp_path / "token", "s.first\ns.second\n")
    backend = open_backend(auth={"token_file": str(tmp_path / "token")})
    with pytest.raises(errors.BackendAccessError, match="is no token") as caught:
        backend.list()
    assert "s.second" not in "".join(traceback.format_exception(caught.value))
