"""``keyd jwks --out --watch``: what is written and passed on when something fails, or changes meanwhile."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from keyd.cli import publish_program, publish_watch
from keyd.cli.publish import Fetched
from keyd.cli.publish_program import Program
from keyd.cli.publish_tree import Tree, TreeError
from keyd.cli.publish_watch import Publisher
from keyd.client import JwkSet
from keyd.client.model import WellKnownDocument

ONE, TWO = "keys/a/jwks.json", "keys/b/jwks.json"


def fetched(*failures: str, **keys: str) -> Fetched:
    found = Fetched({f"keys/{key}/jwks.json": JwkSet(body.encode(), f'"{body}"', 60, {}) for key, body in keys.items()})
    found.failures = [(text, 1) for text in failures]
    return found.note()


class Steps:
    """A daemon of which each look and fetch shows the next thing. It is enough at the last, which stays."""

    def __init__(self, *steps: Fetched) -> None:
        self._steps = list(steps)

    @property
    def asked(self) -> bool:
        return len(self._steps) == 1

    def look(self) -> Fetched:
        return self._steps[0] if self.asked else self._steps.pop(0)

    fetch = look

    def wait(self, seconds: float) -> bool:
        return self.asked


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def watch(out: Path, *steps: Fetched) -> None:
    source = Steps(*steps)
    publish_watch.watch(source, Publisher(out, Tree(out), None, as_json=False), source)  # type: ignore[arg-type]


def test_what_changed_and_changed_back_is_written(tmp_path: Path) -> None:
    first, second = fetched(a="first"), fetched(a="second")
    # Looked at: first. It is the second when it is fetched, and the first again from the next look on.
    watch(tmp_path, first, second, first, first, first)
    assert (tmp_path / ONE).read_bytes() == b"first"


def test_what_only_a_fetch_shows_is_found_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A grant that is given, and a file that somebody removed, change nothing that is looked at."""
    monkeypatch.setattr(publish_watch, "RECHECK", 0.0)
    same = fetched(a="a")
    more = fetched(a="a", b="b")
    more.seen = same.seen
    watch(tmp_path, same, same, same, more, more)
    assert (tmp_path / TWO).read_bytes() == b"b"


def test_what_fails_again_and_again_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(publish_watch, "RECHECK", 0.0)
    watch(tmp_path, *[fetched("not yours", a="a")] * 6)
    assert capsys.readouterr().err == "warning: not yours\n"


def test_what_could_be_written_is_passed_on_though_something_else_could_not(tmp_path: Path) -> None:
    out, seen = tmp_path / "www", tmp_path / "seen"
    publisher = Publisher(out, Tree(out), script(tmp_path / "upload", f"cat >> {seen}"), as_json=False)
    (out / "keys").mkdir(parents=True)
    (out / "keys" / "b").write_text("in the way")
    for _ in range(2):
        with pytest.raises(OSError, match="keys/b"):
            publisher.publish(fetched(a="a", b="b"), all_files=False)
        assert [json.loads(line)["path"] for line in seen.read_text().splitlines()] == [ONE]
    (out / "keys" / "b").unlink()
    publisher.publish(fetched(a="a", b="b"), all_files=False)
    assert [json.loads(line)["path"] for line in seen.read_text().splitlines()] == [ONE, TWO]


def test_a_program_that_hangs_is_stopped_with_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish_program, "PATIENCE", 1.0)
    child = tmp_path / "child"
    program = Program(script(tmp_path / "upload", f"sleep 600 &\necho $! > {child}\nwait"), tmp_path / "x", is_tree=False)
    program.expect(["x"])
    with pytest.raises(TreeError, match="was stopped after 1 s"):
        program.run({"x": {}}, ())
    number = int(child.read_text())
    deadline = time.monotonic() + 20
    while Path(f"/proc/{number}").exists() and " Z " not in Path(f"/proc/{number}/stat").read_text():
        assert time.monotonic() < deadline
        os.sched_yield()
    assert Program(tmp_path / "upload", tmp_path / "x", is_tree=False)._waiting == {"x"}


@pytest.mark.parametrize("content", ["", "{", "1", '["../x"]', "[1]", "[" * 100_000])
def test_a_record_of_others_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / ".keyd-not-passed-on.json").write_text(content)
    with pytest.raises(TreeError, match="not as keyd wrote it"):
        Program(tmp_path / "upload", tmp_path, is_tree=True)


def test_a_document_that_there_is_not_now_stays_as_it_was_written_last() -> None:
    fetched = Fetched()
    there = WellKnownDocument("a.example", "aauth-agent.json", b"{}", '"1"', 60)
    away = WellKnownDocument("a.example", "aauth-revoked-tokens.json", b"", "", 0, "too many")
    fetched.add_documents(JwkSet(b'{"keys":[]}', '"2"', 60, {}, (there, away)), lambda host: f"{host}/")
    assert set(fetched.files) == {"a.example/.well-known/aauth-agent.json"}
    assert fetched.kept == {"a.example/.well-known/aauth-revoked-tokens.json"}
    ((text, code),) = fetched.failures
    assert (text.endswith("stays as it was written last: too many"), code) == (True, 5)
