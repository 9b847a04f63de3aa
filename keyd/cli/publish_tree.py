"""Writing JWK Sets to files that somebody else serves: whole or not at all, and taking away only what was written here before."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

MANIFEST = ".keyd-files.json"
_MAX_MANIFEST = 64 * 1024 * 1024
# What may name a file here, whoever says so: the daemon or a manifest.
_PATH = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._:\-]*/|\[[0-9a-f:.]+\](?::[0-9]+)?/){0,2}(?:\.well-known/)?jwks\.json", re.ASCII)


class TreeError(Exception):
    """The files cannot be written as asked; the text says why."""


def check_path(path: str) -> str:
    """Return a path below the directory, as it is. Raises TreeError for any that keyd does not write."""
    if not _PATH.fullmatch(path):
        raise TreeError(f"{path!r} is no file that keyd writes")
    return path


def write(target: Path, data: bytes) -> bool:
    """Write a file whole or not at all, readable for all; say whether it was another before. Raises OSError."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if not target.is_symlink() and target.read_bytes() == data:
            return False
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".keyd-", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(descriptor, 0o644)
            os.fsync(descriptor)
        Path(name).replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    _sync(target.parent)
    return True


class Tree:
    """A directory of documents. Methods raise OSError, TreeError."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextmanager
    def locked(self) -> Iterator[Tree]:
        """Be the only one who writes there."""
        self._root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TreeError(f"another keyd jwks writes to {self._root}") from None
            yield self
        finally:
            os.close(descriptor)

    def update(self, documents: Mapping[str, bytes], kept: Iterable[str]) -> tuple[list[str], list[str]]:
        """Write what is another, and take away what was written before and is neither there now nor begins with one of ``kept``.

        Returns:
            The paths that were written, and those that were taken away.
        """
        before = self._known()
        wanted = {check_path(path) for path in documents}
        staying = wanted | {path for path in before if path.startswith(tuple(kept))}
        # On record before it is there, so that a crash leaves no file that nobody takes away.
        self._note(before | wanted)
        written = [path for path in sorted(wanted) if write(self._root / path, documents[path])]
        gone = sorted(before - staying)
        for path in gone:
            self._remove(self._root / path)
        self._note(staying)
        return written, gone

    def _known(self) -> set[str]:
        try:
            with (self._root / MANIFEST).open("rb") as file:
                content = file.read(_MAX_MANIFEST + 1)
        except FileNotFoundError:
            return set()
        try:
            if len(content) > _MAX_MANIFEST:
                raise ValueError
            files = json.loads(content)["files"]
            return {check_path(path) for path in files}
        except (ValueError, KeyError, TypeError, RecursionError, TreeError):
            raise TreeError(
                f"{self._root / MANIFEST} is not as keyd wrote it; remove it, and the files that keyd shall no longer serve"
            ) from None

    def _note(self, paths: set[str]) -> None:
        write(self._root / MANIFEST, json.dumps({"files": sorted(paths)}, indent=0).encode())

    def _remove(self, target: Path) -> None:
        target.unlink(missing_ok=True)
        for directory in target.parents:
            if directory == self._root:
                break
            with contextlib.suppress(OSError):  # something else is in it
                directory.rmdir()


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
