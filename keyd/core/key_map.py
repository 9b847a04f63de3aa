"""A mapping from names to values, immutable and in the order of the names, of which a copy with a change costs next to nothing.

The snapshot of a hundred thousand keys is swapped at each change of one. What is swapped is one part of some hundred names and the list
of the parts; all other parts are shared, so that what differs between two snapshots is found without a look at all of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import ItemsView, Iterable, Iterator, Mapping, ValuesView
from itertools import chain
from operator import itemgetter
from typing import TypeVar, overload

V = TypeVar("V")
D = TypeVar("D")

#: Names in a part when it is made anew; with twice as many it is divided.
_PART = 256
_name = itemgetter(0)


class KeyMap(Mapping[str, V]):
    """Names in order, with their values."""

    __slots__ = ("_first", "_parts", "_size")

    def __init__(self, items: Mapping[str, V] | Iterable[tuple[str, V]] = ()) -> None:
        """Take over items, in any order."""
        ordered = sorted(dict(items).items(), key=_name)
        self._parts: list[dict[str, V]] = [dict(ordered[n : n + _PART]) for n in range(0, len(ordered), _PART)] or [{}]
        #: The first name of each part; what comes before all of them belongs into the first part.
        self._first = [""] + [next(iter(part)) for part in self._parts[1:]]
        self._size = len(ordered)

    def __getitem__(self, name: str) -> V:
        return self._parts[bisect_right(self._first, name) - 1][name]

    @overload
    def get(self, name: str, default: None = None, /) -> V | None: ...

    @overload
    def get(self, name: str, default: V | D, /) -> V | D: ...

    def get(self, name: str, default: V | D | None = None, /) -> V | D | None:
        """Return the value of a name, or ``default``. Asked for with each signature, hence written out."""
        return self._parts[bisect_right(self._first, name) - 1].get(name, default)

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self._parts)

    def __len__(self) -> int:
        return self._size

    def values(self) -> ValuesView[V]:
        """Return the values, in the order of their names."""
        return _Values(self)

    def items(self) -> ItemsView[str, V]:
        """Return the names with their values, in order."""
        return _Items(self)

    def after(self, name: str) -> Iterator[str]:
        """Go through the names behind a name, whether or not that is one of them."""
        start = bisect_right(self._first, name) - 1
        yield from (each for each in self._parts[start] if each > name)
        yield from chain.from_iterable(self._parts[start + 1 :])

    def with_items(self, items: Mapping[str, V]) -> KeyMap[V]:
        """Return a copy in which these names have these values."""
        if len(items) > _PART:
            return KeyMap({**self, **items})
        copy: KeyMap[V] = KeyMap.__new__(KeyMap)
        copy._parts, copy._first, copy._size = list(self._parts), list(self._first), self._size
        for name, value in items.items():
            copy._put(name, value)
        return copy

    def differing(self, other: KeyMap[V]) -> list[str]:
        """Return the names whose values are not the very ones of ``other``, in order; those that only ``other`` has are left out."""
        if not other._size:
            return list(self)
        known = {id(part) for part in other._parts}
        parts = (part for part in self._parts if id(part) not in known)
        return [name for part in parts for name, value in part.items() if other.get(name) is not value]

    def _put(self, name: str, value: V) -> None:
        """Set one value in a copy that nobody has seen yet."""
        where = bisect_right(self._first, name) - 1
        part = self._parts[where]
        if name in part:
            self._parts[where] = {**part, name: value}
            return
        self._size += 1
        ordered = sorted([*part.items(), (name, value)], key=_name)
        if len(ordered) <= 2 * _PART:
            self._parts[where] = dict(ordered)
            return
        self._parts[where : where + 1] = dict(ordered[:_PART]), dict(ordered[_PART:])
        self._first.insert(where + 1, ordered[_PART][0])


class _Values(ValuesView[V]):
    def __iter__(self) -> Iterator[V]:
        return chain.from_iterable(part.values() for part in self._mapping._parts)  # type: ignore[attr-defined]  # a KeyMap


class _Items(ItemsView[str, V]):
    def __iter__(self) -> Iterator[tuple[str, V]]:
        return chain.from_iterable(part.items() for part in self._mapping._parts)  # type: ignore[attr-defined]  # a KeyMap
