"""Keys and their versions as people see them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from keyd.cli.errors import printable
from keyd.cli.output import console, print_rows
from keyd.cli.times import absolute, both, relative, span

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.timestamp_pb2 import Timestamp

    from keyd.v1 import types_pb2

_Field = Literal[
    "create_time",
    "publish_time",
    "activate_time",
    "deactivate_time",
    "sign_until_time",
    "unpublish_time",
    "compromise_time",
    "destroy_time",
]

_STATE_STYLES = {
    "active": "green",
    "pre-activation": "cyan",
    "deactivated": "yellow",
    "compromised": "bold red",
    "destroyed": "dim",
}

# Field of Timeline, what it is called when it has been, and when it is to come.
_EVENTS: tuple[tuple[_Field, str, str], ...] = (
    ("create_time", "created", "created"),
    ("publish_time", "published", "is published"),
    ("activate_time", "activated", "activates"),
    ("deactivate_time", "deactivated", "deactivates"),
    ("sign_until_time", "signed until", "signs until"),
    ("unpublish_time", "unpublished", "is unpublished"),
    ("compromise_time", "compromised", "compromised"),
    ("destroy_time", "destroyed", "is destroyed"),
)


def seconds(at: Timestamp | Duration) -> float:
    """Return a protobuf time or duration in seconds."""
    return float(at.seconds) + at.nanos / 1e9


def algorithm(key: types_pb2.Key) -> str:
    """Return the JOSE name of the algorithm of a key."""
    return algorithm_name(key.algorithm)


def algorithm_name(value: types_pb2.Algorithm.ValueType) -> str:
    """Return the JOSE name of an algorithm."""
    from keyd.v1 import types_pb2

    name = _name(types_pb2.Algorithm, "ALGORITHM_", value).upper()
    return "Ed25519" if name == "ED25519" else name


def purposes(key: types_pb2.Key) -> str:
    """Return the purposes of a key, comma-separated."""
    from keyd.v1 import types_pb2

    return ", ".join(_name(types_pb2.Purpose, "PURPOSE_", purpose) for purpose in key.purposes)


def state(version: types_pb2.KeyVersion) -> str:
    """Return the state of a version in lower case."""
    from keyd.v1 import types_pb2

    return _name(types_pb2.KeyState, "KEY_STATE_", version.state)


def active(key: types_pb2.Key) -> types_pb2.KeyVersion | None:
    """Return the active version of a key."""
    return next((version for version in key.versions if state(version) == "active"), None)


def next_change(version: types_pb2.KeyVersion, now: float) -> float | None:
    """Return when something next happens to a version."""
    return min((at for at, _ in _events(version, now) if at > now), default=None)


def print_table(keys: Iterable[types_pb2.Key], now: float) -> None:
    """Print one line per key."""
    from rich.text import Text

    rows = []
    for key in keys:
        current = active(key)
        word = "disabled" if key.HasField("disable_time") else "active" if current else "no active version"
        changes = [at for version in key.versions if (at := next_change(version, now)) is not None]
        created = seconds(key.create_time)
        rows.append(
            [
                Text(printable(key.name), "bold"),
                Text(algorithm(key)),
                Text(printable(key.backend)),
                Text(purposes(key)),
                Text(word, _STATE_STYLES.get(word, "red")),
                Text(str(current.version) if current else "-"),
                Text(printable(current.kid) if current else "-"),
                Text(f"{relative(created, now)} ({absolute(created)})", "dim"),
                Text(both(min(changes), now) if changes else "-"),
            ]
        )
    print_rows(("NAME", "ALGORITHM", "BACKEND", "PURPOSES", "STATE", "VERSION", "KID", "CREATED", "NEXT CHANGE"), rows)


def print_key(key: types_pb2.Key, now: float) -> None:
    """Print a key and, newest first, the timeline of each of its versions."""
    from rich.text import Text

    from keyd.v1 import types_pb2

    out = console()
    unicode = out.encoding.lower().startswith("utf")
    head = Text(printable(key.name), "bold")
    if key.HasField("disable_time"):
        head.append(f"  disabled {both(seconds(key.disable_time), now)}", "bold red")
    out.print(head)
    if key.HasField("pause_time"):
        out.print(Text(f"rotation paused {both(seconds(key.pause_time), now)}", "bold yellow"))
    facts = [
        ("algorithm", algorithm(key)),
        ("backend", printable(key.backend)),
        ("purposes", purposes(key)),
        ("profile", printable(key.profile)),
        ("kids", _name(types_pb2.KidFormat, "KID_FORMAT_", key.kid_format)),
        ("keyid aliases", ", ".join(printable(alias) for alias in key.keyid_aliases) or "none"),
        ("published", "yes" if key.publish else "no, in no JWK Set"),
        ("created", both(seconds(key.create_time), now)),
        ("publish lead", span(seconds(key.lifecycle.publish_lead))),
        ("sign grace", span(seconds(key.lifecycle.sign_grace))),
        ("retention", span(seconds(key.lifecycle.retention))),
        ("rotates", _period(key.lifecycle, "rotation_period", "every {}, or a little sooner", "only when an operator says so")),
        ("destroyed", _period(key.lifecycle, "destroy_after", "{} after it left the JWK Set", "only when an operator says so")),
    ]
    for label, value in facts:
        out.print(Text(f"  {label:<14}", "dim").append(Text(value, "default")))
    for version in reversed(key.versions):
        _print_version(version, now, unicode=unicode)


def _period(
    lifecycle: types_pb2.LifecyclePolicy, field: Literal["rotation_period", "destroy_after"], some: str, none: str
) -> str:
    return some.format(span(seconds(getattr(lifecycle, field)))) if lifecycle.HasField(field) else none


def _print_version(version: types_pb2.KeyVersion, now: float, *, unicode: bool) -> None:
    from rich.text import Text

    out, word = console(), state(version)
    past, future, line = ("●", "○", "│") if unicode else ("*", "o", "|")
    out.print()
    head = Text(f"version {version.version}  ").append(word.upper(), _STATE_STYLES.get(word, ""))
    out.print(head.append("  published" if version.published else "  not published"))
    out.print(Text("  kid  ", "dim").append(Text(printable(version.kid), "bold")))
    events = _events(version, now)
    for index, (at, label) in enumerate(events):
        out.print(Text(f"  {past if at <= now else future} {label:<15}", "" if at <= now else "dim").append(both(at, now)))
        if at <= now and (index + 1 == len(events) or events[index + 1][0] > now):
            out.print(Text(f"  {line} now", "cyan"))
    if version.compromise_reason:
        out.print(Text(f"  reason  {printable(version.compromise_reason)}", "red"))


def _events(version: types_pb2.KeyVersion, now: float) -> list[tuple[float, str]]:
    """Return times and what happens then, in order. What compromise or destruction has overtaken is left out."""
    timeline = version.timeline
    ends: tuple[_Field, ...] = ("compromise_time", "destroy_time")
    gone = any(timeline.HasField(field) and seconds(getattr(timeline, field)) <= now for field in ends)
    events = []
    for field, been, to_come in _EVENTS:
        if timeline.HasField(field):
            at = seconds(getattr(timeline, field))
            if at <= now or not gone:
                events.append((at, been if at <= now else to_come))
    return sorted(events, key=lambda event: event[0])


def _name(enum: Any, prefix: str, number: int) -> str:
    try:
        name: str = enum.Name(number)
    except ValueError:  # a daemon that is newer than this command line
        return f"unknown-{number}"
    return name.removeprefix(prefix).lower().replace("_", "-")
