"""``keyd jwks --out``: writing what the daemon publishes, once or for as long as it changes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keyd.cli import output
from keyd.cli.publish import Fetched, Source
from keyd.cli.publish_tree import Tree, TreeError, write

if TYPE_CHECKING:
    from keyd.client import JwkSet

PAUSE = 1.0  # seconds between two looks at the daemon
LONGEST_PAUSE = 30.0  # while it does not answer, or the files cannot be written
MEDIA_TYPE = "application/jwk-set+json"


class Publisher:
    """Writes sets to a file or a directory, tells of each, and runs a program after changes.

    Args:
        out: a directory, or a file for the only set that its source has.
        tree: the directory, if it is one.
        program: is run without a shell as ``program out``, with a JSON object for each file that changed on its standard input.
        as_json: how each file is told of.
    """

    def __init__(self, out: Path, tree: Tree | None, program: Path | None, *, as_json: bool) -> None:
        self._out, self._tree, self._program, self._as_json = out, tree, program, as_json
        self._not_told: dict[str, dict[str, Any]] = {}

    def publish(self, fetched: Fetched, *, all_files: bool) -> None:
        """Write what changed. With ``all_files`` tell of the others too. Raises OSError, TreeError."""
        bodies = {path: found.document for path, found in fetched.sets.items()}
        gone: list[str] = []
        if self._tree is None:
            written = [path for path, body in bodies.items() if write(self._out, body)]
        else:
            written, gone = self._tree.update(bodies, fetched.kept)
        changed = {path: _told(path, fetched.sets[path]) for path in written}
        changed |= {path: {"path": path, "removed": True} for path in gone}
        unchanged = {path: _told(path, found) for path, found in fetched.sets.items() if path not in changed}
        for told in changed.values():
            self._tell(told, changed=True)
        for told in unchanged.values() if all_files else ():
            self._tell(told, changed=False)
        self._not_told |= changed
        self.run_program()

    def run_program(self) -> None:
        """Run the program, if there is anything that it was not told of. Raises TreeError where it fails."""
        if self._program is None or not self._not_told:
            return
        lines = "".join(json.dumps(told) + "\n" for told in self._not_told.values())
        try:
            done = subprocess.run([self._program, self._out], input=lines.encode(), check=False)  # noqa: S603 - the operator's program, no shell
        except OSError as exc:
            raise TreeError(f"{self._program} cannot be run: {exc.strerror}") from None
        if done.returncode:
            raise TreeError(f"{self._program} ended with {done.returncode}; the files are written, and not passed on")
        self._not_told.clear()

    def _tell(self, told: dict[str, Any], *, changed: bool) -> None:
        if self._as_json:
            click.echo(json.dumps({**told, "changed": changed}))
        elif "removed" in told:
            click.echo(f"removed {told['path']}")
        else:
            click.echo(f"{'wrote' if changed else 'unchanged'} {told['path']} {told['etag']} {told['cache_control']}")


def _told(path: str, found: JwkSet) -> dict[str, Any]:
    return {
        "path": path,
        "etag": found.etag,
        "cache_control": f"public, max-age={found.max_age}",
        "content_type": MEDIA_TYPE,
        "bytes": len(found.document),
    }


class Stop:
    """SIGTERM as something to wait for: what is under way when it comes is finished first."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Take SIGTERM, from the main thread."""
        self._reader, self._writer = os.pipe()
        before = signal.signal(signal.SIGTERM, self._ask)
        try:
            yield self
        finally:
            signal.signal(signal.SIGTERM, before)
            os.close(self._reader)
            os.close(self._writer)

    def _ask(self, *_: object) -> None:
        if not self.asked:
            self.asked = True
            os.write(self._writer, b"x")

    def wait(self, seconds: float) -> bool:
        """Wait for so long, or until it comes; say whether it did."""
        if not self.asked:
            select.select([self._reader], [], [], seconds)
        return self.asked


def once(source: Source, publisher: Publisher) -> int:
    """Write what there is, and return the exit code. Raises KeydClientError, OSError, TreeError."""
    fetched = source.fetch()
    publisher.publish(fetched, all_files=True)
    for text, _ in fetched.failures:
        output.warn([text])
    return max((code for _, code in fetched.failures), default=0)


def watch(source: Source, publisher: Publisher, stop: Stop) -> None:
    """Write what changes until SIGTERM. Whatever fails is told once, and tried again; files that were written stay meanwhile."""
    from keyd.client import KeydClientError

    written: object = None
    trouble, pause = "", PAUSE
    while not stop.asked:
        try:
            looked = source.look().state
            if looked != written:
                fetched = source.fetch()  # at least as new as what was looked at; what is newer is found at the next look
                publisher.publish(fetched, all_files=False)
                output.warn(text for text, _ in fetched.failures)
                written = looked
            publisher.run_program()
            if trouble:
                output.note("it works again")
            trouble, pause = "", PAUSE
        except (KeydClientError, OSError, TreeError) as exc:
            found = str(exc)
            if found != trouble:
                output.warn([f"{found}; trying again"])
            trouble, pause = found, min(LONGEST_PAUSE, pause * 2)
        stop.wait(pause)
