"""Where a backup is put: a file that is there whole or not at all, and that nobody else can read."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path
from typing import IO

from keyd.core.backup.container import Backup, BackupError

#: What file systems say that have no hard links: FAT on a stick, FUSE, shares.
_WITHOUT_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}


def save(backup: Backup, path: Path, *, replace: bool = False) -> None:
    """Write a backup to a file of mode 0600, durably. Without ``replace`` nothing that is there is touched.

    Raises:
        BackupError: there is something, or it cannot be written.
    """
    if not path.name:
        raise BackupError(f"{path} is a directory; name a file in it")
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}.tmp")
    try:
        if not replace and os.path.lexists(path):
            raise _exists(path)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                backup.write(file)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                temporary.replace(path)
            else:
                _name(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync(path.parent)
    except FileExistsError as exc:
        raise _exists(path) from exc
    except OSError as exc:
        raise BackupError(f"cannot write {path}: {os.strerror(exc.errno or 0)}") from exc


def _name(temporary: Path, path: Path) -> None:
    """Give a file its name. Raises FileExistsError when something else has it."""
    try:
        os.link(temporary, path)  # unlike rename, never replaces
    except OSError as exc:
        if exc.errno not in _WITHOUT_LINKS:
            raise
        # Of two that are written under one name at the same moment, one is lost here; both are whole.
        if os.path.lexists(path):
            raise FileExistsError(path) from exc
        temporary.rename(path)


def pour(backup: Backup, stream: IO[bytes]) -> None:
    """Write a backup to where it goes on from, such as a pipe. Raises BackupError; BrokenPipeError where nobody reads."""
    try:
        backup.write(stream)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise BackupError(f"cannot write the backup: {os.strerror(exc.errno or 0)}") from exc


def load(path: Path) -> Backup:
    """Read a backup from a file. Raises BackupError."""
    try:
        with path.open("rb") as file:
            return Backup.read(file)
    except OSError as exc:
        raise BackupError(f"cannot read {path}: {os.strerror(exc.errno or 0)}") from exc
    except BackupError as exc:
        raise BackupError(f"{path}: {exc}") from exc


def _exists(path: Path) -> BackupError:
    return BackupError(f"{path} exists already; choose another name, or replace it with --force")


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
