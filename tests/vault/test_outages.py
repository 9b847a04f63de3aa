"""What the server can do to keyd, beyond the faults of the contract."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from components.cutting_proxy import cutting_proxy
from components.openbao import OpenBao

from backends import deadline, errors
from backends.api import Algorithm, BackendContext, StoredKey
from backends.testing.checks import check
from backends.vault_transit import VaultTransitBackend

ED = Algorithm.ED25519


def until_it_signs(backend, handle: str) -> None:
    end = time.monotonic() + 10
    while True:
        try:
            backend.sign(handle, ED, b"message")
            return
        except errors.BackendUnavailableError:
            assert time.monotonic() < end, "no recovery"
            time.sleep(0.05)


def test_server_that_is_killed_and_comes_back(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    with OpenBao(tmp_path / "server", durable=True) as server:
        tenant = server.tenant(tmp_path)
        context = BackendContext("vault", tmp_path)
        backend = VaultTransitBackend.open(tenant.config(), context)
        handle = backend.create("k", 1, ED)
        public = backend.public_key(handle)
        server.stop()
        for call in (lambda: backend.sign(handle, ED, b""), backend.list, lambda: backend.public_key(handle)):
            with pytest.raises(errors.BackendUnavailableError, match="start it, or check the address"):
                call()
        early = VaultTransitBackend.open(tenant.config(), context)
        with pytest.raises(errors.BackendUnavailableError):
            early.list()
        server.restart()
        sealed = VaultTransitBackend.open(tenant.config(), context)
        for each in (backend, early, sealed):
            with pytest.raises(errors.BackendUnavailableError, match="sealed"):
                each.list()
        server.unseal()
        for each in (backend, early, sealed):
            until_it_signs(each, handle)
            check(public, ED, each.sign(handle, ED, b"message"), b"message")
            assert list(each.list()) == [StoredKey(handle, "k", 1)]
            each.close()


def test_mount_that_is_gone_is_not_an_empty_one(server, tenant, backend) -> None:
    handle = backend.create("k", 1, ED)
    server.call("DELETE", f"sys/mounts/{tenant.mount}")
    calls = [
        backend.list,
        lambda: backend.public_key(handle),
        lambda: backend.sign(handle, ED, b""),
        lambda: backend.destroy(handle),
        lambda: backend.create("other", 1, ED),
    ]
    for call in calls:
        with pytest.raises(errors.BackendAccessError, match="check mount and namespace"):
            call()


def test_lost_answers(server, open_backend) -> None:
    with cutting_proxy(server.http) as proxy:
        backend = open_backend(address=proxy.address)
        proxy.cut(b"POST /v1/transit-", 1)
        with pytest.raises(errors.BackendUnavailableError, match="broke the connection off"):
            backend.create("k", 1, ED)
        with pytest.raises(errors.KeyExistsError):
            backend.create("k", 1, ED)
        proxy.cut(b"POST /v1/transit-", 1)
        with pytest.raises(errors.BackendUnavailableError):
            backend.create("k", 2, ED)
        with pytest.raises(errors.KeyExistsError):
            backend.create("k", 2, ED)
        assert [(key.name, key.version) for key in backend.list()] == [("k", 1), ("k", 2)], "a version was made twice"
        proxy.cut(b"POST /v1/transit-", 1)
        backend.sign("keyd-k:2", ED, b"")  # once more is no harm
        proxy.cut(b"POST /v1/transit-", 2)
        with pytest.raises(errors.BackendUnavailableError):
            backend.sign("keyd-k:2", ED, b"")


def test_versions_on_the_way_to_the_first_one_never_sign(server, open_backend) -> None:
    with cutting_proxy(server.http) as proxy, ThreadPoolExecutor(1) as pool:
        backend = open_backend(address=proxy.address)
        for version in (1, 2):
            backend.create("k", version, ED)
        backend.sign("keyd-k:2", ED, b"")
        backend.destroy("keyd-k:1")
        backend.sign("keyd-k:2", ED, b"")
        other = open_backend(address=proxy.address)
        other.sign("keyd-k:2", ED, b"")
        with_type_known = [backend, other]
        backend.destroy("keyd-k:2")
        early, listed = [], []

        def meanwhile() -> None:
            listed.extend(backend.list())
            early.append(pool.submit(with_type_known[0].sign, "keyd-k:2", ED, b""))

        proxy.before(b"/trim", meanwhile)
        backend.create("k", 3, ED)
        with pytest.raises(errors.KeyNotFoundError):
            early[0].result(timeout=10)
        assert listed == [StoredKey("keyd-k:3", "k", 3)]


def test_two_daemons_that_make_the_same_version(server, open_backend) -> None:
    with cutting_proxy(server.http) as proxy:
        here, there = open_backend(address=proxy.address), open_backend()
        here.create("k", 1, ED)
        proxy.before(b"/rotate", lambda: there.create("k", 2, ED) and None)
        with pytest.raises(errors.BackendError, match="something else changes transit key keyd-k"):
            here.create("k", 2, ED)


def test_waiting_ends_at_the_deadline(server, backend) -> None:
    handle = backend.create("k", 1, ED)
    with server.hung():
        start = time.monotonic()
        with deadline.within(0.2), pytest.raises(errors.BackendUnavailableError, match="did not answer in time"):
            backend.sign(handle, ED, b"")
        assert time.monotonic() - start < 1


def test_closing_ends_the_thread(open_backend) -> None:
    before = threading.active_count()
    backend = open_backend()
    backend.list()
    backend.close()
    assert threading.active_count() == before
