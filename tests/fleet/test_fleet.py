"""The short form of `make fleet`."""

from __future__ import annotations

from fleet.run import run


def test_a_fleet_under_kills() -> None:
    report = run(15, 9421, chaos_pause=2.0)
    print(report.text())
    assert report.good, report.text()
