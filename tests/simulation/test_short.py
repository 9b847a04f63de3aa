"""The short form of `make simulate`, and years in which something is broken: those must not be good."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from keyd.core.keyring import Change
from keyd.core.timeline import LifecyclePolicy, Timeline
from keyd.core.verifiers import not_yet_known, still_trusted
from simulation.house import House
from simulation.operators import RATES, announced
from simulation.run import Report, run
from simulation.year import Plan

_SHORT = Plan(keys=26, days=90, seed=1, busy=16.0, outages=6)
_BROKEN = Plan(keys=10, days=40, seed=1, busy=0.0, outages=0, week_down=False)


async def test_nobody_notices_rotation_outside_of_announced_windows() -> None:
    report = await run(_SHORT)
    assert report.good(), report.problems()[:20]
    assert len(report.verifiers) == 11
    for name, counts in report.verifiers.items():
        assert counts["verifications"] > 500, name
        assert counts["whole"] > 50, name
        assert counts["cold"] > 50, name
        assert counts["revoked"] > 0, name
        assert 0 < counts["fetches"] <= 4 * counts["verifications"], name
    # It looked where verifiers do fail: in the windows, some did, and some trusted what was compromised.
    assert sum(counts["inside"] for counts in report.verifiers.values()) > 0
    assert sum(counts["trusted"] for counts in report.verifiers.values()) > 0
    assert {act for act in RATES if not report.figures.get(f"operators, {act}")} == set()
    assert report.figures["JWK Sets fetched over HTTP and compared"] > 20


async def test_a_year_in_which_nothing_goes_wrong_has_no_windows() -> None:
    report = await run(_BROKEN)
    assert report.good(), report.problems()[:20]
    assert not any(counts["inside"] for counts in report.verifiers.values())


async def test_is_noticed_when_a_version_is_published_only_when_it_signs() -> None:
    def no_lead(house: House) -> None:
        house.ring._lead = lambda name: 0.0  # type: ignore[method-assign]

    report = await run(_BROKEN, sabotage=no_lead)
    assert not report.good()
    assert _failing(report) >= {"aauth", "introspection-aauth", "PyJWT PyJWKClient", "wbauth-sdk", "regent-httpsig, Web Bot Auth"}
    assert "regent-httpsig, JWKS" not in _failing(report)  # it asks again at once


async def test_is_noticed_when_a_version_is_active_as_soon_as_it_is_made() -> None:
    def at_once(house: House) -> None:
        async def prepare(name: str, activate_at: float, *, newest: int) -> Change:
            return await house.ring.rotate(name, at_once=True)

        house.ring.prepare = prepare  # type: ignore[method-assign]

    report = await run(_BROKEN, sabotage=at_once)
    assert not report.good()
    assert _failing(report) >= {"aauth", "wbauth-sdk", "model: 24 h, never refetches"}


async def test_is_noticed_when_a_version_is_unpublished_as_soon_as_it_stops_signing(monkeypatch: pytest.MonkeyPatch) -> None:
    def replaced(self: Timeline, at: float, policy: LifecyclePolicy, promised: float = 0.0) -> Timeline:
        end = at + policy.sign_grace
        return replace(self, deactivate_at=at, sign_until=end, unpublish_at=end)

    monkeypatch.setattr(Timeline, "replaced", replaced)
    monkeypatch.setattr(Timeline, "publication_ends", lambda self, now, policy: now + policy.retention)
    report = await run(_BROKEN)
    assert not report.good()
    assert len(_failing(report)) == 11


async def test_is_noticed_when_a_compromised_version_stays_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Timeline, "published", lambda self, now: self.publish_at <= now < min(self.unpublish_at, self.destroyed_at)
    )
    report = await run(replace(_SHORT, days=40, busy=40.0))
    assert sum(counts["trusted_outside"] for counts in report.verifiers.values()) > 0
    assert not report.good()


async def test_is_noticed_when_an_emergency_announces_nothing() -> None:
    def mute(house: House) -> None:
        loud = house.ring.rotate

        async def rotate(name: str, *, at_once: bool = False) -> Change:
            return replace(await loud(name, at_once=at_once), warnings=())

        house.ring.rotate = rotate  # type: ignore[method-assign]

    report = await run(replace(_BROKEN, busy=20.0), sabotage=mute)
    assert any("announced nothing" in fault for fault in report.faults)


@pytest.mark.parametrize(
    ("kind", "words", "expected"),
    [
        ("new", not_yet_known(0.0, 300), {"aauth": 60.0, "wbauth-sdk": 300.0, "regent-httpsig (key directory)": 720.0}),
        ("new", not_yet_known(100.0, 300), {"wbauth-sdk": 200.0, "regent-httpsig (key directory)": 660.0}),
        ("revoked", still_trusted("kid-1", 300), {"aauth": 3600.0, "AAuth by its draft": 86400.0, "PyJWT": 300.0}),
        ("new", not_yet_known(86400.0, 300), {}),
    ],
)
def test_reads_what_keyd_announces(kind: str, words: str, expected: dict[str, Any]) -> None:
    said = announced(kind, ("something else", words))
    assert said is not None
    assert said.items() >= expected.items()
    if not expected:
        assert said == {}


def test_finds_no_announcement_where_there_is_none() -> None:
    assert announced("new", ()) is None
    assert announced("new", ("the first version is active at once", still_trusted("kid-1", 300))) is None
    assert announced("revoked", (not_yet_known(0.0, 300),)) is None


def _failing(report: Report) -> set[str]:
    return {name for name, counts in report.verifiers.items() if counts["outside"]}
