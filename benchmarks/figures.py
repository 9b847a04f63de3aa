"""The sums: percentiles, medians, and whether a goal is met. No I/O."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace


def percentile(values: Sequence[float], share: float) -> float:
    """Return the least of the values that is not below ``share`` (0 to 1) of them: the nearest rank.

    Raises:
        ValueError: there are no values, or the share is none.
    """
    if not values or not 0 <= share <= 1:
        raise ValueError("a percentile needs values, and a share from 0 to 1")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median of the ratios round by round: what slows the machine slows both of a round, and falls out."""
    return statistics.median(one / other for one, other in zip(above, below, strict=True))


@dataclass(frozen=True, slots=True)
class Entry:
    """One goal, or a part of one that has a bar of its own.

    Attributes:
        goal: names it, such as ``2 rate c=8``.
        figure: what was measured; None where it could not be.
        bar: what it is held to.
        at_most: whether the bar is a ceiling; else it is a floor.
        unit: of figure and bar.
        what: what was measured against what, and what stood in for what.
        counts: whether it is a goal; else it stands beside one, held to the same bar, and nothing fails for it.
    """

    goal: str
    figure: float | None
    bar: float
    unit: str
    what: str
    at_most: bool = False
    counts: bool = True

    def beside(self, label: str) -> Entry:
        """Return it as the figure of something that does not count, such as another transport."""
        return replace(self, goal=f"{self.goal}, {label}", counts=False)

    @property
    def met(self) -> bool:
        """Whether the goal is met. What was not measured is missed."""
        if self.figure is None or math.isnan(self.figure):
            return False
        return self.figure <= self.bar if self.at_most else self.figure >= self.bar

    def to_json(self) -> dict[str, object]:
        """Return the entry as latest.json has it."""
        figure = None if self.figure is None or math.isnan(self.figure) else round(self.figure, 4)
        return {
            "goal": self.goal,
            "figure": figure,
            "bar": self.bar,
            "met": self.met,
            "counts": self.counts,
            "unit": self.unit,
            "better": "lower" if self.at_most else "higher",
            "what": self.what,
        }

    def line(self) -> str:
        """Return it for people, on one line."""
        figure = "not measured" if self.figure is None else f"{number(self.figure)} {self.unit}"
        bound = f"{'at most' if self.at_most else 'at least'} {number(self.bar)}"
        verdict = ("met" if self.met else "MISSED") if self.counts else ("(met)" if self.met else "(missed)")
        return f"{verdict:<8}  {self.goal:<34} {figure} ({bound})"


@dataclass(frozen=True, slots=True)
class Table:
    """Figures for people, beside the verdicts. Numbers are formatted already."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return it as Markdown."""
        lines = [f"| {' | '.join(self.columns)} |", "|" + "---|" * len(self.columns)]
        lines += [f"| {' | '.join(row)} |" for row in self.rows]
        return "\n".join(lines)


@dataclass(slots=True)
class Outcome:
    """What a goal's measurement found."""

    entries: list[Entry] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        """Take over what another one found."""
        self.entries += other.entries
        self.tables += other.tables


def number(value: float) -> str:
    """Return a number for people: three figures that count, and thousands apart."""
    if value == 0 or math.isnan(value):
        return "0" if value == 0 else "-"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def missed(entries: Iterable[Entry]) -> list[str]:
    """Return the names of the goals that are missed. What stands beside a goal is none."""
    return [entry.goal for entry in entries if entry.counts and not entry.met]
