from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from components.openbao import OpenBao, Tenant, shared

from backends.api import BackendContext
from backends.vault_transit import VaultTransitBackend


@pytest.fixture
def server() -> OpenBao:
    return shared()


@pytest.fixture
def tenant(server: OpenBao, tmp_path: Path) -> Tenant:
    return server.tenant(tmp_path)


@pytest.fixture
def open_backend(tenant: Tenant, tmp_path: Path) -> Iterator[Callable[..., VaultTransitBackend]]:
    """Provide a function that opens a backend with these fields instead of the tenant's, closed at the end."""
    with ExitStack() as stack:

        def run(**fields: object) -> VaultTransitBackend:
            context = BackendContext("vault", tmp_path / "state")
            return stack.enter_context(closing(VaultTransitBackend.open(tenant.config(**fields), context)))

        yield run


@pytest.fixture
def backend(open_backend: Callable[..., VaultTransitBackend]) -> VaultTransitBackend:
    return open_backend()
