from collections.abc import Iterator

import pytest
from daemon_process import DaemonProcess


@pytest.fixture
def stopped() -> Iterator[DaemonProcess]:
    daemon = DaemonProcess()
    yield daemon
    daemon.close()


@pytest.fixture
def daemon(stopped: DaemonProcess) -> DaemonProcess:
    return stopped.start()
