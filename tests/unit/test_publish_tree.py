"""JWK Sets as files: whole or not at all, and nothing of others taken away."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path

import pytest

from keyd.cli import publish_tree
from keyd.cli.publish_tree import MANIFEST, Tree, TreeError, check_path, write


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_a_file_is_whole_and_for_all_to_read(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "jwks.json"
    previous = os.umask(0o077)
    try:
        assert write(target, b"one")
    finally:
        os.umask(previous)
    assert (target.read_bytes(), stat.S_IMODE(target.stat().st_mode)) == (b"one", 0o644)
    assert {stat.S_IMODE(each.stat().st_mode) for each in (target.parent, target.parent.parent)} == {0o755}  # to look into, too
    number = target.stat().st_ino
    assert not write(target, b"one")
    assert target.stat().st_ino == number
    assert write(target, b"two")
    assert target.stat().st_ino != number  # who has the old one open reads it to its end


def test_when_it_cannot_be_written_the_old_one_stays_and_nothing_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "jwks.json"
    write(target, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(publish_tree.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(target, b"new")
    assert (target.read_bytes(), files(tmp_path)) == (b"old", {"jwks.json"})


def test_a_link_is_replaced_and_what_it_led_to_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"mine")
    (tmp_path / "jwks.json").symlink_to("elsewhere")
    assert write(tmp_path / "jwks.json", b"mine")
    assert not (tmp_path / "jwks.json").is_symlink()
    write(tmp_path / "jwks.json", b"new")
    assert (tmp_path / "elsewhere").read_bytes() == b"mine"


def update(
    tree: Tree, documents: dict[str, bytes], kept: Iterable[str], gone: Iterable[str] = ()
) -> tuple[list[str], list[str], list[str]]:
    """Return what was written, what was taken away, and what failed; what was foretold is what was done or failed."""
    foretold, done = tree.changes(documents, kept, gone), []
    failed = tree.update(documents, kept, gone, done.append)
    assert foretold == {*done, *failed}
    return [path for path in done if path in documents], [path for path in done if path not in documents], sorted(failed)


class TestTree:
    def test_files_of_keys_that_are_gone_go_and_no_others(self, tmp_path: Path) -> None:
        tree = Tree(tmp_path)
        first = {"keys/a/jwks.json": b"a", "keys/b/jwks.json": b"b", "h.example:8443/.well-known/jwks.json": b"h"}
        assert update(tree, first, ()) == (sorted(first), [], [])
        (tmp_path / "keys" / "mine").mkdir()
        for mine in ("keys/mine/jwks.json", "keys/a/note"):
            (tmp_path / mine).write_bytes(b"mine")
        assert update(tree, {"keys/b/jwks.json": b"b"}, ()) == (
            [],
            ["h.example:8443/.well-known/jwks.json", "keys/a/jwks.json"],
            [],
        )
        assert files(tmp_path) == {MANIFEST, "keys/b/jwks.json", "keys/mine/jwks.json", "keys/a/note"}
        assert not (tmp_path / "h.example:8443").exists()
        assert update(tree, {}, ()) == ([], ["keys/b/jwks.json"], [])
        assert files(tmp_path) == {MANIFEST, "keys/mine/jwks.json", "keys/a/note"}

    def test_what_is_kept_stays_and_goes_later(self, tmp_path: Path) -> None:
        tree = Tree(tmp_path)
        update(tree, {"keys/a/jwks.json": b"a", ".well-known/jwks.json": b"all"}, ())
        assert update(tree, {}, {"keys/"}) == ([], [".well-known/jwks.json"], [])
        assert update(tree, {}, {""}) == ([], [], [])
        assert update(tree, {}, ()) == ([], ["keys/a/jwks.json"], [])

    def test_a_crash_leaves_no_file_that_nobody_takes_away(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        original = publish_tree.write

        def crash(target: Path, data: bytes) -> bool:
            original(target, data)
            if target.name != MANIFEST:
                raise KeyboardInterrupt
            return True

        with monkeypatch.context() as patch:
            patch.setattr(publish_tree, "write", crash)
            with pytest.raises(KeyboardInterrupt):
                update(Tree(tmp_path), {"keys/a/jwks.json": b"a"}, ())
        assert update(Tree(tmp_path), {}, ()) == ([], ["keys/a/jwks.json"], [])

    def test_what_is_gone_goes_whatever_is_kept_and_what_others_wrote_does_not(self, tmp_path: Path) -> None:
        tree = Tree(tmp_path)
        update(tree, {"keys/a/jwks.json": b"a", ".well-known/jwks.json": b"all"}, ())
        (tmp_path / "keys" / "b").mkdir()
        (tmp_path / "keys" / "b" / "jwks.json").write_bytes(b"mine")
        gone = {"keys/a/jwks.json", "keys/b/jwks.json"}
        assert update(tree, {}, {""}, gone) == ([], ["keys/a/jwks.json"], [])
        assert files(tmp_path) == {MANIFEST, ".well-known/jwks.json", "keys/b/jwks.json"}

    def test_one_that_cannot_be_written_keeps_no_other_from_it(self, tmp_path: Path) -> None:
        tree = Tree(tmp_path)
        update(tree, {"keys/a/jwks.json": b"a", "keys/c/jwks.json": b"c", "keys/d/jwks.json": b"d"}, ())
        (tmp_path / "keys" / "b").write_text("a file in the way")
        (tmp_path / "keys" / "c" / "jwks.json").unlink()
        (tmp_path / "keys" / "c" / "jwks.json").mkdir()
        wanted = {"keys/a/jwks.json": b"A", "keys/b/jwks.json": b"B", "keys/e/jwks.json": b"E"}
        assert tree.update(wanted, (), (), lambda _: None).keys() == {"keys/b/jwks.json", "keys/c/jwks.json"}
        assert (tmp_path / "keys" / "a" / "jwks.json").read_bytes() == b"A"
        assert files(tmp_path) == {MANIFEST, "keys/a/jwks.json", "keys/b", "keys/e/jwks.json"}
        (tmp_path / "keys" / "b").unlink()
        (tmp_path / "keys" / "c" / "jwks.json").rmdir()
        assert tree.update(wanted, (), (), lambda _: None) == {}
        assert files(tmp_path) == {MANIFEST, *wanted}

    def test_what_a_kill_left_is_tidied_up(self, tmp_path: Path) -> None:
        update(Tree(tmp_path), {"keys/a/jwks.json": b"a"}, ())
        for left in (tmp_path / ".keyd-x.tmp", tmp_path / "keys" / "a" / ".keyd-y.tmp"):
            left.touch()
        with Tree(tmp_path).locked():
            assert files(tmp_path) == {MANIFEST, "keys/a/jwks.json"}

    @pytest.mark.parametrize(
        "content",
        [
            "",
            "[]",
            '{"files": 1}',
            '{"files": [1]}',
            '{"files": ["../etc/passwd"]}',
            '{"files": ["/etc/jwks.json"]}',
            '{"files": ["keys/../../x/jwks.json"]}',
            '{"files": ["keys/../jwks.json"]}',
            '{"files": ["note"]}',
            "[" * 100_000,
        ],
    )
    def test_a_manifest_of_others_takes_nothing_away(self, tmp_path: Path, content: str) -> None:
        (tmp_path / MANIFEST).write_text(content)
        (tmp_path / "note").write_text("mine")
        with pytest.raises(TreeError, match="not as keyd wrote it"):
            update(Tree(tmp_path), {"keys/a/jwks.json": b"a"}, ())
        assert files(tmp_path) == {MANIFEST, "note"}

    def test_one_writer_at_a_time(self, tmp_path: Path) -> None:
        with Tree(tmp_path).locked(), pytest.raises(TreeError, match="another keyd jwks"), Tree(tmp_path).locked():
            pass
        with Tree(tmp_path / "new" / "one").locked() as tree:
            update(tree, {".well-known/jwks.json": b"x"}, ())
        assert json.loads((tmp_path / "new" / "one" / MANIFEST).read_text()) == {"files": [".well-known/jwks.json"]}


@pytest.mark.parametrize(
    "path", ["jwks.json", ".well-known/jwks.json", "keys/A.b_c-1/jwks.json", "[2001:db8::1]:8443/.well-known/jwks.json"]
)
def test_paths_that_are_written(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize(
    "path", ["", "/jwks.json", "../jwks.json", "keys/../jwks.json", "keys/.a/jwks.json", "a/b/c/jwks.json", "x"]
)
def test_paths_that_are_not(path: str) -> None:
    with pytest.raises(TreeError):
        check_path(path)
