"""What may change while the daemon runs, and what may not."""

from __future__ import annotations

from collections.abc import Mapping

from keyd.config.kubernetes import Kubernetes
from keyd.config.model import BackendConfig, Config
from keyd.config.problems import Problem, dotted
from keyd.config.section import Section

#: The fields of [audit] that say where the trail goes and who signs it.
_AUDIT_FIXED = {"enabled", "path", "to", "key", "syslog_socket", "journald_socket"}

#: The fields of [kubernetes] that say who can connect, and how.
_KUBERNETES_FIXED = {"socket", "socket_mode", "socket_owner", "socket_group"}


def reload_conflicts(old: Config, new: Config) -> list[Problem]:
    """Return what differs and cannot change without a restart; with any, a reload must be refused as a whole."""
    problems = []
    for name in ("server", "store", "connections", "http", "metrics"):
        problems += _changes((name,), dict(getattr(old, name)), dict(getattr(new, name)))
    for name in sorted(old.sockets.keys() | new.sockets.keys()):
        problems += _named_changes(("sockets", name), old.sockets.get(name), new.sockets.get(name))
    for name in sorted(old.tcp.keys() | new.tcp.keys()):
        problems += _named_changes(("tcp", name), old.tcp.get(name), new.tcp.get(name))
    problems += _kubernetes_changes(old.kubernetes, new.kubernetes)
    problems += _changes(("audit",), old.audit.model_dump(include=_AUDIT_FIXED), new.audit.model_dump(include=_AUDIT_FIXED))
    for name in sorted(old.backends.keys() | new.backends.keys()):
        problems += _backend_changes(("backends", name), old.backends.get(name), new.backends.get(name))
    return problems


def _added_or_removed(where: tuple[str, ...], old: object, new: object) -> list[Problem]:
    if old is not None and new is not None:
        return []
    return [Problem(dotted(where), f"cannot be {'added' if old is None else 'removed'} without a restart")]


def _named_changes(where: tuple[str, ...], old: Section | None, new: Section | None) -> list[Problem]:
    if old is None or new is None:
        return _added_or_removed(where, old, new)
    return _changes(where, dict(old), dict(new))


def _kubernetes_changes(old: Kubernetes | None, new: Kubernetes | None) -> list[Problem]:
    where = ("kubernetes",)
    if old is None or new is None:
        return [] if old is new else _added_or_removed(where, old, new)
    return _changes(where, old.model_dump(include=_KUBERNETES_FIXED), new.model_dump(include=_KUBERNETES_FIXED))


def _backend_changes(where: tuple[str, ...], old: BackendConfig | None, new: BackendConfig | None) -> list[Problem]:
    if old is None or new is None:
        return _added_or_removed(where, old, new)
    if (old.type, type(old.options)) != (new.type, type(new.options)):
        return [Problem(dotted((*where, "type")), "cannot change without a restart")]
    return _changes(where, {**dict(old.limits), **dict(old.options)}, {**dict(new.limits), **dict(new.options)})


def _changes(where: tuple[str, ...], old: Mapping[str, object], new: Mapping[str, object]) -> list[Problem]:
    return [
        Problem(dotted((*where, field)), "cannot change without a restart")
        for field in sorted(old.keys() | new.keys())
        if old.get(field) != new.get(field)
    ]
