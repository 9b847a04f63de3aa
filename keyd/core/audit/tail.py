"""Where a trail on disk ends, and what is wrong with its end."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from keyd.core.audit import files
from keyd.core.audit.record import GENESIS, Record, parse

_WINDOW = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Torn:
    """Bytes behind the last record that are none: a crash of the machine cut them short, or somebody put them there.

    ``end`` is still to be written behind them: a newline where there is none, and what keeps them from being read as a record.
    ``size`` and ``sha256`` are of all that with it.
    """

    size: int
    sha256: str
    end: bytes


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a trail: the last record, by sequence number and digest, and what is behind it."""

    seq: int = 0
    head: str = GENESIS
    torn: Torn | None = None
    #: The last line is a whole record but for its newline.
    needs_newline: bool = False


def find(directory: Path) -> Tail:
    """Return the end of the trail in a directory. Raises OSError."""
    tail = Tail()
    for file in reversed(files.in_order(files.in_directory(directory))):
        tail = of(file.path)
        if tail.seq:
            return tail
    return tail


def of(path: Path) -> Tail:
    """Return the end of one file; without a record in it, its sequence number is 0. Raises OSError."""
    if path.suffix == ".gz":
        record = None
        with contextlib.suppress(gzip.BadGzipFile):
            for record in files.records([path]):  # noqa: B007 - the last one is wanted
                pass
        return Tail(record.seq, record.digest) if record else Tail()
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        window = _WINDOW
        while True:
            start = max(0, size - window)
            file.seek(start)
            data = file.read(size - start)
            if start:  # begins in the middle of a line
                data = data[data.find(b"\n") + 1 :] if b"\n" in data else b""
            tail = _of(data)
            if tail.seq or not start:
                return tail
            window *= 8


def _of(data: bytes) -> Tail:
    end = len(data)
    for start, line in _backwards(data):
        record = parse(line if line.endswith(b"\n") else line + b"\n")
        if record is not None and (line.endswith(b"\n") or _continues(data, start, record)):
            return Tail(record.seq, record.digest, _torn(data[end:]) if end < len(data) else None, not line.endswith(b"\n"))
        end = start
    return Tail(torn=_torn(data) if data else None)


def _continues(data: bytes, start: int, record: Record) -> bool:
    """Say whether a record without its newline continues the line before it; else it is a torn one that happens to parse."""
    before = next((parse(line) for _, line in _backwards(data[:start])), None)
    return before is not None and (record.seq, record.prev) == (before.seq + 1, before.digest)


def _torn(data: bytes) -> Torn:
    last = data.rpartition(b"\n")[2]
    end = (b"\n" if parse(last + b"\n") is None else b"#\n") if last else b""
    whole = data + end
    return Torn(len(whole), hashlib.sha256(whole).hexdigest(), end)


def _backwards(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Return where each line begins, and the line with its newline if it has one, from the last."""
    end = len(data)
    while end:
        start = data.rfind(b"\n", 0, end - 1) + 1
        yield start, data[start:end]
        end = start


def digest_at(directory: Path, seq: int) -> str | None:
    """Return the digest of a record near the end of the trail; empty when it is not there, None when it is not near. Raises OSError."""
    for file in reversed(files.in_order(files.in_directory(directory))):
        if file.first is None or file.path.suffix == ".gz" or file.first > seq:
            continue
        with file.path.open("rb") as content:
            size = content.seek(0, os.SEEK_END)
            content.seek(max(0, size - 4 * _WINDOW))
            for _, line in _backwards(content.read()):
                record = parse(line)
                if record is not None and record.seq <= seq:
                    return record.digest if record.seq == seq else ""
        return None
    return None
