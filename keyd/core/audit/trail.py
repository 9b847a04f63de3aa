"""The audit trail of a running daemon: chains records, writes them before anything that they say happens, and brings them to the disk.

All methods are called from the event loop; only :meth:`TrailFile.sync` runs in a thread.
"""

from __future__ import annotations

import asyncio
import errno
import math
import os
import time
from collections.abc import Awaitable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import structlog

from keyd.core.audit import files, tail
from keyd.core.audit.record import GENESIS, MAX_SEQ, Encoder, Event, digest, event, timestamp
from keyd.core.audit.sinks import Sink
from keyd.core.audit.tail import Tail
from keyd.core.audit.trail_file import Change, TrailFile
from keyd.core.clock import Clock
from keyd.core.decision import Decision
from keyd.core.errors import AuditError

_RETRY = 1.0  # seconds between two attempts to open a file anew
#: After these the file is as sound as before. None: it is not the file that failed.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None})
_log = structlog.get_logger("keyd.audit")


@dataclass(frozen=True, slots=True)
class Rules:
    """How the trail is kept. Periods in seconds, sizes in bytes.

    Attributes:
        sync_interval: how long records may wait for the disk.
        wait_for_sync: callers wait for it.
        on_failure: what becomes of a decision that cannot be recorded.
        on_gap: what becomes of a start that finds the end of the trail missing.
        max_file_size: where the next file begins.
        max_file_age: when the next file begins; None: never for that.
        keep: how many rotated files stay; None: all.
    """

    sync_interval: float = 0.01
    wait_for_sync: bool = False
    on_failure: Literal["refuse", "continue"] = "refuse"
    on_gap: Literal["continue", "refuse"] = "continue"
    max_file_size: int = 128 * 1024 * 1024
    max_file_age: float | None = None
    keep: int | None = None


class Head(NamedTuple):
    """A record, by its sequence number and its digest, which stands for everything before it too."""

    seq: int
    digest: str


