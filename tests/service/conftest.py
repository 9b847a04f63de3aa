"""What the tests of the service share. The modules of :data:`BOTH` run over each transport."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import service_conftest
from guarded import house
from service_conftest import TRANSPORT, running
from session_support import agents

__all__ = ["agents", "house", "running", "transport"]

#: Tests of calls as they come to a whole daemon. The others know no transport, or one only.
BOTH = ("test_front", "test_tcp_daemon", "test_transport", "test_watchers")
#: Of the tests of signing, those of large and of many messages; the others are the same behind the door.
OF_SIGNING = ("stream", "batch", "large")
TRANSPORTS = ("grpcio", "http2")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    own = {"json_served", "private"} & set(metafunc.fixturenames)  # of one transport only
    module = metafunc.module.__name__.rpartition(".")[2]
    both = module in BOTH or (module == "test_signing" and any(word in metafunc.function.__name__ for word in OF_SIGNING))
    if both and not own:
        metafunc.parametrize("transport", TRANSPORTS, indirect=True)


@pytest.fixture(autouse=True)
def transport(request: pytest.FixtureRequest) -> Iterator[str]:
    """What serves the daemons of the test."""
    name: str = getattr(request, "param", TRANSPORT)
    text = service_conftest.CONFIG.replace(f'transport = "{TRANSPORT}"', f'transport = "{name}"')
    # Not the fixture of that name: what a test itself patches has to be undone before its daemon stops.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service_conftest, "CONFIG", text)
        patch.setattr(request.module, "CONFIG", text, raising=False)
        yield name
