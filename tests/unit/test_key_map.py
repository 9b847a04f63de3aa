"""The mapping under a snapshot is a dict in order, whatever is put into it, and its copies share what did not change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.core.key_map import KeyMap

NAMES = st.text(alphabet="ABab01._-", min_size=1, max_size=4)
CHANGES = st.lists(st.dictionaries(NAMES, st.integers(), max_size=5), max_size=20)


def large(number: int = 2000) -> KeyMap[int]:
    return KeyMap({f"key-{n:05}": n for n in range(number)})


def parts_in_common(one: KeyMap[int], other: KeyMap[int]) -> int:
    return len({id(part) for part in one._parts} & {id(part) for part in other._parts})


@given(st.dictionaries(NAMES, st.integers()), CHANGES, NAMES)
def test_it_is_a_dict_in_order(first: dict[str, int], changes: list[dict[str, int]], probe: str) -> None:
    plain, keys = dict(first), KeyMap(first)
    for change in changes:
        before, whole = keys, dict(plain)
        plain |= change
        keys = keys.with_items(change)
        assert dict(before) == whole, "a copy changed what it was made of"
        assert keys.differing(before) == [name for name in sorted(plain) if plain[name] is not whole.get(name)]
    assert list(keys) == sorted(plain)
    assert list(keys.items()) == sorted(plain.items())
    assert list(keys.values()) == [plain[name] for name in sorted(plain)]
    assert len(keys) == len(plain)
    assert keys == plain
    assert (probe in keys) == (probe in plain)
    assert keys.get(probe) == plain.get(probe)
    assert list(keys.after(probe)) == [name for name in sorted(plain) if name > probe]


def test_many_names_stay_in_order_as_they_come_one_by_one() -> None:
    names = [f"{n * 7919 % 5000:04}" for n in range(5000)]  # each once, in disorder
    keys: KeyMap[int] = KeyMap()
    for number, name in enumerate(names):
        keys = keys.with_items({name: number})
    assert list(keys) == sorted(names)
    assert all(keys[name] == number for number, name in enumerate(names))
    assert list(keys.after("2500")) == [name for name in sorted(names) if name > "2500"]


def test_a_copy_shares_all_but_what_changed() -> None:
    keys = large()
    changed = keys.with_items({"key-00300": -1})
    assert parts_in_common(keys, changed) == len(keys._parts) - 1
    assert changed.differing(keys) == ["key-00300"]
    assert keys.differing(changed) == ["key-00300"]
    assert keys.differing(keys) == []


def test_from_none_everything_differs() -> None:
    keys = large()
    assert keys.differing(KeyMap()) == list(keys)
    assert KeyMap[int]().differing(keys) == []


def test_what_only_the_other_has_does_not_differ() -> None:
    keys = large()
    grown = keys.with_items({"key-00300x": -1})
    assert grown.differing(keys) == ["key-00300x"]
    assert keys.differing(grown) == []


def test_more_than_one_part_can_change_at_once() -> None:
    keys = large()
    changed = keys.with_items(dict.fromkeys(keys, -1))
    assert list(changed) == list(keys)
    assert set(changed.values()) == {-1}
    assert parts_in_common(keys, changed) == 0


def test_a_name_that_is_not_there() -> None:
    for keys in (KeyMap[int](), large()):
        assert keys.get("zzz") is None
        assert keys.get("", 5) == 5
        with pytest.raises(KeyError):
            keys["zzz"]
