"""Writing JWK Sets to files that somebody else serves: whole or not at all, and taking away only what was written here before."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

MANIFEST = ".keyd-files.json"
_MAX_MANIFEST = 64 * 1024 * 1024
# What may name a file here, whoever says so: the daemon or a manifest.
_PATH = re.compile(
    r"(?:[A-Za-z0-9][A-Za-z0-9._:\-]*/|\[[0-9a-f:.]+\](?::[0-9]+)?/){0,2}"
    r"(?:(?:\.well-known/)?jwks\.json|\.well-known/aauth-(?:(?:agent|resource)(?:\.json)?|revoked-tokens\.json))",
    re.ASCII,
)


class TreeError(Exception):
    """The files cannot be written as asked; the text says why."""


def check_path(path: str) -> str:
    """Return a path below the directory, as it is. Raises TreeError for any that keyd does not write."""
    if not _PATH.fullmatch(path):
        raise TreeError(f"{path!r} is no file that keyd writes")
    return path


def is_there(target: Path, data: bytes) -> bool:
    """Say whether a file is there that has this content. Raises OSError."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return not target.is_symlink() and target.read_bytes() == data
    return False


def write(target: Path, data: bytes) -> bool:
    """Write a file whole or not at all, readable for all; say whether it was another before. Raises OSError."""
    if is_there(target, data):
        return False
    _make_directory(target.parent)
    descriptor, name = tempfile.mkstemp(prefix=".keyd-", suffix=".tmp", dir=target.parent)
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


def remove(target: Path) -> bool:
    """Remove a file; say whether there was one. Raises OSError."""
    try:
        target.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    _sync(target.parent)
    return True


class Tree:
    """A directory of documents. Methods raise OSError, TreeError."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextmanager
    def locked(self) -> Iterator[Tree]:
        """Be the only one who writes there."""
        _make_directory(self._root)
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TreeError(f"another keyd jwks writes to {self._root}") from None
            self._tidy()
            yield self
        finally:
            os.close(descriptor)

    def changes(self, documents: Mapping[str, bytes], kept: Iterable[str], gone: Iterable[str]) -> set[str]:
        """Return the paths that :meth:`update` writes or takes away."""
        before = self._known()
        written = {path for path, data in documents.items() if not is_there(self._root / check_path(path), data)}
        return written | (before - _staying(before, documents, kept, gone))

    def update(
        self, documents: Mapping[str, bytes], kept: Iterable[str], gone: Iterable[str], done: Callable[[str], None]
    ) -> dict[str, OSError]:
        """Write what is another, and take away what was written before and is not there now, or is ``gone``.

        What begins with one of ``kept`` stays. Where one fails the others are written all the same.

        Args:
            done: is told the path of each that was written or taken away, at once.

        Returns:
            What failed, by path.
        """
        before = self._known()
        wanted = {check_path(path) for path in documents}
        staying = _staying(before, documents, kept, gone)
        # On record before it is there, so that a crash leaves no file that nobody takes away.
        self._note(before | wanted)
        failed: dict[str, OSError] = {}
        for path in sorted(before | wanted):
            try:
                changed = path not in staying and self._remove(self._root / path)
                changed |= path in wanted and write(self._root / path, documents[path])
            except OSError as exc:
                failed[path] = exc
                staying.add(path)
                continue
            if changed:
                done(path)
        self._note(staying)
        return failed

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

    def _tidy(self) -> None:
        """Remove what one that was killed while it wrote has left."""
        for directory in {self._root, *((self._root / path).parent for path in self._known())}:
            for left in directory.glob(".keyd-*.tmp"):
                left.unlink(missing_ok=True)

    def _note(self, paths: set[str]) -> None:
        write(self._root / MANIFEST, json.dumps({"files": sorted(paths)}, indent=0).encode())

    def _remove(self, target: Path) -> bool:
        removed = remove(target)
        for directory in target.parents:
            if directory == self._root:
                break
            with contextlib.suppress(OSError):  # something else is in it
                directory.rmdir()
        return removed


def _staying(before: set[str], documents: Mapping[str, bytes], kept: Iterable[str], gone: Iterable[str]) -> set[str]:
    return {path for path in before if path.startswith(tuple(kept))} - set(gone) | documents.keys()


def _make_directory(path: Path) -> None:
    """Make a directory and those above it, for all to look into: whoever serves the files is somebody else."""
    if path.is_dir():
        return
    _make_directory(path.parent)
    path.mkdir(exist_ok=True)
    path.chmod(0o755)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
