"""Reads the tables of the configuration, one at a time, and collects all that is wrong with them."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from keyd.config import places
from keyd.config.problems import Problem, dotted, from_validation

#: The path of a table or field: the names from the top of the file on.
Where = tuple[str, ...]

_M = TypeVar("_M", bound=BaseModel)


class SectionReader:
    """Collects problems, so that one mistake does not hide the next. Raises nothing for them."""

    def __init__(self, lines: Mapping[places.Path, int], homes: Mapping[str, type[BaseModel]]) -> None:
        """Take the lines that things are on, and the sections, by name, that a misplaced field may belong to."""
        self._lines = lines
        self._homes = homes
        self._problems: list[Problem] = []
        self._bad: set[Where] = set()

    @property
    def problems(self) -> list[Problem]:
        """What was found so far, in the order of the file."""
        return sorted(self._problems, key=lambda p: (p.line is None, p.line or 0, p.where))

    @property
    def count(self) -> int:
        """How many problems were found so far."""
        return len(self._problems)

    def problem(self, where: Where, message: str, hint: str = "") -> None:
        """Note what is wrong with a table or field."""
        self._bad.add(where)
        self._problems.append(Problem(dotted(where), message, hint, places.line_of(self._lines, where)))

    def refuse_dates(self, where: Where, value: object) -> None:
        """Refuse what JSON cannot carry to the models; nothing here is a date."""
        if isinstance(value, dict):
            for key, item in value.items():
                self.refuse_dates((*where, key), item)
        elif isinstance(value, list):
            for item in value:
                self.refuse_dates(where, item)
        elif isinstance(value, (dt.date, dt.time)):
            self.problem(where, "a date or time, which no field takes")

    def table(self, data: dict[str, Any], *where: str) -> dict[str, Any]:
        """Return a copy of the table, empty if it is absent or no table."""
        found = data.get(where[-1], {})
        if isinstance(found, dict):
            return dict(found)
        if where not in self._bad:
            self.problem(where, f"not a table; write [{dotted(where)}]")
        return {}

    def section(self, model: type[_M], where: Where, data: dict[str, Any]) -> _M | None:
        """Validate a section, and return None where it cannot be had.

        Leaves out fields that are wrong, also of ``data``, so that the others can still be compared with other sections.
        """
        dropped = False
        while True:
            try:
                # As JSON, in which a strict model takes lists for sets and strings for paths. Dates are refused already.
                return model.model_validate_json(json.dumps(data, default=str), strict=True)
            except ValidationError as error:
                before = len(data)
                for path, message, hint in from_validation(error, model):
                    # What a section lacks as a whole, it may lack because a field was left out here.
                    if (*where, *path) not in self._bad and not (dropped and not path):
                        self.problem((*where, *path), message, hint or self._elsewhere(message, path))
                    self._bad.add((*where, *path[:1]))
                    if path:
                        data.pop(path[0], None)
                if len(data) == before:
                    return None
                dropped = True

    def is_wrong(self, where: Where) -> bool:
        """Say whether something is wrong with this very table or field."""
        return where in self._bad

    def sound(self, *fields: Where) -> bool:
        """Say whether none of the fields was left out as wrong, with its default in its place."""
        return self._bad.isdisjoint(fields) and self._bad.isdisjoint(field[:1] for field in fields)

    def _elsewhere(self, message: str, path: Where) -> str:
        """Say which section a misplaced field belongs to."""
        if message != "unknown field":
            return ""
        homes = (name for name, model in self._homes.items() if len(path) == 1 and path[0] in model.model_fields)
        return next((f"it belongs in [{name}]" for name in homes), "")
