"""A stand-in for the part of IAM that decides by an identity's policy: Allow statements and the conditions that ours use."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

Context = Mapping[str, str | Sequence[str]]


class Policy:
    """One policy document. What it does not know it refuses to load, so that no statement is silently true."""

    def __init__(self, document: str) -> None:
        content = json.loads(document)
        assert content.keys() == {"Version", "Statement"} and content["Version"] == "2012-10-17"
        self.statements = content["Statement"]
        sids = [statement["Sid"] for statement in self.statements]
        assert len(set(sids)) == len(sids) and all(re.fullmatch(r"[A-Za-z0-9]+", sid) for sid in sids)
        for statement in self.statements:
            assert statement.keys() <= {"Sid", "Effect", "Action", "Resource", "Condition"} and statement["Effect"] == "Allow"
            assert statement.get("Condition", {}).keys() <= _OPERATORS.keys()

    def actions(self) -> set[str]:
        return {action for statement in self.statements for action in statement["Action"]}

    def allows(self, action: str, resource: str, context: Context) -> bool:
        return any(
            action in statement["Action"]
            and _like(resource, statement["Resource"])
            and all(
                _OPERATORS[operator](context.get(key), values if isinstance(values, list) else [values])
                for operator, keys in statement.get("Condition", {}).items()
                for key, values in keys.items()
            )
            for statement in self.statements
        )


def _like(value: str, pattern: str) -> bool:
    parts = {"*": ".*", "?": "."}
    return re.fullmatch("".join(parts.get(char) or re.escape(char) for char in pattern), value, re.DOTALL) is not None


def _string_equals(actual: Any, wanted: list[str]) -> bool:
    return isinstance(actual, str) and actual in wanted


def _string_like(actual: Any, wanted: list[str]) -> bool:
    return isinstance(actual, str) and any(_like(actual, pattern) for pattern in wanted)


def _any_string_like(actual: Any, wanted: list[str]) -> bool:
    return any(_like(value, pattern) for value in actual or () for pattern in wanted)


def _all_string_equals(actual: Any, wanted: list[str]) -> bool:
    return all(value in wanted for value in actual or ())


def _numeric_at_least(actual: Any, wanted: list[str]) -> bool:
    return isinstance(actual, str) and any(float(actual) >= float(value) for value in wanted)


_OPERATORS = {
    "StringEquals": _string_equals,
    "StringLike": _string_like,
    "ForAnyValue:StringLike": _any_string_like,
    "ForAllValues:StringEquals": _all_string_equals,
    "NumericGreaterThanEquals": _numeric_at_least,
}
