"""Writes the figures down: the tables of docs/performance.md between their markers, a plot beside it, and results/latest.json."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.figures import Outcome, Table, number
from benchmarks.goals import GOALS
from benchmarks.machine import commit, describe, today

_ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = _ROOT / "docs" / "performance.md"
PLOT = _ROOT / "docs" / "performance.svg"
LATEST = Path(__file__).parent / "results" / "latest.json"


class MarkerError(Exception):
    """The document has no place for what is to be written there, or more than one."""


def between(text: str, name: str, content: str) -> str:
    """Return a document with this content between the markers of that name; everything else stays as it is.

    Raises:
        MarkerError: the markers are not there, exactly once.
    """
    begin, end = f"<!-- generated: {name} -->", "<!-- end -->"
    parts = text.split(begin)
    if len(parts) != 2 or end not in parts[1]:
        raise MarkerError(f"the document needs the lines {begin} and {end}, once")
    rest = parts[1][parts[1].index(end) :]
    return f"{parts[0]}{begin}\n{content}\n{rest}"


@dataclass(frozen=True, slots=True)
class Part:
    """What was measured of one goal, and when."""

    name: str
    outcome: Outcome
    origin: Mapping[str, object]


def origin(rounds: int, seconds: float) -> dict[str, object]:
    """Return where figures are from: date, commit, how long was measured, and how busy the machine was in the last five minutes, the benchmark included."""
    # Far above 2 or 3 it means that others used the machine, and that rates mean little.
    return {
        "date": today(),
        "commit": commit(),
        "rounds": rounds,
        "seconds": seconds,
        "load_average": round(os.getloadavg()[1], 1),
    }


def document(parts: Sequence[Part], before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what latest.json has: these goals, and of an earlier one those that were not measured now."""
    measured = {part.name for part in parts}
    kept: Mapping[str, Any] = before or {"goals": [], "tables": []}
    goals = [goal for goal in kept["goals"] if goal["part"] not in measured]
    tables = [table for table in kept["tables"] if table["part"] not in measured]
    for part in parts:
        goals += [{"part": part.name, **entry.to_json(), **part.origin} for entry in part.outcome.entries]
        tables += [
            {"part": part.name, "title": table.title, "columns": list(table.columns), "rows": [list(row) for row in table.rows]}
            for table in part.outcome.tables
        ]
    order = list(GOALS)
    return {
        "machine": describe(),
        "missed": [goal["goal"] for goal in goals if goal["counts"] and not goal["met"]],
        "goals": sorted(goals, key=lambda goal: order.index(goal["part"])),
        "tables": sorted(tables, key=lambda table: order.index(table["part"])),
    }


def latest() -> dict[str, Any] | None:
    """Return what was written last; None where nothing was."""
    return json.loads(LATEST.read_text()) if LATEST.exists() else None


def goals_table(goals: Sequence[Mapping[str, Any]]) -> str:
    """Return the verdicts as Markdown. Those in brackets do not count."""
    rows = [
        [
            goal["goal"],
            "-" if goal["figure"] is None else f"{number(goal['figure'])} {goal['unit']}",
            f"{'≤' if goal['better'] == 'lower' else '≥'} {number(goal['bar'])}",
            _verdict(goal),
            f"{goal['load_average']:g}",
            f"{goal['commit']}, {goal['date']}, {goal['rounds']} of {goal['seconds']:g} s",
            goal["what"],
        ]
        for goal in goals
    ]
    return Table("", ("goal", "figure", "bar", "", "load average", "commit, date, rounds", "what"), rows).markdown()


def _verdict(goal: Mapping[str, Any]) -> str:
    if goal["counts"]:
        return "met" if goal["met"] else "**missed**"
    return "(met)" if goal["met"] else "(missed)"


def rendered(text: str, found: Mapping[str, Any]) -> str:
    """Return the document with these figures in its places for them. Raises MarkerError."""
    machine = found["machine"]
    source = f"{machine['cores']} cores ({machine['processor']}), {machine['system']}, Python {machine['python']}."
    if found["missed"]:
        source += f" Missed: {', '.join(found['missed'])}."
    text = between(text, "goals", f"{source}\n\n{goals_table(found['goals'])}")
    tables = [Table(table["title"], table["columns"], table["rows"]) for table in found["tables"]]
    return between(text, "tables", "\n\n".join(f"### {table.title}\n\n{table.markdown()}" for table in tables))


def write(found: Mapping[str, Any]) -> None:
    """Write all of it."""
    DOCUMENT.write_text(rendered(DOCUMENT.read_text(), found))
    bars = [
        (f"{row[0]}, {row[1]} connections", _plain(row[2]))
        for table in found["tables"]
        if table["title"] == "keyd and OpenBao"
        for row in table["rows"]
    ]
    if bars:
        PLOT.write_text(plot("signatures a second", bars))
    LATEST.parent.mkdir(exist_ok=True)
    LATEST.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")


def plot(title: str, bars: Sequence[tuple[str, float]]) -> str:
    """Return horizontal bars as an SVG that reads on a light and on a dark page."""
    top, height, left, width = 34, 22, 210, 360
    most = max(value for _, value in bars) or 1.0
    total = top + height * len(bars) + 8
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="660" height="{total}" font-family="sans-serif" font-size="12" fill="#808080">',
        f'<text x="8" y="20" font-size="14">{escape(title)}</text>',
    ]
    for place, (label, value) in enumerate(bars):
        y = top + place * height
        colour = "#2a7ab0" if label.startswith("keyd") else "#c08030"
        lines.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(label)}</text>')
        lines.append(f'<rect x="{left}" y="{y + 2}" width="{value / most * width:.0f}" height="{height - 6}" fill="{colour}"/>')
        lines.append(f'<text x="{left + value / most * width + 6:.0f}" y="{y + 14}">{number(value)}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def _plain(cell: str) -> float:
    return float(re.sub(r"[^0-9.]", "", cell))
