"""Prints what the fault scenarios measured, last."""

from __future__ import annotations

import pytest


class _Figures:
    def __init__(self) -> None:
        self._lines: list[str] = []
        self._failed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        lines = [str(value) for name, value in report.user_properties if name == "figure"]
        if report.when == "call" and lines:
            self._lines += lines
        self._failed += report.failed and "tests/faults/" in report.nodeid

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._lines:
            terminalreporter.section("faults")
            for line in self._lines:
                terminalreporter.write_line(line)
            terminalreporter.write_line(f"{len(self._lines)} scenarios measured, {self._failed} failed")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Figures(), "keyd-fault-figures")
