"""The effective configuration as text."""

from __future__ import annotations

import dataclasses
import enum
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from keyd.config.durations import text
from keyd.config.model import Config
from keyd.config.section import Section
from keyd.core.profile import BUILT_IN, Profile

_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


def render(config: Config) -> str:
    """Return the configuration with every default filled in, as TOML. Secrets appear as the references they are."""
    tables = [
        _table((name,), getattr(config, name)) for name in ("server", "connections", "http", "metrics", "jwks", "log", "audit")
    ]
    tables.insert(1, _table(("store",), config.store.model_dump(mode="json", exclude_none=True).items()))
    tables.append(_table(("defaults",), [(name, "none" if value is None else value) for name, value in config.defaults]))
    rotation = [(name, _Number(value) if name == "jitter" else value) for name, value in config.rotation]
    tables.append(_table(("rotation",), rotation))
    tables.append(_table(("sessions",), config.sessions))
    tables += [_table(("sockets", name), own) for name, own in sorted(config.sockets.items())]
    tables += [_table(("tcp", name), listener) for name, listener in sorted(config.tcp.items())]
    if config.kubernetes is not None:
        tables.append(_table(("kubernetes",), config.kubernetes.model_dump(exclude_none=True).items()))
    tables.append(_table(("limits",), _rates(config.limits)))
    tables.append(_table(("policy",), config.policy))
    tables += [_table(("grants", name), _rates(grant.section)) for name, grant in config.grants.items()]
    tables += [
        _table(("issuers", name), issuer.model_dump(exclude_none=True).items()) for name, issuer in sorted(config.issuers.items())
    ]
    for name, profile in sorted(config.profiles.items()):
        if name not in BUILT_IN:
            tables.append(_table(("profiles", name), _profile_fields(profile)))
    for name, backend in sorted(config.backends.items()):
        options = backend.options.model_dump(mode="json", by_alias=True, exclude_none=True)
        lines = _table(("backends", name), [("type", backend.type), *dict(backend.limits).items()])
        # The seconds of a backend's own floats are its own affair.
        tables.append(lines + _fields(options.items(), durations=False))
    return "\n".join(tables)


class _Number(float):
    """A float that is no duration."""


def _rates(section: Section) -> Iterable[tuple[str, object]]:
    """Return the fields of a section whose ``rate`` is a number per second."""
    fields = section.model_dump(exclude_none=True)
    return [(name, _Number(value) if name == "rate" else value) for name, value in fields.items()]


def _profile_fields(profile: Profile) -> list[tuple[str, object]]:
    """Return the fields with their values. None that is the default needs no saying; a limit that is off does."""
    return [
        (field.name, "none" if value is None and field.default is not None else value)
        for field in dataclasses.fields(profile)
        if field.name != "name"
        for value in (getattr(profile, field.name),)
    ]


def _table(where: tuple[str, ...], fields: Iterable[tuple[str, object]]) -> str:
    return f"[{'.'.join(map(_key, where))}]\n" + _fields(fields)


def _fields(fields: Iterable[tuple[str, object]], *, durations: bool = True) -> str:
    return "".join(f"{_key(key)} = {_value(value, durations=durations)}\n" for key, value in fields if value is not None)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _string(key)


def _string(value: str) -> str:
    # A JSON string is a TOML string, but for DEL, and for surrogate escapes, which plain text avoids.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: object, *, durations: bool) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case _Number():
            return f"{value:.17g}"
        case float() if durations:
            return json.dumps(text(value))
        case int() | float():
            return repr(value)
        case enum.Enum():
            return _value(value.value, durations=durations)
        case str() | Path():
            return _string(str(value))
        case Mapping():
            items = ", ".join(f"{_key(key)} = {_value(item, durations=durations)}" for key, item in value.items())
            return f"{{ {items} }}" if items else "{}"
        case frozenset() | set():
            return "[" + ", ".join(sorted(_value(item, durations=durations) for item in value)) + "]"
        case list() | tuple():
            return "[" + ", ".join(_value(item, durations=durations) for item in value) + "]"
        case _:
            raise TypeError(f"a {type(value).__name__} has no form in TOML")
