"""Durations: strings such as ``"10s"`` or ``"2d"``, or numbers of seconds."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)", re.ASCII)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_MAX = 100 * 365 * 86400.0


def seconds(value: object) -> float:
    """Return a duration in seconds.

    Raises:
        ValueError: it is not one, is negative or not finite, or is longer than 100 years.
    """
    if isinstance(value, str):
        match = _DURATION.fullmatch(value)
        if match is None:
            raise ValueError('not a duration; write "10s", "5m", "24h" or "2d", or a number of seconds')
        value = float(match[1]) * _UNITS[match[2]]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        # pydantic takes a ValueError only.
        raise ValueError(  # noqa: TRY004
            'not a duration; write "10s", "5m", "24h" or "2d", or a number of seconds'
        )
    if not 0 <= value <= _MAX:  # also what nan fails
        raise ValueError("a duration is not negative and at most 36500d")
    return float(value)


def seconds_or_none(value: object) -> float | None:
    """Return a duration in seconds, or None for the string ``"none"``, which TOML has no word for. Raises as :func:`seconds`."""
    return None if value == "none" else seconds(value)


def text(value: float) -> str:
    """Return the shortest way to write a duration: ``86400.0`` is ``"1d"``."""
    for unit in ("d", "h", "m"):
        if value and value % _UNITS[unit] == 0:
            return f"{value / _UNITS[unit]:.0f}{unit}"
    if 0 < value < 1 and seconds(short := f"{value * 1000:.3f}".rstrip("0").rstrip(".") + "ms") == value:
        return short
    return f"{value:g}s" if value == float(f"{value:g}") else repr(value)


Duration = Annotated[float, BeforeValidator(seconds)]
OptionalDuration = Annotated[float | None, BeforeValidator(seconds_or_none)]
