"""What the path of a control group says: the systemd unit, and the container.

The names are read from the root down, because who may make groups below its own (``Delegate=``, a user's manager, a container's
root) names them as it likes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Longest text that is looked at, in characters. A path in procfs has at most 4,096.
_MAX = 64 * 1024
# systemd's VALID_CHARS_WITH_AT, and the suffixes of the units that have processes.
_NAME = re.compile(r"[A-Za-z0-9:_.\\-][A-Za-z0-9:_.\\@-]*+", re.ASCII)
_SUFFIXES = (".service", ".scope", ".socket", ".mount", ".swap")
_SESSION = re.compile(r"session-[A-Za-z0-9]++\.scope", re.ASCII)
_USER_MANAGER = re.compile(r"user@[0-9]{1,10}+\.service", re.ASCII)
_SCOPE = re.compile(r"(?:docker|cri-containerd|crio|libpod)-([0-9a-f]{64})\.scope", re.ASCII)
_BELOW_UNIT = re.compile(r"kubepods[A-Za-z0-9_.-]*+:cri-containerd:([0-9a-f]{64})", re.ASCII)
_PLAIN = re.compile(r"(?:libpod-)?([0-9a-f]{64})", re.ASCII)
_POD = re.compile(r"pod[0-9a-f_-]{32,36}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process is. The attributes are those of :class:`keyd.core.principal.Principal`."""

    cgroup: str | None = None
    unit: str | None = None
    user_unit: str | None = None
    container: str | None = None


def place(text: str) -> Place:
    """Return what ``/proc/PID/cgroup`` says (cgroups(7)): of the unified hierarchy, else of systemd's own in version 1."""
    if len(text) > _MAX:
        return Place()
    unified = named = ""
    for line in text.split("\n"):
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            unified = path
        elif controllers == "name=systemd":
            named = path
    # In the hybrid set-up the unified hierarchy may be there and unused.
    path = named if named and unified in ("", "/") else unified
    if not _sound(path):
        return Place()
    parts = [part for part in path.split("/") if part]
    return Place(path, _unit(parts), _user_unit(parts), _container(parts))


def _sound(path: str) -> bool:
    """Say whether this is a path from our root down; a group outside our cgroup namespace begins with ``/..``."""
    return path.startswith("/") and path.isprintable() and ".." not in path.split("/") and not path.endswith(" (deleted)")


def _without_slices(parts: list[str]) -> list[str]:
    for index, part in enumerate(parts):
        if not (_is_name(part) and part.endswith(".slice")):
            return parts[index:]
    return []


def _unescaped(part: str) -> str:
    """Undo what systemd does to names that the kernel might take for a file of its own."""
    return part.removeprefix("_")


def _is_name(part: str) -> bool:
    name, _, suffix = part.rpartition(".")
    return bool(name) and not name.endswith("@") and len(part) < 256 and _NAME.fullmatch(part) is not None and bool(suffix)


def _unit(parts: list[str]) -> str | None:
    """Return the unit as sd_pid_get_unit(3) does."""
    rest = _without_slices(parts)
    unit = _unescaped(rest[0]) if rest else ""
    return unit if _is_name(unit) and unit.endswith(_SUFFIXES) else None


def _user_unit(parts: list[str]) -> str | None:
    """Return the user unit as sd_pid_get_user_unit(3) does."""
    rest = _without_slices(parts)
    if rest and (_USER_MANAGER.fullmatch(rest[0]) or _SESSION.fullmatch(rest[0])):
        return _unit(rest[1:])
    return None


def _container(parts: list[str]) -> str | None:
    """Return the id of the outermost container. What a user's own manager calls a container is not proved."""
    rest = _without_slices(parts)
    if not rest:
        return None
    if match := _SCOPE.fullmatch(rest[0]):
        return match[1]
    if rest[0] == "containerd.service":
        match = _BELOW_UNIT.fullmatch(rest[1]) if len(rest) > 1 else None
        return match[1] if match else None
    depth = _depth(rest)
    match = _PLAIN.fullmatch(rest[depth]) if 0 < depth < len(rest) else None
    return match[1] if match else None


def _depth(parts: list[str]) -> int:
    """Return at which depth a runtime that makes its groups itself (``cgroupfs``) puts the container; 0: this is none."""
    if parts[0] in ("docker", "libpod_parent"):
        return 1
    if parts[0] != "kubepods":
        return 0
    pod = 2 if len(parts) > 2 and parts[1] in ("burstable", "besteffort") else 1
    return pod + 1 if len(parts) > pod and _POD.fullmatch(parts[pod]) else 0
