"""The file that a trail is written to: whole lines or nothing, rotation, and what others do to it meanwhile."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from enum import Enum
from pathlib import Path

from keyd.core.audit import files
from keyd.core.audit.tail import Tail, find

_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
_NEXT = ".audit.next"


class Change(Enum):
    """What somebody else did to the file."""

    NONE = "none"
    #: It has another name now, as log rotation leaves it.
    RENAMED = "renamed"
    REMOVED = "removed"
    #: Another file with something in it is in its place.
    REPLACED = "replaced"
    TRUNCATED = "truncated"
    #: Somebody wrote to it, which takes what keyd writes behind half a line out of the trail.
    ADDED = "added"


class TrailFile:
    """``audit.jsonl`` in a directory of its own. Every method raises OSError when the file system does not do what it must."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / files.CURRENT
        self.size = 0
        self._fd = -1
        self._old: list[int] = []  # rotated away, and not synchronised yet

    def open(self) -> Tail:
        """Open the file, made if it is missing, and return where the trail ends. What was open before is closed."""
        self.close()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            (self.directory / _NEXT).unlink()  # a rotation that did not come to its end; nothing was recorded there
        tail = find(self.directory)
        self._take(self._open(os.O_CREAT))
        if tail.needs_newline:  # of the file with the last record, which is this one: others end with whole lines
            self.append(b"\n")
        return tail

    def _open(self, more: int, name: str = files.CURRENT) -> int:
        fd = os.open(self.directory / name, _FLAGS | more, 0o600)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(f"{self.directory / name} is not a file")
        return fd

    def _take(self, fd: int) -> None:
        if self._fd >= 0:
            self._old.append(self._fd)
        self._fd, self.size = fd, os.fstat(fd).st_size

    def append(self, data: bytes) -> None:
        """Write whole lines with one call; nothing of them stays when there is no room for all."""
        written = os.write(self._fd, data)
        if written != len(data):
            # Not at our own size: somebody may have added lines, and ours behind them have to stay.
            os.ftruncate(self._fd, os.lseek(self._fd, 0, os.SEEK_CUR) - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # what the next write would say (write(2))
        self.size += written

    def change(self) -> Change:
        """Find out what somebody else did to the file since it was opened."""
        own = os.fstat(self._fd)
        try:
            there = self.path.lstat()
        except FileNotFoundError:
            return Change.RENAMED if own.st_nlink else Change.REMOVED
        if (there.st_dev, there.st_ino) != (own.st_dev, own.st_ino):
            if there.st_size:
                return Change.REPLACED
            return Change.RENAMED if own.st_nlink else Change.REMOVED
        if own.st_size == self.size:
            return Change.NONE
        return Change.TRUNCATED if own.st_size < self.size else Change.ADDED

    def reopen(self) -> None:
        """Go on with the file that is at the path now, made if it is missing."""
        self._take(self._open(os.O_CREAT))

    def ends_whole(self) -> bool:
        """Say whether the file is empty or ends with a newline."""
        return not self.size or os.pread(self._fd, 1, self.size - 1) == b"\n"

    def rotated_numbers(self) -> list[int]:
        """Return the numbers that the files have which were rotated away here, oldest first."""
        names = (path.name for path in files.in_directory(self.directory))
        return sorted(int(name[6:-6]) for name in names if name[6:-6].isdigit() and name == files.rotated_name(int(name[6:-6])))

    def rotate(self, first: int, line: bytes) -> None:
        """Give the file the name of its ``first`` record, and go on with a new one that begins with ``line``."""
        away = self.directory / files.rotated_name(first)
        if away.exists():
            raise FileExistsError(errno.EEXIST, f"{away} exists already")
        with contextlib.suppress(FileNotFoundError):
            (self.directory / _NEXT).unlink()
        fd = self._open(os.O_CREAT | os.O_EXCL, _NEXT)
        try:
            if os.write(fd, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.path.rename(away)
            (self.directory / _NEXT).rename(self.path)
        except OSError:
            os.close(fd)
            raise
        self._take(fd)

    def sync(self) -> None:
        """Wait until everything that was written is on the disk. May run in a thread of its own."""
        fd, old = self._fd, self._old[:]
        for each in (*old, fd):
            os.fdatasync(each)
        if old:
            directory = os.open(self.directory, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        for each in old:
            self._old.remove(each)
            os.close(each)

    def close(self) -> None:
        """Close without waiting for anything."""
        for fd in (*self._old, self._fd):
            if fd >= 0:
                os.close(fd)
        self._fd, self._old = -1, []
