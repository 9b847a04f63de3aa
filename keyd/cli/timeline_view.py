"""The life of each version of a key, drawn as bars on one axis of time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Any

from keyd.cli.errors import printable
from keyd.cli.key_view import seconds, state
from keyd.cli.times import absolute

if TYPE_CHECKING:
    from rich.text import Text

    from keyd.v1 import key_service_pb2, types_pb2

_LABELS = 26  # columns in front of a bar
_LEAST = 20  # columns of a bar


@dataclass(frozen=True)
class Life:
    """The times of one version, in seconds since the epoch. ``inf`` is an end that is not known."""

    number: int
    made: float = inf
    publish: float = inf
    activate: float = inf
    deactivate: float = inf
    sign_until: float = inf
    unpublish: float = inf
    compromised: float = inf
    destroyed: float = inf
    #: Whether the version is still to be made.
    planned: bool = False
    word: str = ""


@dataclass(frozen=True)
class Glyphs:
    """How the parts of a bar look."""

    made: str
    published: str
    active: str
    grace: str
    retained: str
    compromised: str
    destroyed: str
    now: str
    axis: str
    tick: str


UNICODE = Glyphs("·", "░", "█", "▓", "▒", "✗", "†", "│", "─", "┴")
ASCII = Glyphs(".", ":", "#", "=", "-", "x", "+", "|", "-", "^")
_STYLES = {"made": "dim", "published": "cyan", "active": "green", "grace": "yellow", "retained": "blue"}


def lives(key: types_pb2.Key, steps: Iterable[key_service_pb2.PlannedStep]) -> list[Life]:
    """Return the versions of a key, also those that are only planned, newest first."""
    found = {version.version: _recorded(version) for version in key.versions}
    for step in steps:
        life = found.get(step.version, Life(step.version, planned=True, word="planned"))
        field = _FIELDS.get(step.kind)
        found[step.version] = life if field is None else _with(life, **{field: seconds(step.time)})
    shown = [_with_ends(life, found.get(life.number + 1)) for life in found.values()]
    return sorted(shown, key=lambda life: -life.number)


def draw(versions: list[Life], now: float, width: int, glyphs: Glyphs) -> list[Text]:
    """Draw one bar for each version, a scale and a legend, in lines of at most ``width`` columns."""
    from rich.text import Text

    columns = max(width - _LABELS - 1, _LEAST)
    begin, end = _range(versions, now)
    scale = (end - begin) / columns

    def column(at: float) -> int:
        return int((at - begin) / scale)

    here = min(column(now), columns - 1)
    lines = [Text(" " * (_LABELS + min(here, columns - 3)) + "now", "cyan")]
    for life in versions:
        line = Text(f"version {life.number:<4} {life.word:<12} ", "dim" if life.planned else "")
        line.pad_right(_LABELS - len(line.plain))
        for place in range(columns):
            # What lies in the column counts, most of all what is rare.
            mark, part = _part(life, begin + place * scale, begin + (place + 1) * scale)
            glyph = getattr(glyphs, mark or part) if mark or part else " "
            style = "bold red" if mark else _STYLES.get(part, "")
            if place == here and not mark and part in ("", "made"):
                glyph, style = glyphs.now, "cyan"
            line.append(glyph, f"{style} dim".strip() if life.planned else style)
        line.rstrip()
        lines.append(line)
    lines.append(Text(" " * _LABELS + _axis(columns, here, glyphs), "dim"))
    lines.append(Text(" " * _LABELS + _dates(begin, end, columns), "dim"))
    lines.append(Text())
    lines += [Text("  ".join(row), "dim") for row in _legend(glyphs)]
    return lines


def recent(versions: list[Life], since: float) -> list[Life]:
    """Return the versions that were of any use after ``since``."""
    return [life for life in versions if min(life.unpublish, life.compromised, life.destroyed) > since]


def _recorded(version: types_pb2.KeyVersion) -> Life:
    line = version.timeline

    def at(name: Any) -> float:
        return seconds(getattr(line, name)) if line.HasField(name) else inf

    return Life(
        version.version,
        at("create_time"),
        at("publish_time"),
        at("activate_time"),
        at("deactivate_time"),
        at("sign_until_time"),
        at("unpublish_time"),
        at("compromise_time"),
        at("destroy_time"),
        word=printable({"pre-activation": "waiting"}.get(state(version), state(version))),
    )


def _with(life: Life, **times: Any) -> Life:
    return replace(life, **times)


# By number of StepKind.
_FIELDS = {1: "made", 2: "publish", 3: "activate", 4: "sign_until", 5: "unpublish", 6: "destroyed"}


def _with_ends(life: Life, successor: Life | None) -> Life:
    """Return a version with what follows from its successor, and without what compromise or destruction has overtaken."""
    if life.deactivate == inf and successor is not None and life.activate < successor.activate < inf:
        life = replace(life, deactivate=successor.activate)
    if life.made == inf:
        life = replace(life, made=life.publish)
    gone = min(life.compromised, life.destroyed)
    return _with(life, **{name: min(getattr(life, name), gone) for name in ("deactivate", "sign_until", "unpublish")})


def _range(versions: list[Life], now: float) -> tuple[float, float]:
    times = [now]
    for life in versions:
        times += [life.made, life.publish, life.activate, life.deactivate, life.unpublish, life.compromised, life.destroyed]
    known = [at for at in times if at < inf]
    begin, end = min(known), max(known)
    room = max(end - begin, 3600.0) / 40
    return begin - room, end + room


def _part(life: Life, begin: float, end: float) -> tuple[str, str]:
    """Return the mark, if one is in the column, and the part of a version's life, that lie between two times."""
    mark = "compromised" if begin <= life.compromised < end else "destroyed" if begin <= life.destroyed < end else ""
    stop = min(life.unpublish, life.compromised, life.destroyed)
    parts = (
        ("active", life.activate, min(life.deactivate, stop)),
        ("grace", life.deactivate, min(life.sign_until, stop)),
        ("published", life.publish, min(life.activate, stop)),
        ("retained", life.sign_until, stop),
        ("made", life.made, min(life.publish, life.compromised, life.destroyed)),
        ("made", max(life.unpublish, life.made), life.destroyed),
    )
    for name, since, until in parts:
        # What is shorter than a column is still to be seen.
        if begin <= since < until <= end and name != "made":
            return mark, name
    middle = (begin + end) / 2
    for name, since, until in parts:
        if since <= middle < until:
            return mark, name
    return mark, ""


def _axis(columns: int, here: int, glyphs: Glyphs) -> str:
    return "".join(
        glyphs.now if place == here else glyphs.tick if place in (0, columns - 1) else glyphs.axis for place in range(columns)
    )


def _dates(begin: float, end: float, columns: int) -> str:
    form = slice(0, 10) if end - begin > 3 * 86400 else slice(5, 16)
    first, last = absolute(begin)[form], absolute(end)[form]
    return first + last.rjust(columns - len(first)) if columns >= len(first) + len(last) + 1 else first


def _legend(glyphs: Glyphs) -> list[list[str]]:
    return [
        [
            f"{glyphs.published} published, waits",
            f"{glyphs.active} active",
            f"{glyphs.grace} signs what names it",
            f"{glyphs.retained} published only",
        ],
        [f"{glyphs.made} not published", f"{glyphs.compromised} compromised", f"{glyphs.destroyed} private key destroyed"],
    ]
