"""What holds for every test."""

from __future__ import annotations

from collections.abc import Generator

import pytest

collect_ignore = ["third_party"]  # tests of their own, run by tests/e2e/test_third_party.py


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skipped test into a failed one: what is missing is installed, not passed over."""
    report = yield
    if report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped: {report.longrepr}"
    return report
