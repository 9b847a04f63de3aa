"""``keyd jwks --out``: writing what the daemon publishes, once or for as long as it changes."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keyd.cli import output
from keyd.cli.publish import Fetched, Source
from keyd.cli.publish_program import Program
from keyd.cli.publish_tree import Tree, TreeError, is_there, remove, write

if TYPE_CHECKING:
    from keyd.client import JwkSet
    from keyd.client.model import WellKnownDocument

PAUSE = 1.0  # seconds between two looks at the daemon
LONGEST_PAUSE = 30.0  # while it does not answer, or the files cannot be written
RECHECK = 300.0  # after that much all is fetched and compared, whether or not a change was seen: grants and files change, too
MEDIA_TYPE, JSON = "application/jwk-set+json", "application/json"


class Publisher:
    """Writes sets to a file or a directory, tells of each, and runs a program after changes.

    Args:
        out: a directory, or a file for the only set that its source has.
        tree: the directory, if it is one.
        program: is run without a shell as ``program out``, with a JSON object for each file that changed on its standard input.
        as_json: how each file is told of.

    Raises:
        TreeError: what the program has yet to be told of cannot be read.
    """

    def __init__(self, out: Path, tree: Tree | None, program: Path | None, *, as_json: bool) -> None:
        self._out, self._tree, self._as_json = out, tree, as_json
        self._program = Program(program, out, is_tree=tree is not None) if program is not None else None
        self._known: dict[str, dict[str, Any]] = {}
        self._failed: dict[str, OSError] = {}

    def publish(self, fetched: Fetched, *, all_files: bool) -> None:
        """Write what changed, and run the program. With ``all_files`` tell of the others too.

        Raises:
            OSError, TreeError: some of it failed. All that could be done is done.
        """
        bodies = {path: found.document for path, found in fetched.files.items()}
        self._known = {path: _told(path, found) for path, found in fetched.files.items()}
        changed: set[str] = set()

        def done(path: str) -> None:
            changed.add(path)
            self._tell(self._known.get(path, {"path": path, "removed": True}), changed=True)

        if self._program is not None:
            self._program.expect(self._changes(fetched, bodies))
        self._failed = self._write(fetched, bodies, done)
        for path in sorted(self._known.keys() - changed) if all_files and not self._failed else ():
            self._tell(self._known[path], changed=False)
        self.run_program()
        for failure in self._failed.values():
            raise failure

    def run_program(self) -> None:
        """Run the program, if there is anything that it was not told of. Raises OSError, and TreeError where it fails."""
        if self._program is not None:
            self._program.run(self._known, self._failed)

    def _changes(self, fetched: Fetched, bodies: dict[str, bytes]) -> set[str]:
        if self._tree is not None:
            return self._tree.changes(bodies, fetched.kept, fetched.gone)
        return {path for path, body in bodies.items() if not is_there(self._out, body)} | (
            fetched.gone if self._out.exists() else set()
        )

    def _write(self, fetched: Fetched, bodies: dict[str, bytes], done: Callable[[str], None]) -> dict[str, OSError]:
        if self._tree is not None:
            return self._tree.update(bodies, fetched.kept, fetched.gone, done)
        for path, body in bodies.items():
            if write(self._out, body):
                done(path)
        for path in fetched.gone:
            if remove(self._out):
                done(path)
        return {}

    def _tell(self, told: dict[str, Any], *, changed: bool) -> None:
        if self._as_json:
            click.echo(json.dumps({**told, "changed": changed}))
        elif "removed" in told:
            click.echo(f"removed {told['path']}")
        else:
            click.echo(f"{'wrote' if changed else 'unchanged'} {told['path']} {told['etag']} {told['cache_control']}")


def _told(path: str, found: JwkSet | WellKnownDocument) -> dict[str, Any]:
    return {
        "path": path,
        "etag": found.etag,
        "cache_control": f"public, max-age={found.max_age}",
        "content_type": MEDIA_TYPE if path.endswith("jwks.json") else JSON,
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
    output.warn(text for text, _ in fetched.failures)
    publisher.publish(fetched, all_files=True)
    return max((code for _, code in fetched.failures), default=0)


def watch(source: Source, publisher: Publisher, stop: Stop) -> None:
    """Write what changes until SIGTERM. Whatever fails is told once, and tried again; files that were written stay meanwhile."""
    from keyd.client import KeydClientError

    written: object = None
    said: list[tuple[str, int]] = []
    trouble, pause, recheck = "", PAUSE, 0.0
    while not stop.asked:
        try:
            looked = source.look().seen
            if looked != written or time.monotonic() >= recheck:
                written = None
                fetched = source.fetch()
                if fetched.failures != said:
                    output.warn(text for text, _ in fetched.failures)
                said = fetched.failures
                publisher.publish(fetched, all_files=False)
                # Not what was looked at before: it may have changed meanwhile, and change back.
                written, recheck = fetched.seen, time.monotonic() + RECHECK
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
