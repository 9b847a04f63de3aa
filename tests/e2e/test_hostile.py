"""The short form of `make hostile`: every class of mutation, for keys of every profile, at least once."""

from __future__ import annotations

from hostile import binding, grants, tokens
from hostile.bases import BASES
from hostile.run import KEYS, Report, run


def test_nothing_that_is_broken_is_signed() -> None:
    report = run(3500, seed=5)
    assert report.good(), report.text()
    expected = {
        *BASES,
        *tokens.TOKENS,
        *tokens.ISSUER_TOKENS,
        *(label for classes in binding.BINDINGS.values() for label in classes),
    }
    if report.with_grants:
        expected |= {label.partition(" (")[0] for label in grants.MUTATIONS}
    assert expected <= report.by_class.keys()
    assert report.controls > 10 * len(KEYS)


def test_a_report_is_not_good_when_anything_is_amiss() -> None:
    def report(**changes: object) -> Report:
        values = {"sent": 9, "controls": 9, "healthy": True, **changes}
        return Report(1, **values)  # type: ignore[arg-type]

    assert report().good()
    for changes in ({"signed": 1}, {"healthy": False}, {"controls": 0}, {"wrong": ["x"]}):
        assert not report(**changes).good()
