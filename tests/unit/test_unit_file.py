"""The unit of systemd that keyd comes with fits what keyd does by itself."""

from __future__ import annotations

from pathlib import Path

UNIT = Path(__file__).parents[2] / "deploy/keyd-signing.service"


def test_one_process_that_the_kernel_kills_for_want_of_memory_does_not_have_systemd_stop_the_others() -> None:
    assert "OOMPolicy=continue" in UNIT.read_text().partition("[Service]")[2].splitlines()
