"""An outlook knows at any time what a look at every key would find, and looks at none for nothing."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from hypothesis import given
from hypothesis import strategies as st
from support import START, new_key

from keyd.core.model import KeyVersion
from keyd.core.outlook import Outlook
from keyd.core.snapshot import KeyView, Snapshot, VersionView
from keyd.core.timeline import KeyState, first

NAMES = ("a", "b", "c")


def view(name: str, activate_at: float, number: int = 1) -> KeyView:
    line = replace(first(START), activate_at=activate_at)
    return KeyView(new_key(name), (VersionView(KeyVersion(name, number, name, name, "{}", name, line)),))


class Looks:
    """Finds which keys are active, and notes which were looked at."""

    def __init__(self) -> None:
        self.at: list[str] = []
        self.outlook = Outlook(self.find)

    def find(self, view: KeyView, now: float) -> tuple[bool | None, float]:
        self.at.append(view.key.name)
        line = view.versions[0].record.timeline
        return line.state(now) is KeyState.ACTIVE or None, view.next_change(now)

    def catch_up(self, keys: Snapshot, now: float) -> list[str]:
        """Return which keys were looked at."""
        self.at.clear()
        for _ in self.outlook.catch_up(keys, now):
            pass
        return sorted(self.at)


KEYS = Snapshot({name: view(name, START + 10 * n) for n, name in enumerate(NAMES)})


def test_only_what_changed_or_whose_time_has_come_is_looked_at_again() -> None:
    looks = Looks()
    assert looks.catch_up(KEYS, START) == ["a", "b", "c"]
    assert set(looks.outlook.found) == {"a"}
    assert looks.outlook.next == START + 10
    assert looks.catch_up(KEYS, START + 9) == []
    assert looks.catch_up(KEYS, START + 10) == ["b"]
    assert set(looks.outlook.found) == {"a", "b"}
    other = KEYS.with_keys(view("a", START + 50))
    assert looks.catch_up(other, START + 11) == ["a"]
    assert set(looks.outlook.found) == {"b"}
    assert looks.catch_up(other, START + 60) == ["a", "c"]
    assert looks.outlook.next == inf


def test_it_looks_at_all_when_the_clock_was_set_back_or_something_else_changed() -> None:
    looks = Looks()
    looks.catch_up(KEYS, START + 15)
    assert looks.catch_up(KEYS, START) == ["a", "b", "c"]
    assert set(looks.outlook.found) == {"a"}
    looks.outlook.forget()
    assert looks.catch_up(KEYS, START) == ["a", "b", "c"]


def test_a_key_that_the_database_lost_is_forgotten() -> None:
    looks = Looks()
    looks.catch_up(KEYS, START + 15)
    fewer = Snapshot({name: KEYS.keys[name] for name in ("b", "c")})
    assert looks.catch_up(fewer, START + 15) == []
    assert set(looks.outlook.found) == {"b"}


def test_who_has_not_the_time_goes_on_later() -> None:
    looks = Looks()
    next(looks.outlook.catch_up(KEYS, START))
    assert len(looks.at) == 1
    changed = KEYS.with_keys(view(looks.at[0], START + 5))
    assert looks.catch_up(changed, START) == ["a", "b", "c"]


def test_who_began_before_the_clock_was_set_back_looks_by_the_clock_as_it_is() -> None:
    looks = Looks()
    early = looks.outlook.catch_up(KEYS, START + 15)
    next(early)
    late = looks.outlook.catch_up(KEYS, START)
    next(late)
    for _ in early:
        pass
    assert set(looks.outlook.found) == {"a"}
    assert looks.catch_up(KEYS, START + 10) == ["b"]


@given(
    st.lists(
        st.tuples(st.sampled_from(NAMES), st.integers(0, 30), st.integers(-5, 10), st.integers(0, 3)), min_size=1, max_size=30
    )
)
def test_it_knows_what_a_look_at_all_would_find(history: list[tuple[str, int, int, int]]) -> None:
    looks, keys, now = Looks(), KEYS, START
    for name, activate, passed, steps in history:
        keys, now = keys.with_keys(view(name, START + activate)), now + passed
        for _ in zip(range(steps), looks.outlook.catch_up(keys, now), strict=False):
            pass
        looks.catch_up(keys, now)
        found = {each.key.name for each in keys.keys.values() if looks.find(each, now)[0]}
        assert set(looks.outlook.found) == found
        following = min(each.next_change(now) for each in keys.keys.values())
        assert looks.outlook.next == following
