"""``keyd jwks --on-change``: a program that is told of each changed file until it has taken it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

from keyd.cli.publish_tree import TreeError, check_path, write

PATIENCE = 300.0  # seconds that a run may take: meanwhile nothing is written
_RECORD = "keyd-not-passed-on.json"
_LARGEST = 64 * 1024 * 1024


class Program:
    """An operator's program, and which files it has yet to be told of.

    Those are on record before they change, so that neither a crash nor a restart keeps one from it.

    Args:
        out: is its argument.
        is_tree: whether ``out`` is a directory of files, or the only file.
    """

    def __init__(self, program: Path, out: Path, *, is_tree: bool) -> None:
        self._program, self._out, self._is_tree = program, out, is_tree
        self._record = out / f".{_RECORD}" if is_tree else out.with_name(f".{out.name}.{_RECORD}")
        self._waiting = self._read()

    def expect(self, paths: Iterable[str]) -> None:
        """Note which files are about to change. Raises OSError."""
        self._note(self._waiting | set(paths))

    def run(self, known: dict[str, dict[str, Any]], failed: Container[str]) -> None:
        """Tell it of the files that changed: of those that are ``known`` as is said there, and of those that are no longer there.

        Nothing is said of those that ``failed``: they are as they were.

        Raises:
            OSError, TreeError: it is to be told again.
        """
        waiting = {path for path in self._waiting if path not in failed}
        told = {path: known[path] for path in waiting if path in known}
        told |= {path: {"path": path, "removed": True} for path in waiting if path not in told and self._is_gone(path)}
        if not told:
            return
        self._call("".join(json.dumps(told[path]) + "\n" for path in sorted(told)))
        self._note(self._waiting - told.keys())

    def _call(self, lines: str) -> None:
        try:
            # A group of its own, so that what it started ends with it.
            process = subprocess.Popen([self._program, self._out], stdin=subprocess.PIPE, process_group=0)  # noqa: S603 - the operator's program, no shell
        except OSError as exc:
            raise TreeError(f"{self._program} cannot be run: {exc.strerror}") from None
        with process:
            try:
                process.communicate(lines.encode(), PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise TreeError(
                    f"{self._program} was stopped after {PATIENCE:g} s; the files are written, and not passed on"
                ) from None
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        if process.returncode:
            raise TreeError(f"{self._program} ended with {process.returncode}; the files are written, and not passed on")

    def _is_gone(self, path: str) -> bool:
        return not (self._out / path if self._is_tree else self._out).exists()

    def _read(self) -> set[str]:
        try:
            with self._record.open("rb") as file:
                paths = json.loads(file.read(_LARGEST))
            return {check_path(path) if self._is_tree else self._out.name for path in paths}
        except (FileNotFoundError, NotADirectoryError):
            return set()
        except (ValueError, TypeError, RecursionError, TreeError):
            raise TreeError(f"{self._record} is not as keyd wrote it; remove it, and run {self._program} on all files") from None

    def _note(self, paths: set[str]) -> None:
        if paths:
            write(self._record, json.dumps(sorted(paths), indent=0).encode())
        else:
            self._record.unlink(missing_ok=True)
        self._waiting = paths
