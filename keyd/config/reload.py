"""What may change while the daemon runs, and what may not."""

from __future__ import annotations

from collections.abc import Mapping

from keyd.config.model import BackendConfig, Config
from keyd.config.problems import Problem, dotted


def reload_conflicts(old: Config, new: Config) -> list[Problem]:
    """Return what differs and cannot change without a restart; with any, a reload must be refused as a whole."""
    problems = [
        *_changes(("server",), dict(old.server), dict(new.server)),
        *_changes(("http",), dict(old.http), dict(new.http)),
        *_changes(("metrics",), dict(old.metrics), dict(new.metrics)),
    ]
    for name in sorted(old.backends.keys() | new.backends.keys()):
        problems += _backend_changes(("backends", name), old.backends.get(name), new.backends.get(name))
    return problems


def _backend_changes(where: tuple[str, ...], old: BackendConfig | None, new: BackendConfig | None) -> list[Problem]:
    if old is None or new is None:
        return [Problem(dotted(where), f"cannot be {'added' if old is None else 'removed'} without a restart")]
    if (old.type, type(old.options)) != (new.type, type(new.options)):
        return [Problem(dotted((*where, "type")), "cannot change without a restart")]
    return _changes(where, {**dict(old.limits), **dict(old.options)}, {**dict(new.limits), **dict(new.options)})


def _changes(where: tuple[str, ...], old: Mapping[str, object], new: Mapping[str, object]) -> list[Problem]:
    return [
        Problem(dotted((*where, field)), "cannot change without a restart")
        for field in sorted(old.keys() | new.keys())
        if old.get(field) != new.get(field)
    ]
