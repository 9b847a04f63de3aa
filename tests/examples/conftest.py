"""What the tests of the examples and client libraries have in common."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture
def verified(record_property: Callable[[str, object], None]) -> Callable[[str, str, str], None]:
    """Call it at the end of a test: which library (or example) had which algorithm signed, and what verified that.

    It is a row of the table of `make examples`. It counts only when the test passes.
    """

    def note(library: str, algorithm: str, verifier: str) -> None:
        record_property("verified", (library, algorithm, verifier))

    return note
