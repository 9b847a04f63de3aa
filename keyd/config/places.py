"""Lines of the fields in a TOML file, which ``tomllib`` does not tell."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping

_STRING = r'"""(?:\\.|[^\\])*?"{3,5}' r"|'''.*?'{3,5}" r'|"(?:\\.|[^"\\\n])*"' r"|'[^'\n]*'"
_TOKEN = re.compile(
    rf"(?P<string>{_STRING})|(?P<comment>\#[^\n]*)|(?P<blank>[ \t\r]+)|(?P<mark>[\n\[\]{{}}=.])|(?P<word>[^\s\[\]{{}}=.#\"']+)",
    re.DOTALL,
)

#: No model is deeper; what a hostile file has below is not worth the quadratic time.
_MAX_DEPTH = 16

Path = tuple[str, ...]


def lines(text: str) -> Mapping[Path, int]:
    """Return the line, from 1, of every table and key of a valid TOML document; of those inside inline tables, none."""
    found: dict[Path, int] = {}
    table: Path = ()
    statement: list[str] = []  # the words before `=`, or inside a header
    header, in_value, depth, line = False, False, 0, 1
    for match in _TOKEN.finditer(text):
        part, kind = match.group(), match.lastgroup
        if part == "\n" and depth == 0:
            if header:
                table = tuple(statement)
                _record(found, (), table, line)
            statement, header, in_value = [], False, False
        elif kind == "mark" and in_value:
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(part, 0)
        elif part == "[":
            header = True
        elif part == "=":
            _record(found, table, tuple(statement), line)
            in_value = True
        elif kind in {"string", "word"} and not in_value:
            statement.append(_key(part))
        line += part.count("\n")
    if header:
        _record(found, (), tuple(statement), line)
    return found


def line_of(found: Mapping[Path, int], where: Path) -> int | None:
    """Return the line of the field, or of the nearest thing around it that has one."""
    for length in range(len(where), 0, -1):
        if where[:length] in found:
            return found[where[:length]]
    return None


def _record(found: dict[Path, int], table: Path, keys: Path, line: int) -> None:
    for length in range(1, min(len(keys), _MAX_DEPTH) + 1):
        found.setdefault(table + keys[:length], line)


def _key(part: str) -> str:
    return next(iter(tomllib.loads(f"{part} = 0")))
