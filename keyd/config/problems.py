"""What is wrong with a configuration, in words that never quote a value: it may be a secret in the wrong place."""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from backends.secrets import SecretRef

_BARE = re.compile(r"[A-Za-z0-9_-]{1,63}", re.ASCII)
_REFERENCE = 'give a reference such as { file = "/etc/keyd/secret" }, not the secret itself'


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. ``where`` is a dotted path, empty for the file as a whole; ``line`` counts from 1."""

    where: str
    message: str
    hint: str = ""
    line: int | None = None

    def __str__(self) -> str:
        line = f"line {self.line}: " if self.line is not None else ""
        where = f"{self.where}: " if self.where else ""
        return f"{line}{where}{self.message}" + (f" ({self.hint})" if self.hint else "")


class ConfigError(Exception):
    """The configuration cannot be used. Has every problem, in the order of the file."""

    def __init__(self, problems: list[Problem], path: Path | None = None) -> None:
        self.problems = problems
        self.path = path
        super().__init__(problems, path)

    def __str__(self) -> str:
        prefix = f"{self.path}: " if self.path is not None else ""
        return "\n".join(f"{prefix}{problem}" for problem in self.problems)


def dotted(where: Iterable[str | int]) -> str:
    """Return a path as TOML writes it; keys that are not bare are quoted, so that they cannot forge text."""
    return ".".join(key if _BARE.fullmatch(key) else json.dumps(key[:63]) for key in map(str, where))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint with the nearest known word, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def from_validation(error: ValidationError, model: type[BaseModel]) -> list[tuple[tuple[str, ...], str, str]]:
    """Return path, message and hint of each mistake that pydantic found."""
    seen: dict[tuple[str, ...], tuple[str, str]] = {}
    for detail in error.errors(include_input=False, include_context=False, include_url=False):
        keys = tuple(str(key) for key in detail["loc"])
        path, target = _descend(model, keys)
        if detail["type"] == "extra_forbidden":
            seen.setdefault(keys, ("unknown field", did_you_mean(keys[-1], _names(target))))
        elif _is_model(target, SecretRef) and keys[: len(path)] == path and detail["type"] != "value_error":
            seen.setdefault(path, ("not a reference to a secret", _REFERENCE))
        else:
            seen.setdefault(path, (_message(detail["type"], detail["msg"]), ""))
    return [(path, *words) for path, words in seen.items()]


def _message(kind: str, message: str) -> str:
    if kind == "missing":
        return "a required field is missing"
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _descend(model: type[BaseModel], keys: tuple[str, ...]) -> tuple[tuple[str, ...], Any]:
    """Follow ``keys`` through nested models; return those that are fields, not pydantic's union tags, and the type there."""
    target: Any = model
    for index, key in enumerate(keys):
        fields = {} if not _is_model(target) else {field.alias or name: field for name, field in target.model_fields.items()}
        if key not in fields:
            return keys[:index] or keys, target
        target = _without_none(fields[key].annotation)
    return keys, target


def _without_none(annotation: Any) -> Any:
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        choices = [choice for choice in typing.get_args(annotation) if choice is not types.NoneType]
        return choices[0] if len(choices) == 1 else annotation
    return annotation


def _is_model(target: Any, base: type[BaseModel] = BaseModel) -> bool:
    return isinstance(target, type) and issubclass(target, base)


def _names(target: Any) -> list[str]:
    return [field.alias or name for name, field in target.model_fields.items()] if _is_model(target) else []
