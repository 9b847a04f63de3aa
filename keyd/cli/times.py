"""Times as people read them: relative, and absolute in UTC."""

from __future__ import annotations

from datetime import UTC, datetime

_STEPS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def absolute(at: float) -> str:
    """Return seconds since the epoch as ``2027-01-31 12:00:00Z``."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def span(seconds: float) -> str:
    """Return a duration, at most two units: ``45 s``, ``20 min``, ``3 d 4 h``."""
    whole = round(abs(seconds))
    for index, (size, unit) in enumerate(_STEPS):
        if whole >= size:
            count, rest = divmod(whole, int(size))
            if index + 1 < len(_STEPS) and (finer := rest // int(_STEPS[index + 1][0])):
                return f"{count} {unit} {finer} {_STEPS[index + 1][1]}"
            return f"{count} {unit}"
    return f"{whole} s"


def relative(at: float, now: float) -> str:
    """Return ``in 20 min``, ``3 d ago`` or ``now``."""
    if abs(at - now) < 1:
        return "now"
    return f"in {span(at - now)}" if at > now else f"{span(now - at)} ago"


def both(at: float, now: float) -> str:
    """Return a time as ``in 20 min (2027-01-31 12:00:00Z)``."""
    return f"{relative(at, now)} ({absolute(at)})"