class AuditTrail:
    """One chain of records, in a file, in the system's log, or in both."""

    def __init__(self, file: TrailFile | None, sinks: Sequence[Sink], rules: Rules, clock: Clock) -> None:
        self.rules = rules
        self.head = Head(0, GENESIS)
        #: Up to this sequence number every record is on the disk.
        self.synced = 0
        #: Records since the last checkpoint began to be made, those of checkpoints themselves aside.
        self.unsigned = 0
        #: Decisions that could not be recorded since the last one that was.
        self.unrecorded = 0
        #: Set when the file should be rotated, or enough records wait for a checkpoint.
        self.due = asyncio.Event()
        self.checkpoint_records = 10_000
        self._file = file
        self._sinks = sinks
        self._clock = clock
        self._encoder = Encoder()
        self._first, self._since = 1, 0.0  # of the current file
        self._opened = False
        self._version, self._known = "", None  # type: str, Head | None
        self._broken: str | None = None
        self._failing: str | None = None
        self._next_try = 0.0
        self._dirty = asyncio.Event()
        self._waiters: list[asyncio.Future[None]] = []
        self._syncing = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="keyd-audit")
        self._task: asyncio.Task[None] | None = None

    @property
    def directory(self) -> Path | None:
        """Where the files are; None when there are none."""
        return self._file.directory if self._file is not None else None

    @property
    def failure(self) -> str | None:
        """Why nothing can be recorded at present, as far as is known; None: it can."""
        return self._broken or self._failing

    @property
    def waits(self) -> bool:
        """Whether callers wait for the disk: see :class:`keyd.core.decision.Audit`."""
        return self.rules.wait_for_sync and self._file is not None

    # ---- start and stop

    async def start(self, version: str, known: Head | None) -> None:
        """Open the trail and begin to record. ``known`` is the newest checkpoint that the database has.

        Raises:
            AuditError: the end of the trail is missing and the rules have the start refused for that.
        """
        self._version, self._known = version, known
        try:
            self._open()
        except OSError as exc:
            self._break(f"cannot be opened: {_reason(exc)}")
        self._task = asyncio.create_task(self._sync_for_ever())

    def _open(self) -> None:
        known = self._known
        gap: dict[str, object] = {}
        torn = b""
        if self._file is not None:
            found = self._file.open()
            self.head = Head(found.seq, found.head)
            if found.torn is not None:
                gap = {"what": "torn", "torn": {"bytes": found.torn.size, "sha256": found.torn.sha256}}
                torn = found.torn.end
            missing = _missing(self._file.directory, found, known)
            if missing and self.rules.on_gap == "refuse":
                raise AuditError(
                    f"the audit trail in {self._file.directory} ends at record {found.seq}, and record {missing.seq} was signed; "
                    'restore it, or start once with on_gap = "continue"'
                )
            if missing:
                what = "cut" if found.seq < missing.seq else "altered"
                gap |= {"what": what, "expected": missing.seq, "expected_head": missing.digest, "found": found.seq}
                self.head = Head(max(found.seq, missing.seq), found.head)  # no number is ever used twice
            current = files.first(self._file.path) if self._file.size else None
            self._first, self._since = current or self.head.seq + 1, self._clock.now()
        if gap:
            _log.error("audit trail damaged", **{name: value for name, value in gap.items() if name != "torn"})
            self._record("gap", gap, before=torn)
        self._record("start", {"version": self._version, "pid": os.getpid()})
        self._opened = True

    async def stop(self) -> None:
        """Bring everything to the disk and close. The last records are the caller's to write before."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self.sync()
        self._thread.shutdown()
        self._broken, self._next_try = "it is closed", math.inf  # the files may be another daemon's from here on
        if self._file is not None:
            self._file.close()
        for sink in self._sinks:
            sink.close()

    # ---- writing

    def write(self, decision: Decision) -> Awaitable[None] | None:
        """Record one decision: see :class:`keyd.core.decision.Audit`.

        Raises:
            AuditError: it is not on record.
        """
        try:
            if self._broken is not None:
                self._mend()
            if self.unrecorded:
                self._tell_of_unrecorded()
            self._append(self._encoder.decision(self.head.seq + 1, self.head.digest, decision))
        except OSError as exc:
            if self._broken is None and exc.errno not in _NO_ROOM:
                self._break(f"cannot be written: {_reason(exc)}")
            self._failed(_reason(exc))
            return None
        if self._failing is not None:
            self._recovered()
        return self._durable() if self.waits else None

    def add(self, operation: Event, members: Mapping[str, object], *, at: str | None = None) -> Head:
        """Record what is no decision, and return it. Raises OSError."""
        if self._broken is not None:
            self._mend()
        return self._record(operation, members, at=at)

    def _record(self, operation: Event, members: Mapping[str, object], *, at: str | None = None, before: bytes = b"") -> Head:
        line = event(self.head.seq + 1, self.head.digest, at or timestamp(self._clock.now()), operation, members)
        self._append(line, before)
        return self.head

    def _append(self, line: bytes, before: bytes = b"") -> None:
        if self.head.seq >= MAX_SEQ:  # somebody wrote such a number behind the trail
            raise OSError("its sequence numbers are used up; move its files away")
        copies_first = self._failing is not None  # else a log that is away would have the file grow with every refusal
        if copies_first:
            self._send(line)
        if self._file is not None:
            self._file.append(b"%b%b\n" % (before, line) if before else line + b"\n")
            if self._file.size >= self.rules.max_file_size:
                self.due.set()
            if not self._dirty.is_set():
                self._dirty.set()
        self.head = Head(self.head.seq + 1, digest(line))
        self.unsigned += 1
        if self.unsigned >= self.checkpoint_records:
            self.due.set()
        if self._sinks and not copies_first:
            self._send(line)

    def _send(self, line: bytes) -> None:
        for sink in self._sinks:
            try:
                sink.send(line)
            except OSError as exc:
                raise OSError(f"{sink.name} does not take records: {_reason(exc)}") from exc

    def _durable(self) -> Awaitable[None]:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    # ---- failure and recovery

    def _failed(self, why: str) -> None:
        """Take note of a decision that is not on record. Raises AuditError unless the rules have keyd go on without."""
        self.unrecorded += 1
        if self._failing is None:
            _log.error("audit trail does not take records", error=why, on_failure=self.rules.on_failure)
        self._failing = why
        if self.rules.on_failure == "refuse":
            raise AuditError(f"the audit trail does not take the record ({why}), and nothing is done without it")

    def _recovered(self) -> None:
        _log.warning("audit trail takes records again")
        self._failing = None

    def _tell_of_unrecorded(self) -> None:
        members = {"what": "unrecorded", "count": self.unrecorded, "on_failure": self.rules.on_failure}
        self._record("gap", members)
        self.unrecorded = 0

    def _break(self, why: str) -> None:
        """Believe nothing more of the open file."""
        if self._broken is None:
            _log.error("audit trail broken", error=why)
        self._broken = why
        for waiter in self._waiters:
            if waiter.done():
                continue
            if self.rules.on_failure == "continue":
                waiter.set_result(None)
            else:
                waiter.set_exception(AuditError(f"the record may not be on the disk ({why}), and nothing is done without it"))
        self._waiters.clear()

    def _mend(self) -> None:
        """Open the file anew and go on in it. Raises OSError when that does not help, or it was tried just now."""
        if time.monotonic() < self._next_try:
            raise OSError(str(self._broken))
        self._next_try = time.monotonic() + _RETRY
        if not self._opened:
            self._open()
        else:
            assert self._file is not None
            head = self.head
            found = self._file.open()
            self._file.sync()
            torn = {"torn": {"bytes": found.torn.size, "sha256": found.torn.sha256}} if found.torn is not None else {}
            members = {"what": "reopened", "why": str(self._broken), "synced": self.synced, "found": found.seq, **torn}
            self.head = head
            self._record("gap", members, before=found.torn.end if found.torn is not None else b"")
        self._broken = None
        _log.warning("audit trail opened anew")

    # ---- to the disk

    async def _sync_for_ever(self) -> None:
        while True:
            await self._dirty.wait()
            if not self.rules.wait_for_sync:
                await asyncio.sleep(self.rules.sync_interval)
            try:
                await self.sync()
            except Exception:  # noqa: BLE001 - a defect must not look as if everything reached the disk
                _log.exception("audit trail not brought to the disk")
                self._break("cannot be brought to the disk")

    async def sync(self) -> None:
        """Bring what was written to the disk. What comes of that is in :attr:`synced` and :attr:`failure`."""
        if self._file is None:
            self.synced = self.head.seq
            return
        async with self._syncing:
            self._dirty.clear()
            if self._broken is not None:
                return
            waiters, self._waiters = self._waiters, []
            seq = self.head.seq
            try:
                await asyncio.get_running_loop().run_in_executor(self._thread, self._file.sync)
            except BaseException as exc:
                self._waiters = waiters + self._waiters  # nobody waits for ever, whatever went wrong
                if not isinstance(exc, Exception):
                    raise
                # The kernel may have dropped what it could not write, and says so once only (fsync(2), "EIO").
                self._break(f"cannot be brought to the disk: {_reason(exc) if isinstance(exc, OSError) else exc!r}")
                return
            self.synced = seq
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self.look()

    def look(self) -> None:
        """See whether somebody moved, removed, replaced or cut the file, and go on in the one that is at its place."""
        if self._file is None or self._broken is not None:
            return
        try:
            change = self._file.change()
            if change is not Change.NONE:
                self._follow(change)
        except OSError as exc:
            self._break(f"cannot be looked at: {_reason(exc)}")

    def _follow(self, change: Change) -> None:
        assert self._file is not None
        self._file.reopen()
        if change not in (Change.TRUNCATED, Change.ADDED) or not self._file.size:
            self._first, self._since = self.head.seq + 1, self._clock.now()
        if change is Change.RENAMED:
            _log.info("audit trail renamed by others, a new file begun", seq=self.head.seq + 1)
            self._record("rotate", {"by": "others"})
            return
        _log.error("audit trail damaged", what=change.value, seq=self.head.seq + 1)
        self._record("gap", {"what": change.value}, before=b"" if self._file.ends_whole() else b"\n")

    # ---- rotation

    @property
    def rotation_due(self) -> bool:
        """Whether the current file is too large or too old, and has anything in it."""
        if self._file is None or self._broken is not None or self.head.seq < self._first:
            return False
        age = self.rules.max_file_age
        return self._file.size >= self.rules.max_file_size or (age is not None and self._clock.now() - self._since >= age)

    def rotate(self) -> bool:
        """Begin the next file, and return whether that was done. Logs what fails; the old file goes on then."""
        assert self._file is not None
        try:
            if self._file.change() is not Change.NONE:  # then what is at the path is not what is to be put away
                self.look()
                return False
            members = {"by": "keyd", "previous": files.rotated_name(self._first)}
            line = event(self.head.seq + 1, self.head.digest, timestamp(self._clock.now()), "rotate", members)
            self._file.rotate(self._first, line + b"\n")
        except OSError as exc:
            _log.error("audit trail not rotated", error=_reason(exc))
            return False
        self.head = Head(self.head.seq + 1, digest(line))
        self._first, self._since = self.head.seq, self._clock.now()
        self.unsigned += 1
        self._dirty.set()
        return True

    def kept_from(self) -> int | None:
        """Return the first record that stays when the current file is rotated away now; None: all of them stay."""
        if self._file is None or self.rules.keep is None:
            return None
        numbers = [*self._file.rotated_numbers(), self._first]
        return numbers[-self.rules.keep] if len(numbers) > self.rules.keep else None

    def remove_before(self, seq: int) -> None:
        """Remove the rotated files that begin before a record. Raises OSError."""
        assert self._file is not None
        for number in self._file.rotated_numbers():
            if number < seq:
                (self._file.directory / files.rotated_name(number)).unlink(missing_ok=True)


def _missing(directory: Path, found: Tail, known: Head | None) -> Head | None:
    """Return the record that the database knows and the trail does not have."""
    if known is None:
        return None
    if found.seq < known.seq:
        return known
    there = tail.digest_at(directory, known.seq)
    return known if there is not None and there != known.digest else None


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
