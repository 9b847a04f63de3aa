"""A snapshot is made of records in whatever order they come."""

from __future__ import annotations

import itertools

import pytest
from support import START, new_key

from keyd.core import snapshot as snapshots
from keyd.core.model import KeyVersion
from keyd.core.snapshot import Snapshot
from keyd.core.timeline import first


def version(key: str, number: int) -> KeyVersion:
    kid = f"{key}-{number}"
    return KeyVersion(key, number, kid, kid, "{}", kid, first(START))


def test_the_versions_of_each_key_are_its_own_and_the_oldest_comes_first() -> None:
    keys = [new_key("one"), new_key("many"), new_key("none")]
    numbers = (1, 2, 9, 10)
    for order in itertools.permutations(numbers):
        records = [version("many", number) for number in order]
        snapshot = Snapshot.of(keys, [records[0], version("one", 3), *records[1:]])
        found = {name: [each.record.version for each in view.versions] for name, view in snapshot.keys.items()}
        assert found == {"many": [*numbers], "none": [], "one": [3]}
        assert {each.record.key for each in snapshot.keys["many"].versions} == {"many"}


def test_each_of_many_versions_is_put_in_its_place_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []

    def number(view: snapshots.VersionView) -> int:
        looked.append(view)
        return view.record.version

    monkeypatch.setattr(snapshots, "_number", number)
    snapshot = Snapshot.of([new_key("many")], [version("many", count) for count in range(100, 0, -1)])
    assert (len(snapshot.keys["many"].versions), len(looked)) == (100, 100)
