"""Files that hold secrets: read only when nobody else could have written them, written whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from backends.errors import (
    BackendAccessError,
    BackendError,
    BackendFullError,
    BackendIntegrityError,
    BackendUnavailableError,
    KeyExistsError,
)

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")
_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


class UnsafeFileError(Exception):
    """A file that others could read or could have put there. The message says which file, why, and what to do."""


def translate(error: OSError, action: str) -> BackendError:
    """Return the backend error for what the operating system said; ``action`` is the start of its message."""
    message = f"{action}: {os.strerror(error.errno or 0)}"
    if error.errno in _FULL:
        return BackendFullError(f"{message}; make room and try again")
    if error.errno in _REFUSED:
        return BackendAccessError(f"{message}; give the daemon's user access")
    return BackendUnavailableError(message)


def read_private(path: Path, *, max_size: int, forbidden_mode: int = 0o077, group_of_root: bool = False) -> bytes:
    """Read a whole file that must belong to the daemon or root, have one name, and be closed to everybody else.

    Args:
        path: its last component must not be a symbolic link.
        max_size: in bytes.
        forbidden_mode: permission bits of which none may be set.
        group_of_root: let the group read what belongs to root, when the daemon is not root and could not read it otherwise.

    Raises:
        UnsafeFileError: the file is not such a file.
        OSError: it cannot be read.
    """
    try:
        # O_NONBLOCK: opening a fifo must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnsafeFileError(f"{path} is a symbolic link; put the file itself there") from error
        if error.errno == errno.ENXIO:
            raise UnsafeFileError(f"{path} is not a regular file; put the file itself there") from error
        raise
    try:
        facts = os.fstat(descriptor)
        _check_private(path, facts, forbidden_mode, group_of_root)
        content = bytearray()
        while len(content) <= max_size and (chunk := os.read(descriptor, max_size + 1 - len(content))):
            content += chunk
    finally:
        os.close(descriptor)
    if len(content) > max_size:
        raise UnsafeFileError(f"{path} is larger than {max_size} bytes; put the right file there")
    return bytes(content)


def _check_private(path: Path, facts: os.stat_result, forbidden_mode: int, group_of_root: bool) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise UnsafeFileError(f"{path} is not a regular file; put the file itself there")
    if facts.st_uid not in (os.geteuid(), 0):
        raise UnsafeFileError(f"{path} belongs to uid {facts.st_uid}; run `chown {os.geteuid()} {path}` if you trust it")
    if group_of_root and facts.st_uid == 0 and os.geteuid() != 0:
        forbidden_mode &= ~stat.S_IRGRP
    if facts.st_mode & forbidden_mode:
        mode = stat.S_IMODE(facts.st_mode)
        raise UnsafeFileError(f"{path} is open to other users (mode {mode:04o}); run `chmod 0400 {path}`")
    if facts.st_nlink != 1:
        raise UnsafeFileError(f"{path} has {facts.st_nlink} hard links; remove the others")


def ensure_private_directory(path: Path) -> None:
    """Make a directory with mode 0700 where there is none, and check that it is the daemon's own.

    Raises:
        BackendIntegrityError: others own it or can get in, or it is not a directory.
        BackendError: it cannot be made or opened.
    """
    try:
        missing = [directory for directory in (path, *path.parents) if not directory.exists() and not directory.is_symlink()]
        for directory in reversed(missing):
            with suppress(FileExistsError):  # another process was faster; what it made is checked below
                directory.mkdir(mode=0o700)
                _sync_directory(directory.parent)
    except OSError as error:
        raise translate(error, f"cannot make the directory {path}") from error
    with _private_directory(path):
        pass


def write_new(path: Path, content: bytes) -> None:
    """Write a file with mode 0400 that is there whole, on the disk, when this returns; never replace one.

    Raises:
        KeyExistsError: there is a file of this name.
        BackendFullError: no room on the disk or in the quota.
        BackendError: the directory is not the daemon's own, or the file cannot be written.
    """
    with _private_directory(path.parent) as directory:
        try:
            _write_new(directory, path.name, content)
        except FileExistsError as error:
            raise KeyExistsError(f"{path} exists already") from error
        except OSError as error:
            raise translate(error, f"cannot write {path}") from error


def remove(path: Path) -> None:
    """Remove a name from a directory; a file that is not there is removed already. Durable after :func:`sync`."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise translate(error, f"cannot remove {path}") from error


def sync(directory: Path) -> None:
    """Make what was added to and removed from a directory survive a power cut."""
    try:
        _sync_directory(directory)
    except OSError as error:
        raise translate(error, f"cannot sync the directory {directory}") from error


def sweep(directory: Path) -> list[str]:
    """Remove the temporary files that killed processes left; those of living writers stay.

    Returns the names of all else in the directory, in any order: to read a directory of 100,000 files takes time.

    Raises:
        BackendError: the directory cannot be read, or a file cannot be removed.
    """
    others = []
    try:
        for name in os.listdir(directory):  # noqa: PTH208 - names are what is needed, and a path for each takes a second
            if not (name.startswith(".") and _TEMPORARY.fullmatch(name)):
                others.append(name)
                continue
            path = directory / name
            if path.is_file() and not path.is_symlink() and not _is_being_written(os.fspath(path)):
                remove(path)
    except OSError as error:
        raise translate(error, f"cannot read the directory {directory}") from error
    return others


@contextmanager
def _private_directory(path: Path) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise BackendIntegrityError(f"{path} is not a directory; name the directory itself, not a link to it") from error
        raise translate(error, f"cannot open the directory {path}") from error
    try:
        facts = os.fstat(descriptor)
        if facts.st_uid != os.geteuid():
            raise BackendIntegrityError(f"the directory {path} belongs to uid {facts.st_uid}; run `chown {os.geteuid()} {path}`")
        if facts.st_mode & 0o077:
            mode = stat.S_IMODE(facts.st_mode)
            raise BackendIntegrityError(f"the directory {path} is open to other users (mode {mode:04o}); run `chmod 0700 {path}`")
        yield descriptor
    finally:
        os.close(descriptor)


def _write_new(directory: int, name: str, content: bytes) -> None:
    temporary = f".{name}.{secrets.token_hex(8)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(temporary, flags, 0o400, dir_fd=directory)
    linked = False
    try:
        fcntl.flock(file, fcntl.LOCK_EX)  # tells a sweep in another process that the writer lives
        os.fchmod(file, 0o400)
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fsync(file)
        # Unlike rename, link never replaces.
        os.link(temporary, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        linked = True
        os.unlink(temporary, dir_fd=directory)
        os.fsync(directory)
    except BaseException:
        for left in (temporary, name) if linked else (temporary,):
            with suppress(OSError):
                os.unlink(left, dir_fd=directory)
        raise
    finally:
        os.close(file)


def _is_being_written(path: str) -> bool:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
