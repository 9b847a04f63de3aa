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


def rfc3339(at: float) -> str:
    """Return seconds since the epoch as JSON has them: ``2027-01-31T12:00:00Z``, with a fraction where there is one."""
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def parse_rfc3339(text: str) -> float:
    """Return a time as seconds since the epoch; UTC where it says no zone. Raises ValueError."""
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
