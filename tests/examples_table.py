"""A pytest plug-in that prints which library had which algorithm signed by keyd, and what verified it: ``-p examples_table``."""

from __future__ import annotations

import pytest

#: Without a row for each of these something was not run.
LIBRARIES = frozenset(
    {
        "httpx",
        "requests",
        "aiohttp",
        "aauth",
        "aauth-signing",
        "introspection-aauth",
        "regent-httpsig",
        "wbauth-sdk",
        "lumoauth",
        "httpx, session",
        "aauth, session",
        "aauth-signing, session",
        "introspection-aauth, session",
        "regent-httpsig, session",
        "lumoauth, session",
        "http-message-signatures",
        "key directory",
        "Web Bot Auth vectors",
        "PyJWT",
        "joserfc",
        "npm web-bot-auth",
        "npm http-message-signatures",
        "mcp",
        "langchain-core",
    }
)


class _Table:
    """The rows of the tests that passed, and the names of those that did not."""

    def __init__(self) -> None:
        self.rows: set[tuple[str, str, str]] = set()
        self.failed: list[str] = []
        self.passed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take in one result."""
        if report.failed:
            self.failed.append(report.nodeid)
        elif report.when == "call":
            self.passed += 1
            self.rows |= {tuple(value) for name, value in report.user_properties if name == "verified"}

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail when a library was not run at all."""
        if self.missing and session.exitstatus == 0:
            session.exitstatus = 1

    @property
    def missing(self) -> list[str]:
        """Libraries without a row."""
        return sorted(LIBRARIES - {library for library, _, _ in self.rows})

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table, and the figures last."""
        say = terminalreporter.write_line
        terminalreporter.section("examples")
        table = [("library", "algorithm", "verified by"), *sorted(self.rows)]
        widths = [max(len(row[column]) for row in table) for column in range(2)]
        for library, algorithm, verifier in table:
            say(f"{library.ljust(widths[0])}  {algorithm.ljust(widths[1])}  {verifier}")
        for library in self.missing:
            say(f"MISSING: nothing was verified for {library}")
        libraries = {library for library, _, _ in self.rows}
        say(
            f"{len(libraries)} libraries and examples, {len(self.rows)} rows, {self.passed} tests passed, "
            f"{len(self.failed)} failed, {len(self.missing)} libraries missing"
        )


def pytest_configure(config: pytest.Config) -> None:
    """Add the table where results come together, which with xdist is not where the tests run."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Table(), "keyd-examples-table")
