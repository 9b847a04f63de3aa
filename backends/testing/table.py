"""A pytest plug-in that prints what the suite found, by case, algorithm and component: ``-p backends.testing -p backends.testing.table``."""

from __future__ import annotations

import re
from collections import Counter

import pytest

_NODE = re.compile(r"::test_(?P<case>\w+)(?:\[(?P<parameter>[^\]]+)\])?$")
_WORDS = {"ok": "ok", "refused": "refused", "none": "-", "failed": "FAILED", "skipped": "SKIPPED"}
_MEANING = "refused: not declared, and refused as it must be.  -: the store has no such thing."


class _Table:
    """The result of every case that says for which component it was."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str], dict[str, str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take in one result."""
        properties = dict(report.user_properties)
        match = _NODE.search(report.nodeid)
        if "component" not in properties or match is None or (report.when != "call" and report.passed):
            return
        row = (match["case"].replace("_", " "), match["parameter"] or "")
        outcome = str(properties.get("outcome", "ok")) if report.passed else report.outcome
        self._cells.setdefault(row, {})[str(properties["component"])] = outcome

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table, and the figures last."""
        rows = sorted(self._cells)
        components = sorted({component for cells in self._cells.values() for component in cells})
        width = max((len(f"{case} {parameter}") for case, parameter in rows), default=0)
        say = terminalreporter.write_line
        terminalreporter.section("contract")
        say(" " * width + "  " + "  ".join(components))
        for case, parameter in rows:
            cells = self._cells[case, parameter]
            words = (_WORDS.get(cells.get(name, "none"), "?").ljust(len(name)) for name in components)
            say(f"{case} {parameter}".ljust(width) + "  " + "  ".join(words))
        counts = Counter(outcome for cells in self._cells.values() for outcome in cells.values())
        say(_MEANING)
        say(
            f"{len(components)} components, {len(rows)} cases: {counts['ok']} ok, {counts['refused']} refused as declared, "
            f"{counts['none']} without such a thing, {counts['failed']} failed, {counts['skipped']} skipped"
        )


def pytest_configure(config: pytest.Config) -> None:
    """Add the table where results come together, which with xdist is not where the tests run."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Table(), "keyd-contract-table")
