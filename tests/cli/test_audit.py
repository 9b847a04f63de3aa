"""``keyd audit`` on trails that the real writer wrote."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from audit_support import World, decision
from cli.fake_daemon import FakeDaemon, Run
from support import START

from keyd.cli import errors
from keyd.core import jwk
from keyd.core.audit import search
from keyd.core.store import CheckpointRow, SqlStore
from keyd.v1 import audit_service_pb2 as pb


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A trail of eleven records in three files, a configuration that names it, and its key."""
    world = World(tmp_path / "state/audit")

    async def write() -> None:
        await world.start()
        for number in range(6):
            world.trail.write(decision(number, reason="GRANT" if number == 4 else None, detail="no \x1b[2Jgrant"))
            if number in (1, 3):
                world.trail.rotate()
        await world.stop()

    asyncio.run(write())
    config = tmp_path / "keyd.toml"
    config.write_text(f'[server]\nstate_dir = "{tmp_path}/state"\n')
    monkeypatch.setenv("KEYD_CONFIG", str(config))
    (tmp_path / "key.json").write_text(json.dumps(public(world)))
    return world


def public(world: World) -> dict[str, str]:
    members = json.loads(jwk.from_public_key(world.signer.private.public_key())[0])
    return {**members, "kid": "audit-kid", "alg": "Ed25519"}


def key(world: World) -> str:
    return str(world.directory.parent.parent / "key.json")


def test_verify_a_sound_trail(world: World, run: Run) -> None:
    result = run("audit", "verify", "--key", key(world))
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == (
        "11 records, records 1 to 11, 1 checkpoints, signed up to record 10 at 2027-01-15T08:00:00.000000Z: the chain is whole"
    )
    assert "cannot read the metadata database" in result.stdout


def test_verify_names_what_was_removed(world: World, run: Run) -> None:
    lines = world.lines()
    world.path.write_bytes(b"".join([lines[0], *lines[2:]]))
    result = run("audit", "verify", "--key", key(world))
    assert result.exit_code == errors.FAILURE
    assert result.stdout.splitlines()[0] == "DAMAGED audit.jsonl line 2: record 8 is missing between records 7 and 9"
    assert "NOT SOUND, first: audit.jsonl line 2" in result.stdout.splitlines()[-1]
    document = json.loads(run("audit", "verify", "--json", "--key", key(world)).stdout)
    assert (document["sound"], document["findings"][0]["line"]) == (False, 2)


def test_verify_a_file_that_is_missing(world: World, run: Run) -> None:
    (world.directory / "audit-000000000001.jsonl").unlink()
    result = run("audit", "verify", "--key", key(world))
    assert result.exit_code == errors.FAILURE
    assert "records 1 to 3 are missing: a file before record 4 is not there" in result.stdout
    assert run("audit", "verify", "--key", key(world), "--from", "4").exit_code == 0


def test_verify_a_copy_without_anything_else(world: World, run: Run) -> None:
    result = run("audit", "verify", str(world.path))
    assert result.exit_code == 0
    assert "the signatures of the checkpoints were not checked, because no key was given" in result.stdout
    assert run("audit", "verify", str(world.path), "--key", str(world.path)).exit_code == errors.FAILURE


def test_verify_with_the_database(world: World, run: Run) -> None:
    database = world.directory.parent / "keyd.db"
    store = SqlStore(database)
    for row in world.store.rows:
        store.add_checkpoint(row)
    store.close()
    assert run("audit", "verify", "--key", key(world)).exit_code == 0
    world.path.write_bytes(b"".join(world.lines()[:2]))
    result = run("audit", "verify", "--key", key(world))
    assert result.exit_code == errors.FAILURE
    assert "the end is cut off after record 8: the database knows record 11" in result.stdout
    copy = run("audit", "verify", str(world.directory), "--database", str(database))
    assert "the database knows record 11" in copy.stdout


def test_without_a_key_the_configured_trail_is_not_called_whole(world: World, run: Run) -> None:
    result = run("audit", "verify")
    assert (result.exit_code, result.stdout) == (errors.FAILURE, "")
    assert "cannot read the metadata database" in result.stderr
    assert "--key FILE" in result.stderr
    database = world.directory.parent / "keyd.db"
    SqlStore(database).close()
    for place in ([], [str(world.path), "--database", str(database)]):
        result = run("audit", "verify", *place)
        assert result.exit_code == errors.FAILURE
        assert "signed by kid 'audit-kid', which is none of the keys given" in result.stdout


