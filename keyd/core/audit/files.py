"""The files of a trail: which there are, in which order, and their lines."""

from __future__ import annotations

import contextlib
import gzip
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from keyd.core.audit.record import MAX_READ, Record, parse

CURRENT = "audit.jsonl"


@dataclass(frozen=True, slots=True)
class TrailFilePath:
    """A file of the trail, and the sequence number of its first record; None when its first line is none."""

    path: Path
    first: int | None


def rotated_name(first: int) -> str:
    """Return the name of a file that was rotated away, by the sequence number of its first record."""
    return f"audit-{first:012d}.jsonl"


def in_order(paths: Iterable[Path]) -> list[TrailFilePath]:
    """Return files by the sequence number of their first record; those without any, and not empty, come first.

    Raises:
        OSError: one cannot be read.
    """
    found = [TrailFilePath(path, first(path)) for path in paths]
    # A copy beside the current file begins with the same record, and ends before it.
    return sorted(found, key=lambda file: (file.first or 0, file.path.name == CURRENT, file.path.name))


def in_directory(directory: Path) -> list[Path]:
    """Return the files of the trail in a directory: keyd's own, and what a log rotation made of them."""
    names = [name for name in os.listdir(directory) if name.startswith("audit") and ".jsonl" in name]  # noqa: PTH208 - bytes never
    return [directory / name for name in sorted(names) if stat.S_ISREG((directory / name).lstat().st_mode)]


def first(path: Path) -> int | None:
    """Return the sequence number of the first record in a file; None if there is no record in its first lines."""
    with opened(path) as file, contextlib.suppress(gzip.BadGzipFile):
        for _ in range(16):  # a torn line may be in front
            line = file.readline(MAX_READ)
            if not line:
                return None
            record = parse(line)
            if record is not None:
                return record.seq
    return None


class _Gzip(gzip.GzipFile):
    """A compressed file that says in one way that it is damaged, as one is whose compression was interrupted."""

    def readline(self, size: int | None = -1) -> bytes:
        with self._told():
            return super().readline(size)

    def read(self, size: int | None = -1) -> bytes:
        with self._told():
            return super().read(size)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, zlib.error) as exc:
            raise gzip.BadGzipFile(f"{self.name} is damaged: {exc}") from exc


def opened(path: Path) -> IO[bytes]:
    """Open a file of the trail, as it is or compressed with gzip. Lines of a damaged one raise gzip.BadGzipFile, an OSError."""
    return cast("IO[bytes]", _Gzip(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def records(paths: Iterable[Path]) -> Iterator[Record]:
    """Return the records of files in the order in which they are given; what is none is passed over."""
    for path in paths:
        with opened(path) as file:
            while line := file.readline(MAX_READ):
                record = parse(line)
                if record is not None:
                    yield record
