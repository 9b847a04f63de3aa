"""Finds records: the last ones, those that meet a filter, and those that are being written."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain, pairwise
from pathlib import Path
from typing import IO

from keyd.core.audit import files
from keyd.core.audit.record import MAX_READ, Record, parse

_WINDOW = 64 * 1024


@dataclass(frozen=True, slots=True)
class Filter:
    """What a record must be. None and empty: anything. Texts may have ``*``.

    Attributes:
        texts: by member: ``key``, ``kid``, ``operation``, ``decision``, ``reason``, ``authority``, ``sha256``.
        principal: the identity as a whole, or one word of it, such as ``uid:1000``.
        since: RFC 3339 in UTC, as records have it; the moment itself is in, like that of ``until``.
    """

    texts: tuple[tuple[str, str], ...] = ()
    principal: str | None = None
    since: str | None = None
    until: str | None = None

    def matches(self, record: Record) -> bool:
        """Say whether a record is as asked for."""
        if self.since is not None and record.time < self.since:
            return False
        if self.until is not None and record.time > self.until:
            return False
        if not all(fnmatchcase(record.text(name), pattern) for name, pattern in self.texts):
            return False
        return self.principal is None or self._is_by(record, self.principal)

    @staticmethod
    def _is_by(record: Record, pattern: str) -> bool:
        principal = record.members.get("principal")
        if not isinstance(principal, dict) or not isinstance(identity := principal.get("identity"), str):
            return False
        words = {identity, *identity.split(" "), *(f"{name}:{principal[name]}" for name in ("pid", "gid") if name in principal)}
        return any(fnmatchcase(word, pattern) for word in words)

    @property
    def needle(self) -> bytes:
        """What every matching line has in it, so that others need not be parsed."""
        return next((value.encode() for name, value in self.texts if name == "sha256" and "*" not in value), b"")


def matching(paths: Iterable[Path], wanted: Filter) -> Iterator[Record]:
    """Return the records in these files that match, in the order of the trail. Raises OSError."""
    needle = wanted.needle
    for each in files.in_order(paths):
        with files.opened(each.path) as file:
            while line := file.readline(MAX_READ):
                if needle in line:
                    record = parse(line)
                    if record is not None and wanted.matches(record):
                        yield record


def last(paths: Iterable[Path], count: int) -> list[Record]:
    """Return the last records, oldest first. Raises OSError."""
    found: list[Record] = []
    for each in reversed(files.in_order(paths)):
        if len(found) >= count:
            break
        found = [*_last(each.path, count - len(found)), *found]
    return found[-count:] if count else []


def _last(path: Path, count: int) -> list[Record]:
    with files.opened(path) as file:
        size = file.seek(0, os.SEEK_END) if path.suffix != ".gz" else 0
        window = _WINDOW
        while True:
            start = max(0, size - window)
            file.seek(start)
            lines = file.read().splitlines(keepends=True)[1 if start else 0 :]
            records = [record for record in map(parse, lines) if record is not None]
            if len(records) >= count or not start:
                return records
            window *= 4


def follow(directory: Path, after: int, *, wait: Callable[[], object] = lambda: time.sleep(0.2)) -> Iterator[Record]:
    """Return records as they are written, from the one after sequence number ``after``, across rotations, for ever.

    ``wait`` is called whenever there is nothing new; a file has no way to say that it grew which works on all systems. Raises OSError.
    """
    path = directory / files.CURRENT
    while True:
        try:
            file = path.open("rb")
        except FileNotFoundError:
            wait()
            continue
        with file:
            # Listed after the current one was opened: more than one rotation may have come since the last look.
            for record in chain(_rotated(directory, after), _growing(path, file, wait)):
                if record.seq > after:
                    after = record.seq
                    yield record


def _rotated(directory: Path, after: int) -> Iterator[Record]:
    """Return the records of the files that have any behind ``after``, the current one aside."""
    try:
        found = files.in_order(files.in_directory(directory))
    except FileNotFoundError:  # moved meanwhile; the next look finds it
        return
    newer = [one.path for one, then in pairwise(found) if (then.first or 0) > after + 1 and one.path.name != files.CURRENT]
    yield from files.records(newer)


def _growing(path: Path, file: IO[bytes], wait: Callable[[], object]) -> Iterator[Record]:
    """Return the records of the current file, until another is in its place."""
    rest, moved = b"", False
    while not moved:
        moved = _moved(path, file.fileno())  # looked at first: what was written before the move is read after it
        while line := file.readline(MAX_READ):
            rest += line
            if rest.endswith(b"\n") or len(rest) >= MAX_READ:
                record, rest = parse(rest), b""
                if record is not None:
                    yield record
        if not moved:
            wait()


def _moved(path: Path, fd: int) -> bool:
    try:
        return not os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:  # renamed, and still written to until the daemon sees that
        return False