@pytest.mark.parametrize("document", ["null", "{}", "[]", '{"keys":[]}', '""'])
def test_a_key_file_without_a_key_is_refused(document: str, world: World, run: Run, tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text(document)
    result = run("audit", "verify", str(world.path), "--key", str(tmp_path / "none.json"))
    assert result.exit_code == errors.FAILURE
    assert "the audit key cannot be read" in result.stderr


def test_the_database_keeps_the_newest_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyd.core.store.sql.KEEP_CHECKPOINTS", 3)
    store = SqlStore(tmp_path / "keyd.db")
    assert store.newest_checkpoint() is None
    for number in range(5):
        store.add_checkpoint(CheckpointRow(number, "a" * 64, "/audit", START))
    assert [row.seq for row in store.checkpoints()] == [4, 3, 2]
    store.close()
    with sqlite3.connect(tmp_path / "keyd.db") as database:
        assert database.execute("SELECT count(*) FROM audit_checkpoints").fetchone() == (3,)
    database.close()


def test_verify_against_the_running_daemon(world: World, run: Run, daemon: FakeDaemon) -> None:
    head = world.trail.head
    daemon.head = pb.GetHeadResponse(
        enabled=True, seq=head.seq, digest=head.digest, public_jwks=json.dumps({"keys": [public(world)]})
    )
    assert run("audit", "verify", "--live").exit_code == 0
    daemon.head.seq += 1
    result = run("audit", "verify", "--live")
    assert result.exit_code == errors.FAILURE
    assert "the end is cut off after record 11: the running daemon knows record 12" in result.stdout
    daemon.head.enabled = False
    assert "keeps no audit trail" in run("audit", "verify", "--live").stderr


def test_tail(world: World, run: Run) -> None:
    lines = run("audit", "tail", "-n", "4").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["8", "9", "10", "11"]
    assert lines[0] == (
        "     8 2027-01-15 08:00:04.000Z deny  sign agent uid:1000 executable:/usr/bin/agent unit:shop.service pid:77 "
        "GET api.example /4 grant=shop kid=kid-1 reason=GRANT detail=no \\x1b[2Jgrant 0.1ms"
    )
    assert len(run("audit", "tail").stdout.splitlines()) == 10
    assert run("audit", "tail", "-n", "0").stdout == ""
    found = [json.loads(line) for line in run("audit", "tail", "-n", "1000", "--json").stdout.splitlines()]
    assert [record["seq"] for record in found] == list(range(1, 12))


def followed(directory: Path, stop: threading.Event) -> Iterator[int]:
    def wait() -> None:
        if stop.wait(0.002):
            raise InterruptedError

    try:
        for record in search.follow(directory, 2, wait=wait):
            yield record.seq
    except InterruptedError:
        return


def test_following_goes_on_across_rotations_by_keyd_and_by_others(tmp_path: Path) -> None:
    world, stop, seen = World(tmp_path), threading.Event(), []
    reader = threading.Thread(target=lambda: seen.extend(followed(tmp_path, stop)))
    reader.start()

    async def write() -> None:
        await world.start()
        for number in range(40):
            world.trail.write(decision(number))
            await asyncio.sleep(0.001)
            if number % 20 == 9:
                world.trail.rotate()
            if number % 20 == 19:
                world.path.rename(tmp_path / f"audit.jsonl.{number}")
        await world.stop()

    asyncio.run(write())
    stop.wait(0.1)
    stop.set()
    reader.join()
    assert seen == list(range(3, world.trail.head.seq + 1))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--sha256", hashlib.sha256(b"3").hexdigest().upper() + "  base.txt\n"], [6]),
        (["--sha256", hashlib.sha256(b"99").hexdigest()], []),
        (["--key", "agent"], [2, 3, 5, 6, 8, 9]),
        (["--key", "ag*", "--decision", "deny"], [8]),
        (["--reason", "GRANT"], [8]),
        (["--principal", "uid:1000"], [2, 3, 5, 6, 8, 9]),
        (["--principal", "executable:/usr/bin/*"], [2, 3, 5, 6, 8, 9]),
        (["--principal", "pid:77", "--authority", "*.example"], [2, 3, 5, 6, 8, 9]),
        (["--principal", "uid:100"], []),
        (["--operation", "rotate"], [4, 7]),
        (["--kid", "kid-2"], []),
        (["--since", "2027-01-15T08:00:03Z"], [6, 8, 9]),
        (["--since", "2027-01-15T09:00:03+01:00", "--until", "2027-01-15T08:00:04Z"], [6, 8]),
        (["--since", "1h", "--until", "1h"], []),
    ],
)
def test_grep(options: list[str], expected: list[int], world: World, run: Run) -> None:
    result = run("audit", "grep", *options, "--json")
    assert [json.loads(line)["seq"] for line in result.stdout.splitlines()] == expected, result.output
    assert result.exit_code == (0 if expected else 1)


@pytest.mark.parametrize("options", [["--sha256", "abc"], ["--since", "yesterday"], ["--decision", "maybe"]])
def test_grep_refuses_what_it_does_not_understand(options: list[str], world: World, run: Run) -> None:
    assert run("audit", "grep", *options).exit_code == errors.USAGE


def test_without_a_trail(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "keyd.toml"
    config.write_text(f'[server]\nstate_dir = "{tmp_path}"\n')
    monkeypatch.setenv("KEYD_CONFIG", str(config))
    result = run("audit", "tail")
    assert (result.exit_code, result.stderr) == (1, f"keyd: cannot read {tmp_path}/audit: No such file or directory\n")
    config.write_text("[audit]\nenabled = false\n")
    assert "keeps no audit trail in files" in run("audit", "verify").stderr
