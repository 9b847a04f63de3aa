"""``keyd backup``: what is printed, what it exits with, and what is asked of people first."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from cli.fake_daemon import Run
from older_databases import KEK, LEFT_OVER, lay_out

from keyd import process
from keyd.cli import errors

CONFIG = """
[server]
state_dir = "{directory}/state"
socket = "{directory}/keyd.sock"
[backends.file]
type = "file"
kek = {{ file = "{directory}/kek" }}
"""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a daemon that does not run, and its configuration."""
    lay_out("0002", tmp_path)
    (tmp_path / "keyd.toml").write_text(CONFIG.format(directory=tmp_path))
    monkeypatch.setenv("KEYD_CONFIG", str(tmp_path / "keyd.toml"))
    monkeypatch.setattr(process, "harden", lambda: ["cannot keep debuggers out"])  # this process shall stay as it is
    return tmp_path


def lose(directory: Path) -> None:
    shutil.rmtree(directory / "state")


def test_create_says_what_is_not_in_it(directory: Path, run: Run) -> None:
    result = run("backup", "create", str(directory / "b"))
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.splitlines() == [
        "warning: cannot keep debuggers out",
        "warning: backend file: the key that its files are encrypted under is not in it; without that they are lost",
    ]


def test_create_replaces_nothing_unasked(directory: Path, run: Run) -> None:
    path = directory / "b"
    path.write_text("precious")
    result = run("backup", "create", str(path))
    assert (result.exit_code, path.read_text()) == (errors.FAILURE, "precious")
    assert f"keyd: {path} exists already; choose another name, or replace it with --force" in result.stderr
    assert run("backup", "create", str(path), "--force").exit_code == 0
    assert run("backup", "verify", str(path)).exit_code == 0


def test_create_fails_without_a_private_key(directory: Path, run: Run) -> None:
    (directory / "state/backends/file/keys/grace.2.key").unlink()
    result = run("backup", "create", str(directory / "b"))
    assert result.exit_code == errors.FAILURE
    assert "keyd: the private key grace.2.key is on record and not in its store" in result.stderr
    assert not (directory / "b").exists()


def test_create_writes_no_backup_to_a_terminal(directory: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyd.cli.output.on_terminal", lambda: True)
    result = run("backup", "create", "-")
    assert (result.exit_code, result.stdout) == (errors.USAGE, "")


def test_verify_shows_what_is_in_it(directory: Path, run: Run) -> None:
    run("backup", "create", str(directory / "b"))
    result = run("backup", "verify", str(directory / "b"))
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].startswith("whole: 12 keys, 20 versions, of ")
    assert "schema 0002" in result.stdout
    document = json.loads(run("backup", "verify", str(directory / "b"), "--json").stdout)
    by_name = {key["name"]: key for key in document["keys"]}
    assert by_name["disabled"]["disabled"]
    assert [version["private_key"] for version in by_name["destroyed"]["versions"]] == [False, True]
    assert by_name["active"]["versions"][0]["kid"] == "active-1"
    assert document["interrupted"] == [{"key": "active", "version": 2}, {"key": "never-made", "version": 1}]


@pytest.mark.parametrize("content", [b"", b"no backup", b"\x1f\x8b\x08\x00"])
def test_verify_of_something_else(content: bytes, directory: Path, run: Run) -> None:
    (directory / "b\x1b[2J").write_bytes(content)
    result = run("backup", "verify", str(directory / "b\x1b[2J"))
    assert (result.exit_code, result.stdout) == (errors.FAILURE, "")
    assert "is no backup of keyd" in result.stderr
    assert "\x1b" not in result.stderr
    assert "No such file" in run("backup", "verify", str(directory / "nothing")).stderr


def test_restore_asks_first(directory: Path, run: Run, terminal: None) -> None:
    run("backup", "create", str(directory / "b"))
    lose(directory)
    result = run("backup", "restore", str(directory / "b"), stdin="n\n")
    assert result.exit_code == errors.FAILURE
    assert "versions stopped since then sign again" in result.stderr
    assert not (directory / "state").exists()


def test_restore_asks_nobody_who_is_not_there(directory: Path, run: Run) -> None:
    run("backup", "create", str(directory / "b"))
    lose(directory)
    assert run("backup", "restore", str(directory / "b")).exit_code == errors.USAGE
    assert not (directory / "state").exists()


def test_restore(directory: Path, run: Run) -> None:
    run("backup", "create", str(directory / "b"))
    there = {path.name for path in (directory / "state").glob("**/*.key")}
    lose(directory)
    result = run("backup", "restore", str(directory / "b"), "--yes", "--disabled", "--skip-numbers", "5")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[0].startswith("restored: 12 keys, 20 versions, as of ")
    assert "there is no audit trail to tell what was done since" in result.stderr
    assert {path.name for path in (directory / "state").glob("**/*.key")} == there - LEFT_OVER
    with closing(sqlite3.connect(directory / "state/keyd.db")) as database:
        assert database.execute("SELECT last FROM version_numbers WHERE key = 'grace'").fetchone() == (7,)
        assert database.execute("SELECT count(*) FROM keys WHERE disabled_at IS NULL").fetchone() == (0,)
    again = run("backup", "restore", str(directory / "b"), "--yes")
    assert again.exit_code == errors.FAILURE
    assert "keyd: the database is not empty (table keys has 12 rows); move it away" in again.stderr


def test_restore_for_programs(directory: Path, run: Run) -> None:
    run("backup", "create", str(directory / "b"))
    lose(directory)
    document = json.loads(run("backup", "restore", str(directory / "b"), "--yes", "--json").stdout)
    assert (document["proved"], document["unproved_backends"], document["audit_trail"]) == (18, [], False)
    assert document["changes_since"] == []


def test_restore_with_the_wrong_key_encryption_key(directory: Path, run: Run) -> None:
    run("backup", "create", str(directory / "b"))
    lose(directory)
    (directory / "kek").chmod(0o600)
    (directory / "kek").write_bytes(KEK[::-1])
    result = run("backup", "restore", str(directory / "b"), "--yes")
    assert result.exit_code == errors.FAILURE
    assert "was encrypted under another key-encryption key" in result.stderr
    assert "Traceback" not in result.stderr
