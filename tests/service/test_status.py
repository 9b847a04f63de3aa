"""Every domain error has its gRPC code."""

from __future__ import annotations

from pathlib import Path

from keyd.core import errors
from keyd.service.status import CODES, to_status


def tree(cls: type[errors.KeydError]) -> set[type[errors.KeydError]]:
    return {cls}.union(*(tree(sub) for sub in cls.__subclasses__()))


def test_no_error_is_without_a_code() -> None:
    assert tree(errors.KeydError) == set(CODES)


def test_reasons_are_stable_and_distinct() -> None:
    reasons = [cls.reason for cls in CODES]
    assert len(set(reasons)) == len(reasons)
    assert {"COVERAGE", "FRESHNESS", "KEYID", "ALGORITHM", "TAG", "PURPOSE", "SIZE", "KEY_STATE", "BACKEND_UNAVAILABLE"} <= set(
        reasons
    )


def test_metadata_travels() -> None:
    status = to_status(errors.KeyStateError("no", active_kid="k"))
    assert (status.code, status.message, len(status.details)) == (9, "no", 1)


def test_every_reason_is_in_the_manual() -> None:
    manual = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    for cls, code in CODES.items():
        assert f"| `{cls.reason}` | {code.name} |" in manual
