"""Real faults of real stores under load, one daemon each: what callers see, and that nothing else suffers.

While a fault lasts, calls for keys in that store end in time with UNAVAILABLE or RESOURCE_EXHAUSTED, and keys in files keep their
p99. Afterwards the same keys sign again, without a restart. ``$KEYD_FAULT_SECONDS`` is how long each phase lasts.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
from components.aws_environment import isolated
from components.fake_kms import ADMIN, REGION, FakeKms
from components.openbao import OpenBao, Tenant
from components.softhsm import SoftHsm
from daemon_process import DaemonProcess
from faults.load import CALLER_TIMEOUT, Load

from backends.api import Algorithm
from backends.encoding import verify_raw
from keyd.client import AdminClient
from keyd.core.jwk import to_public_key

SECONDS = float(os.environ.get("KEYD_FAULT_SECONDS", "1.5"))
RECOVERY = 15.0
#: How much slower, at the 99th percentile, a key in files may become: twice, and what two busy cores add by themselves.
FACTOR, NOISE = 2.0, 0.05


@dataclass
class Scenario:
    """A store, how the daemon gets at it, and what happens to it."""

    section: str
    environment: dict[str, str]
    fault: Callable[[], AbstractContextManager[None]]
    #: Outcomes that callers may see while it lasts; empty: they notice nothing.
    allowed: frozenset[str] = frozenset({"UNAVAILABLE BACKEND_UNAVAILABLE"})
    #: What the daemon gives a signature in this store; a hung one must be noticed within a phase.
    timeout: str = "0.5s"
    #: Whether some calls must fail while it lasts; else the fault was none.
    bites: bool = True


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="keyd-f-") as directory:  # short: a socket path has at most 107 bytes
        yield Path(directory)


@contextmanager
def openbao(
    directory: Path, fault: Callable[[OpenBao, Tenant], AbstractContextManager[None]], **more: object
) -> Iterator[Scenario]:
    with OpenBao(directory, durable=True) as server:
        tenant = server.tenant(directory, token_ttl="1h")
        yield Scenario(tenant.section(server.unix), {}, lambda: fault(server, tenant), **more)  # type: ignore[arg-type]


@contextmanager
def killed(server: OpenBao, tenant: Tenant) -> Iterator[None]:
    server.stop()
    try:
        yield
    finally:
        server.restart()
        server.unseal()


def sealed(server: OpenBao, tenant: Tenant) -> AbstractContextManager[None]:
    return server.sealed()


def hung(server: OpenBao, tenant: Tenant) -> AbstractContextManager[None]:
    return server.hung()


def token_expired(server: OpenBao, tenant: Tenant) -> AbstractContextManager[None]:
    tenant.revoke_tokens()
    return nullcontext()


@contextmanager
def softhsm(directory: Path) -> Iterator[Scenario]:
    store = SoftHsm(directory)
    yield Scenario(f"{store.section}reopen_interval = 0.5\n", {}, store.gone)


@contextmanager
def kms(directory: Path, fault: Callable[[FakeKms], AbstractContextManager[None]], **more: object) -> Iterator[Scenario]:
    with FakeKms().running() as fake:
        environment = {name: value for name, value in isolated(directory, ADMIN).items() if value is not None}
        section = f'type = "aws"\nregion = "{REGION}"\nendpoint_url = "{fake.url}"\n'
        yield Scenario(section, environment, lambda: fault(fake), **more)  # type: ignore[arg-type]


THROTTLED = frozenset({"RESOURCE_EXHAUSTED OVERLOADED", "UNAVAILABLE BACKEND_UNAVAILABLE"})
SCENARIOS: dict[str, Callable[[Path], AbstractContextManager[Scenario]]] = {
    "OpenBao killed and restarted": lambda d: openbao(d, killed),
    "OpenBao sealed": lambda d: openbao(d, sealed),
    "OpenBao hung": lambda d: openbao(d, hung),
    "OpenBao token expired": lambda d: openbao(d, token_expired, allowed=frozenset(), bites=False),
    "SoftHSM token directory moved away": softhsm,
    "KMS (fake) throttled at 50 %": lambda d: kms(
        d, lambda fake: fake.throttling(0.5), allowed=THROTTLED, bites=False, timeout="2s"
    ),
    "KMS (fake) throttled wholly": lambda d: kms(d, lambda fake: fake.throttling(1.0), allowed=THROTTLED, timeout="2s"),
    "KMS (fake) gone": lambda d: kms(d, FakeKms.gone),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name: str, directory: Path, record_property: Callable[[str, object], None]) -> None:
    with ExitStack() as stack:
        scenario = stack.enter_context(SCENARIOS[name](directory))
        daemon = DaemonProcess(sections=f'[backends.store]\n{scenario.section}timeout = "{scenario.timeout}"\n')
        stack.callback(daemon.close)
        daemon.env.update(scenario.environment)
        daemon.start()
        admin = stack.enter_context(daemon.admin())
        for key, backend in (("in-files", "file"), ("in-store", "store")):
            admin.create_key(key, backend=backend, purposes=["raw"])
        before = published(admin)

        load = stack.enter_context(Load(daemon, {"in-files": 2, "in-store": 4}).running())
        with load.phase("warm"):
            time.sleep(SECONDS / 2)
        with load.phase("quiet"):
            time.sleep(SECONDS)
        with load.phase("fault"), scenario.fault():
            time.sleep(SECONDS)
        with load.phase("after"):
            recovery = load.until_it_signs_again("in-store", "after", RECOVERY)
        with load.phase("sound"):
            time.sleep(SECONDS)

        quiet, fault = load.seen("in-files", "quiet"), load.seen("in-files", "fault")
        store, sound = load.seen("in-store", "fault"), load.seen("in-store", "sound")
        record_property(
            "figure",
            f"{name}: {dict(store.outcomes)}, slowest {max(store.latencies):.2f} s; signs again after {recovery:.2f} s; "
            f"keys in files: p99 {quiet.p99() * 1000:.1f} ms quiet, {fault.p99() * 1000:.1f} ms meanwhile",
        )
        assert set(store.failures) <= scenario.allowed, store.outcomes
        assert not scenario.bites or store.failures, "nothing failed: that was no fault"
        assert max(store.latencies) < CALLER_TIMEOUT + 0.5, "a call outlived its deadline"
        assert not fault.failures and not quiet.failures, "keys in files failed"
        assert fault.p99() <= FACTOR * quiet.p99() + NOISE, "keys in files became slow"
        assert not sound.failures, "keys in the store fail after the fault"
        assert published(admin) == before, "a key was lost"
    verify(load, before)


def published(admin: AdminClient) -> dict[str, str]:
    """Return the public keys on record, by kid."""
    return {version.kid: version.public_jwk for key in admin.list_keys() for version in key.versions}


def verify(load: Load, jwks: dict[str, str]) -> None:
    assert {key for key, *_ in load.signatures} == {"in-files", "in-store"}
    for _, kid, message, signature in load.signatures:
        verify_raw(to_public_key(jwks[kid]), Algorithm.ED25519, signature, message)
