"""Checks a trail: reads it once, in constant memory, and names what is wrong by file, line and sequence number."""

from __future__ import annotations

import gzip
import hashlib
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from backends.api import Algorithm, PublicKey
from keyd.core.audit import files
from keyd.core.audit.checkpoints import MAX_BEHIND, CheckpointError, UnknownKeyError, check
from keyd.core.audit.record import GENESIS, MAX_READ, Record, parse

#: What checks signatures, by kid.
Keys = Mapping[str, tuple[PublicKey, Algorithm]]

_MAX_FINDINGS = 100
_WAITS = 5


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file, from 1."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file.name} line {self.line}"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong. ``place`` is at or before the damage; None where it is in no file."""

    place: Place | None
    message: str

    def __str__(self) -> str:
        return self.message if self.place is None else f"{self.place}: {self.message}"


@dataclass(slots=True)
class Report:
    """What came of it.

    Attributes:
        findings: what is wrong, in the order of the trail; at most 100.
        notes: what is not wrong and worth knowing.
        signed: the newest record that a good signature covers.
    """

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    records: int = 0
    first: int | None = None
    last: int | None = None
    signed: int | None = None
    signed_at: str = ""
    checkpoints: int = 0
    more: int = 0

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


@dataclass(frozen=True, slots=True)
class Expected:
    """A record that something else knows: the database, or the running daemon.

    Attributes:
        source: who knows it, for messages.
    """

    seq: int
    digest: str
    source: str


class Verifier:
    """Reads files of one trail, in their order."""

    def __init__(
        self,
        *,
        keys: Keys | None = None,
        compromised: Container[str] = (),
        expected: Iterable[Expected] = (),
        begins: int | None = None,
    ) -> None:
        """Take what to hold the trail to.

        Args:
            keys: by kid, what checks the signatures of checkpoints; None: they are not checked.
            compromised: kids whose signatures prove nothing any more; a later checkpoint of another key covers the records.
            expected: records that must be there.
            begins: the trail may begin with this sequence number; None: the records before the first do not matter.
        """
        self.report = Report()
        self._keys = keys
        self._compromised = compromised
        self._by_compromised = 0
        self._expected = sorted(expected, key=lambda item: item.seq)
        self._passed = 0  # of what is expected, how many were compared
        self._begins = begins
        self._kept_from = 1
        self._last: Record | None = None
        self._last_place: Place | None = None
        self._recent: deque[tuple[int, str]] = deque(maxlen=2 * MAX_BEHIND)
        self._junk: _Junk | None = None

    def run(self, paths: Iterable[Path], progress: Callable[[int], object] = lambda _: None) -> Report:
        """Check files, whatever the order in which they are given. ``progress`` is told the bytes of each line.

        Raises:
            OSError: a file cannot be read.
        """
        for each in files.in_order(paths):
            place = Place(each.path, 1)
            try:
                with files.opened(each.path) as file:
                    line_start = True
                    while line := _next(file):
                        progress(len(line))
                        self._line(place, line, whole=line_start)
                        line_start = line.endswith(b"\n")
                        place = Place(each.path, place.line + line_start)
            except gzip.BadGzipFile:
                self._found(place, "what is compressed here is damaged, or was not compressed to its end")
        self._end()
        return self.report

    def _line(self, place: Place, line: bytes, *, whole: bool) -> None:
        record = parse(line) if whole else None
        if record is None:
            self._junk = self._junk or _Junk(place)
            self._junk.add(line)
            return
        if self._junk is not None:
            self._explain(self._junk, record)
            self._junk = None
        self._record(place, record, line[:-1])

    def _explain(self, junk: _Junk, record: Record) -> None:
        """A crash of the machine leaves a torn line, which the next record describes; anything else is damage."""
        if record.operation == "gap" and record.members.get("torn") == {"bytes": junk.size, "sha256": junk.hash.hexdigest()}:
            self.report.notes.append(f"{junk.place}: a torn line, as a crash of the machine leaves it; it is no record")
        else:
            self._found(junk.place, "not a record; it was altered, cut short, or put in")

    def _record(self, place: Place, record: Record, line: bytes) -> None:
        if self._last is None:
            self._begin(place, record)
        else:
            self._chain(place, record, self._last)
        self.report.records += 1
        self.report.last = record.seq
        self._last, self._last_place = record, place
        self._compare(place, record)
        if record.operation == "checkpoint":
            self._checkpoint(place, record, line)
        elif record.operation == "gap":
            self._gap(place, record)
        self._recent.append((record.seq, record.digest))

    def _begin(self, place: Place, record: Record) -> None:
        self.report.first = record.seq
        if record.seq == 1 and record.prev != GENESIS:
            self._found(place, "the first record has one before it; it was altered")

    def _chain(self, place: Place, record: Record, last: Record) -> None:
        if record.seq == last.seq + 1:
            if record.prev != last.digest:
                self._found(
                    self._last_place,
                    f"record {last.seq} was altered, or record {record.seq} behind it: the one does not continue the other",
                )
        elif record.seq > last.seq:
            self._found(place, f"{_range(last.seq + 1, record.seq - 1)} missing between records {last.seq} and {record.seq}")
        elif record.seq == last.seq:
            same = record.digest == last.digest
            self._found(
                self._last_place,
                f"record {record.seq} is there twice" if same else f"there are two records {record.seq}; one was put in",
            )
        else:
            self._found(self._last_place, f"record {record.seq} stands behind record {last.seq}: reordered, or there twice")

    def _compare(self, place: Place, record: Record) -> None:
        while self._passed < len(self._expected) and self._expected[self._passed].seq <= record.seq:
            item = self._expected[self._passed]
            self._passed += 1
            if item.seq == record.seq and item.digest != record.digest:
                self._found(
                    place, f"record {record.seq} is not the one that {item.source} knows: it or a record before it was altered"
                )
            elif item.seq < record.seq and self.report.first is not None and item.seq >= self.report.first:
                self._found(place, f"record {item.seq}, which {item.source} knows, is missing before record {record.seq}")

    def _checkpoint(self, place: Place, record: Record, line: bytes) -> None:
        self.report.checkpoints += 1
        try:
            signed = check(record, line, self._keys)
        except UnknownKeyError as exc:
            self._found(place, f"record {record.seq}: {exc}")
            return
        except CheckpointError as exc:
            self._found(place, f"record {record.seq}: {exc}")
            return
        there = next((digest for seq, digest in reversed(self._recent) if seq == signed.seq), None)
        if there is None and self._recent and self._recent[0][0] <= signed.seq:
            self._found(place, f"record {signed.seq}, which the checkpoint in record {record.seq} signs, is missing")
        elif there is not None and there != signed.head:
            self._found(place, f"the checkpoint in record {record.seq} signs another record {signed.seq} than is there")
        elif signed.kid in self._compromised:
            self._by_compromised += 1
        elif there is not None:
            # Signed, because who can write the files could say so in any other record, and have the daemon go on behind it.
            self._kept_from = max(self._kept_from, signed.kept_from or 1)
            if self._keys is not None:
                self.report.signed, self.report.signed_at = signed.seq, signed.time

    def _gap(self, place: Place, record: Record) -> None:
        what = record.text("what")
        count = record.number("count")
        said = {
            "torn": "the daemon found a torn line after a crash of the machine",
            "cut": f"the daemon found the end of the trail cut off: record {record.number('expected')} was signed and is not there",
            "altered": f"the daemon found record {record.number('expected')} altered or removed",
            "removed": "the file was removed while the daemon wrote to it",
            "replaced": "another file was put in its place while the daemon wrote to it",
            "truncated": "the file was cut while the daemon wrote to it",
            "added": "somebody else wrote to the file while the daemon did",
            "unrecorded": f"{count} decisions could not be recorded, "
            + ("and keyd went on without" if record.text("on_failure") == "continue" else "and were refused for that"),
            "reopened": f"the file was opened anew; records behind {record.number('synced')} may have been lost in a crash",
        }.get(what, "the daemon found a gap")
        self.report.notes.append(f"{place}: record {record.seq}: {said}")
        if what in ("cut", "altered"):
            self._found(place, f"record {record.seq}: {said}")

    def _end(self) -> None:
        report = self.report
        if self._junk is not None:
            self._found(self._junk.place, "the trail ends with a line that is no record; it was cut short")
        first, last = report.first, report.last
        if first is None or last is None:
            report.notes.append("there are no records")
        if first is not None and self._begins is not None and first > max(self._begins, self._kept_from):
            self._found(
                None,
                f"{_range(max(self._begins, self._kept_from), first - 1)} missing: a file before record {first} is not there",
            )
        elif first is not None and first > 1:
            report.notes.append(f"the trail begins with record {first}; what was before is not here")
        cut: dict[str, int] = {}
        for item in self._expected[self._passed :]:
            cut[item.source] = item.seq
        for source, seq in cut.items():
            self._found(self._last_place, f"the end is cut off after record {last or 0}: {source} knows record {seq}")
        if self._by_compromised:
            report.notes.append(f"{self._by_compromised} checkpoints are of a compromised key, and count for nothing")
        if self._keys is None and report.checkpoints:
            report.notes.append("the signatures of the checkpoints were not checked, because no key was given")
        elif last is not None and report.signed != last:
            self._unsigned(last)

    def _unsigned(self, last: int) -> None:
        signed = self.report.signed
        if signed is None:
            self.report.notes.append("no record is covered by a checkpoint whose signature was checked")
        elif last > signed + 1:  # the last checkpoint covers the record before it
            self.report.notes.append(f"{_range(signed + 1, last)} behind the last checkpoint: chained, and not signed yet")

    def _found(self, place: Place | None, message: str) -> None:
        if len(self.report.findings) < _MAX_FINDINGS:
            self.report.findings.append(Finding(place, message))
        else:
            self.report.more += 1


def _next(file: IO[bytes]) -> bytes:
    """Return the next line; one that is just being written is waited for."""
    line = file.readline(MAX_READ)
    for _ in range(_WAITS):
        if not line or line.endswith(b"\n") or len(line) >= MAX_READ:
            break
        time.sleep(0.01)
        line += file.readline(MAX_READ - len(line))
    return line


class _Junk:
    """Lines in a row that are no records."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.size = 0
        self.hash = hashlib.sha256()

    def add(self, line: bytes) -> None:
        self.size += len(line)
        self.hash.update(line)


def _range(first: int, last: int) -> str:
    return f"record {first} is" if first == last else f"records {first} to {last} are"
