"""Audit records: one JSON object a line, each with the SHA-256 of the line before it.

A line is hashed without its newline. What callers chose is cut to a bounded length, and JSON escapes control characters.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Literal

import orjson

from keyd.core.decision import Decision
from keyd.core.principal import Principal

#: What the first record of a trail has as the hash of the line before it.
GENESIS = "0" * 64
#: Longest line that is written, in bytes without its newline; syslog daemons cut messages at 8 KiB.
MAX_LINE = 7680
#: Longest line that is read.
MAX_READ = 16384
#: Highest sequence number: every reader of JSON has it exactly (RFC 8259 section 6).
MAX_SEQ = 2**53 - 1

#: Records that are no decisions.
Event = Literal["start", "stop", "rotate", "checkpoint", "gap"]

_LONG, _SHORT, _FEW = 1024, 256, 8
_TIGHT = 12  # divides the limits where a line is too long all the same
_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PROVED = ("socket", "spiffe_id", "uid", "gid", "pid", "executable", "unit", "user_unit", "container")
_TEXTS = ("key", "kid", "purpose", "method", "authority", "path", "typ", "grant", "reason", "detail")
_texts = attrgetter(*_TEXTS)
_LIMITS = {tight: tuple((_LONG if name in ("path", "detail") else _SHORT) // tight for name in _TEXTS) for tight in (1, _TIGHT)}


def digest(line: bytes) -> str:
    """Return the SHA-256 of a line without its newline, in hexadecimal."""
    return hashlib.sha256(line).hexdigest()


def timestamp(at: float) -> str:
    """Return seconds since the epoch as RFC 3339 in UTC, with microseconds."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def event(seq: int, prev: str, time: str, operation: Event, members: Mapping[str, object]) -> bytes:
    """Return the line of a record that is no decision. ``time`` is made by :func:`timestamp`."""
    return _dump({"seq": seq, "time": time, "operation": operation, **members, "prev": prev})


class Encoder:
    """Writes decisions as lines. Remembers how the principals of late are written, because they recur."""

    def __init__(self) -> None:
        self._principals: dict[int, tuple[Principal, orjson.Fragment]] = {}
        self._second = -1
        self._prefix = ""

    def decision(self, seq: int, prev: str, decision: Decision) -> bytes:
        """Return the line of a decision. ``prev`` is the digest of the line before."""
        line = self._decision(seq, prev, decision, self._principal(decision.principal), 1)
        if len(line) > MAX_LINE:  # many control characters, which take six bytes each
            line = self._decision(seq, prev, decision, _proved(decision.principal, _TIGHT), _TIGHT)
        return line

    def _decision(self, seq: int, prev: str, decision: Decision, principal: object, tight: int) -> bytes:
        members: dict[str, object] = {
            "seq": seq,
            "time": self._time(decision.at),
            "operation": decision.operation,
            "principal": principal,
            "decision": "allow" if decision.reason is None else "deny",
        }
        for name, limit, value in zip(_TEXTS, _LIMITS[tight], _texts(decision)):  # noqa: B905 - as long; it costs time
            if value is not None:
                members[name] = value if len(value) <= limit else _cut(value, limit)
        if decision.version is not None:
            members["version"] = decision.version
        if decision.created is not None:
            members["created"] = decision.created
        if decision.issuer is not None:
            members["iss"] = _cut(decision.issuer, _SHORT // tight)
        if decision.audience:
            members["aud"] = [_cut(item, _SHORT // tight) for item in decision.audience[:_FEW]]
            if len(decision.audience) > _FEW:
                members["aud_count"] = len(decision.audience)
        if decision.digest is not None:
            members["sha256"] = decision.digest.hex()
        members["latency_us"] = int(decision.latency * 1e6)
        members["prev"] = prev
        return _dump(members)

    def _time(self, at: float) -> str:
        second = int(at)
        if second != self._second:
            self._second, self._prefix = second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._prefix}.{int((at - second) * 1e6):06d}Z"

    def _principal(self, principal: Principal) -> orjson.Fragment:
        known = self._principals.get(id(principal))
        if known is None or known[0] is not principal:
            if len(self._principals) >= 1024:
                self._principals.clear()
            known = principal, orjson.Fragment(_dump(_proved(principal, 1)))
            self._principals[id(principal)] = known
        return known[1]


def _proved(principal: Principal, tight: int) -> dict[str, object]:
    members: dict[str, object] = {"identity": _cut(principal.identity, 2 * _LONG // tight)}
    for name in _PROVED:
        value = getattr(principal, name)
        if value is not None:
            members[name] = _cut(value, _LONG // tight) if isinstance(value, str) else value
    if principal.dns_names:
        members["dns_names"] = [_cut(name, _SHORT // tight) for name in principal.dns_names[:_FEW]]
    return members


def _cut(value: str, limit: int) -> str:
    return value if len(value) <= limit else f"{value[:limit]}\u2026[cut, {len(value)} characters]"


def _dump(members: Mapping[str, object]) -> bytes:
    try:
        return orjson.dumps(members)
    except orjson.JSONEncodeError:  # file names need not be UTF-8, and numbers may be too large for JSON
        return orjson.dumps(_plain(members))


def _plain(value: object) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**63:
        return str(value)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


@dataclass(frozen=True, slots=True)
class Record:
    """A line that was read, and is a record.

    Attributes:
        digest: of the line, which the next record has as its ``prev``.
        members: all of it, as JSON has it.
    """

    seq: int
    prev: str
    time: str
    operation: str
    digest: str
    members: Mapping[str, Any]

    def text(self, name: str) -> str:
        """Return a member that is a string, else an empty one."""
        value = self.members.get(name)
        return value if isinstance(value, str) else ""

    def number(self, name: str) -> int | None:
        """Return a member that is a whole number, else None."""
        value = self.members.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


def parse(line: bytes) -> Record | None:
    """Return the record that a line with its newline is; None if it is none."""
    if not line.endswith(b"\n"):
        return None
    line = line[:-1]
    try:
        members = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(members, dict):
        return None
    seq, prev, time, operation = (members.get(name) for name in ("seq", "prev", "time", "operation"))
    if not isinstance(seq, int) or isinstance(seq, bool) or not 1 <= seq <= MAX_SEQ:
        return None
    if not (isinstance(time, str) and isinstance(operation, str) and isinstance(prev, str) and _HASH.fullmatch(prev)):
        return None
    return Record(seq, prev, time, operation, digest(line), members)
