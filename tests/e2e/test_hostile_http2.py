"""The short form of `make hostile-http2`: each attack once, and briefly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from daemon_process import DaemonProcess
from hostile.http2 import ATTACKS, KNOWN, MOST_MEMORY, MOST_WAITING, TRANSPORTS, Outcome, attack, attacked

SECONDS = 0.4


@pytest.fixture(scope="module", params=TRANSPORTS)
def daemon(request: pytest.FixtureRequest) -> Iterator[DaemonProcess]:
    with attacked(request.param) as daemon:
        yield daemon


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_takes_little_memory_and_nobodys_signatures(daemon: DaemonProcess, name: str) -> None:
    found = attack(daemon, name, SECONDS)
    assert found.good, found
    assert found.sent or name == "idle"
    assert found.connections or name == "calls_nobody"


def test_what_is_not_good() -> None:
    good = Outcome("ping", MOST_MEMORY, 0.0, 10, 0, 0.001, MOST_WAITING, 0, 4, 9)
    assert good.good
    for change in ({"grown": MOST_MEMORY + 1}, {"failed": 1}, {"p99": MOST_WAITING + 1}, {"open_files": 1}):
        assert not replace(good, **change).good  # type: ignore[arg-type]
    assert replace(good, name="hpack_bomb", grown=float(KNOWN["hpack_bomb"]), p99=60.0).good
    assert not replace(good, name="hpack_bomb", grown=KNOWN["hpack_bomb"] + 1.0).good
