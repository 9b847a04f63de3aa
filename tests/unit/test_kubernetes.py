"""What kube-apiserver is told of keys: a function of timelines, clock and configuration."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from support import START, FakeClock, new_key

from backends.api import Algorithm
from keyd.core import jwk, kubernetes
from keyd.core.kubernetes import KeySet, PublicKey, Rules, ServiceAccounts
from keyd.core.model import KeyVersion, Purpose
from keyd.core.profile import BUILT_IN
from keyd.core.snapshot import KeyView, Snapshot, VersionView
from keyd.core.timeline import LifecyclePolicy, Timeline, first, successor

KEY = new_key("accounts", algorithm=Algorithm.ES256, purposes=frozenset({Purpose.JWT}), profile="kubernetes")
JWKS = [jwk.from_public_key(ec.generate_private_key(ec.SECP256R1()).public_key())[0] for _ in range(6)]
HOUR, DAY = 3600.0, 86400.0
PREVIOUS = PublicKey("old", b"old")


def version(number: int, line: Timeline) -> VersionView:
    kid = f"accounts-{number}"
    return VersionView(KeyVersion("accounts", number, kid, kid, JWKS[number - 1], "h", line))


def accounts(*lines: Timeline, rules: Rules | None = None) -> tuple[ServiceAccounts, FakeClock, SimpleNamespace]:
    view = KeyView(KEY, tuple(version(number, line) for number, line in enumerate(lines, 1)))
    clock = FakeClock()
    ring = SimpleNamespace(snapshot=Snapshot({"accounts": view}), clock=clock, profiles=BUILT_IN)
    return ServiceAccounts(ring, rules or Rules("accounts")), clock, ring  # type: ignore[arg-type]


def kids(found: KeySet) -> list[str]:
    return [key.kid for key in found.keys]


def made_ahead(publish_at: float, lead: float = DAY) -> tuple[Timeline, Timeline]:
    """Return the timelines of a version and of its successor, which is made and not published yet."""
    activate_at = publish_at + lead
    return first(START).replaced(activate_at, KEY.lifecycle), Timeline(START, publish_at, activate_at)


def test_the_hint_shrinks_towards_the_next_change() -> None:
    service, clock, _ = accounts(*made_ahead(START + 1000))
    for at, hint in ((0, 300), (699, 300), (700, 300), (701, 299), (999, 1), (999.5, 1), (1000, 300)):
        clock.time = START + at
        assert service.key_set().refresh == hint
        assert kids(service.key_set()) == ["accounts-1", "accounts-2"][: 1 + (at >= 1000)]


def test_activation_is_no_change() -> None:
    service, clock, _ = accounts(*made_ahead(START + 1000))
    clock.time = START + 1000
    before = service.key_set()
    clock.advance(DAY + 1)
    assert replace(service.key_set(), refresh=0) == replace(before, refresh=0)


def test_the_order_is_that_of_the_versions_and_previous_keys_are_last() -> None:
    service, clock, _ = accounts(*made_ahead(START + 10), rules=Rules("accounts", previous=(PREVIOUS,)))
    clock.time = START + 11
    assert kids(service.key_set()) == ["accounts-1", "accounts-2", "old"]
    clock.advance(DAY)  # the second signs
    assert kids(service.key_set()) == ["accounts-1", "accounts-2", "old"]


def test_the_timestamp_is_when_the_set_came_to_be() -> None:
    lines = made_ahead(START + 1000.5)
    service, clock, ring = accounts(*lines)
    gone = lines[0].unpublish_at
    for at, since in ((START + 500, START), (START + 1001, START + 1000.5), (gone - 1, START + 1000.5), (gone + 9, gone)):
        clock.time = at
        assert service.key_set().changed_at // 1_000_000 == int(since * 1000)
    # one that never was published changes nothing
    view = ring.snapshot.get("accounts")
    stillborn = version(3, replace(Timeline(gone, gone + DAY, gone + 2 * DAY), compromised_at=gone + 5))
    before = service.key_set()
    ring.snapshot = Snapshot({"accounts": replace(view, versions=(*view.versions, stillborn))})
    assert service.key_set() == before


def test_what_is_compromised_is_nowhere() -> None:
    compromised = replace(first(START), compromised_at=START + 5)
    service, clock, ring = accounts(compromised, first(START + 5))
    pkix = service_pkix(ring, 1)
    service.rules = Rules("accounts", previous=(PublicKey("same-key-other-name", pkix), PREVIOUS))
    clock.time = START + 4
    assert kids(service.key_set()) == ["accounts-1", "same-key-other-name", "old"]
    clock.time = START + 5
    assert kids(service.key_set()) == ["accounts-2", "old"]


def service_pkix(ring: SimpleNamespace, number: int) -> bytes:
    return kubernetes._pkix(ring.snapshot.get("accounts").version(number))


@pytest.mark.parametrize(
    ("retention", "configured", "said"),
    [
        (2 * DAY, DAY, 86400),
        (2 * DAY, HOUR, 3600),
        (DAY, DAY, 86370),
        (660.0, DAY, 630),
        (630.0, DAY, 600),
        (2 * DAY, 3 * DAY, 86400),
    ],
)
def test_the_longest_life_fits_retention_and_profile(retention: float, configured: float, said: int) -> None:
    service, _, ring = accounts(first(START), rules=Rules("accounts", max_token_expiration=configured))
    key = replace(KEY, lifecycle=LifecyclePolicy(retention=retention))
    ring.snapshot = Snapshot({"accounts": KeyView(key, ring.snapshot.get("accounts").versions)})
    assert service.max_token_expiration() == said


@given(
    max_age=st.integers(1, 600),
    hint=st.floats(0.2, 1.0),
    events=st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=3),
    offset=st.floats(0, 600),
)
@settings(max_examples=100, deadline=None)
def test_each_version_is_fetched_before_it_signs(
    max_age: int, hint: float, events: list[tuple[float, bool]], offset: float
) -> None:
    """Whoever fetches as the hints say has every version by the time it signs, made ahead or rotated in any moment."""
    lead = 2.0 * max_age
    policy = LifecyclePolicy(publish_lead=lead, sign_grace=10, retention=max_age)
    lines, at = [first(START)], START
    for gap, ahead in events:
        at += lead + gap * max_age
        new = Timeline(at - 1, at, at + lead) if ahead else successor(at, policy)
        lines[-1] = lines[-1].replaced(new.activate_at, policy)
        lines.append(new)
    end = at + lead + 2 * max_age + 60
    service, clock, ring = accounts(*lines, rules=Rules("accounts", refresh_hint=max(1.0, max_age * hint)))
    everything = ring.snapshot.get("accounts").versions
    clock.time, stamps, sets, last = START + offset % max_age, [], [], None
    while clock.time < end:
        # What is not made yet is not on record.
        known = tuple(v for v in everything if v.record.timeline.created_at <= clock.time)
        visible = [*known[:-1], VersionView(replace(known[-1].record, timeline=open_ended(known, everything)))]
        ring.snapshot = Snapshot({"accounts": KeyView(KEY, tuple(visible))})
        found = service.key_set()
        assert 1 <= found.refresh <= max(1, max_age)
        if last is None or (kids(found) != last):
            sets.append(kids(found))
            stamps.append(found.changed_at)
        assert found.changed_at == stamps[-1]
        last, until = kids(found), clock.time + found.refresh
        for each in everything:
            line = each.record.timeline
            if line.activate_at < until and clock.time < line.deactivate_at:
                assert each.record.kid in last
        clock.time = until
    assert stamps == sorted(stamps)


def open_ended(known: tuple[VersionView, ...], everything: tuple[VersionView, ...]) -> Timeline:
    """Return the timeline of the newest version that is known: without an end while its successor is not made."""
    line = known[-1].record.timeline
    return line if len(known) == len(everything) else replace(line, deactivate_at=inf, sign_until=inf, unpublish_at=inf)
