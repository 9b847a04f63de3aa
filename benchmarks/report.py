"""Writes the figures down: the tables of docs/performance.md between their markers, a plot beside it, and results/latest.json."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from benchmarks.figures import Entry, Outcome, Table, missed, number
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


def goals_table(entries: Sequence[Entry]) -> str:
    """Return the verdicts as Markdown."""
    rows = [
        [
            entry.goal,
            "-" if entry.figure is None else f"{number(entry.figure)} {entry.unit}",
            f"{'≤' if entry.at_most else '≥'} {number(entry.bar)}",
            "met" if entry.met else "**missed**",
            entry.what,
        ]
        for entry in entries
    ]
    return Table("", ("goal", "figure", "bar", "", "what"), rows).markdown()


def document(found: Outcome, origin: Mapping[str, object]) -> dict[str, object]:
    """Return what latest.json has."""
    return {
        **origin,
        "goals": [entry.to_json() for entry in found.entries],
        "missed": missed(found.entries),
        "tables": [
            {"title": table.title, "columns": list(table.columns), "rows": [list(row) for row in table.rows]}
            for table in found.tables
        ],
    }


def origin() -> dict[str, object]:
    """Return where figures are from: machine, date, commit."""
    # The last 15 minutes, this run among them: far above 2 or 3 means that others used the machine, and that rates mean little.
    return {"date": today(), "commit": commit(), "machine": describe(), "load_average": round(os.getloadavg()[2], 1)}


def write(found: Outcome) -> None:
    """Write all of it."""
    where = origin()
    machine = describe()
    source = f"Commit {where['commit']}, {where['date']}: {machine['cores']} cores ({machine['processor']}), {machine['system']}, Python {machine['python']}, load average {where['load_average']}."
    text = DOCUMENT.read_text()
    text = between(text, "goals", f"{source}\n\n{goals_table(found.entries)}")
    text = between(text, "tables", "\n\n".join(f"### {table.title}\n\n{table.markdown()}" for table in found.tables))
    DOCUMENT.write_text(text)
    bars = [
        (f"{row[0]}, {row[1]} connections", _plain(row[2]))
        for table in found.tables
        if table.title == "keyd and OpenBao"
        for row in table.rows
    ]
    if bars:
        PLOT.write_text(plot("signatures a second", bars))
    LATEST.parent.mkdir(exist_ok=True)
    LATEST.write_text(json.dumps(document(found, where), indent=2, ensure_ascii=False) + "\n")


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
