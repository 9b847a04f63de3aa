"""The audit trail: what is written, what happens when it cannot be, and what others do to its file."""

from __future__ import annotations

import asyncio
import json
import os
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from audit_support import PRINCIPAL, World, decision
from support import START, until

from keyd.core.audit.record import GENESIS, digest
from keyd.core.audit.trail import Rules
from keyd.core.errors import AuditError, BackendUnavailableError
from keyd.core.principal import Principal


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path / "audit")
    await world.start()
    yield world
    await world.crash()


async def test_a_record_says_who_had_what_signed(world: World) -> None:
    assert world.trail.write(decision(1, at=START + 1.25)) is None
    start, line = world.lines()
    assert json.loads(line) == {
        "seq": 2,
        "time": "2027-01-15T08:00:01.250000Z",
        "operation": "sign",
        "principal": {
            "identity": "uid:1000 executable:/usr/bin/agent unit:shop.service",
            "uid": 1000,
            "gid": 1000,
            "pid": 77,
            "executable": "/usr/bin/agent",
            "unit": "shop.service",
        },
        "decision": "allow",
        "key": "agent",
        "kid": "kid-1",
        "version": 1,
        "purpose": "http",
        "grant": "shop",
        "method": "GET",
        "authority": "api.example",
        "path": "/1",
        "created": int(START),
        "sha256": "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b",
        "latency_us": 100,
        "prev": digest(start[:-1]),
    }
    first = json.loads(start)
    assert (first["seq"], first["operation"], first["version"], first["prev"]) == (1, "start", "1.0", GENESIS)
    assert world.path.stat().st_mode & 0o777 == 0o600
    assert world.directory.stat().st_mode & 0o777 == 0o700


async def test_a_refusal_says_why_and_only_what_is_known(world: World) -> None:
    bare = decision(1, key=None, kid=None, version=None, purpose=None, grant=None, method=None, authority=None, path=None)
    bare.created = bare.digest = None
    bare.principal, bare.reason, bare.detail = Principal(), "GRANT", "no grant"
    world.trail.write(bare)
    record = json.loads(world.lines()[-1])
    assert record.keys() == {"seq", "time", "operation", "principal", "decision", "reason", "detail", "latency_us", "prev"}
    assert record["principal"] == {"identity": "loopback"}
    assert (record["decision"], record["reason"]) == ("deny", "GRANT")


async def test_what_is_hostile_is_cut_and_escaped_and_stays_one_line(world: World) -> None:
    hostile = "\n\x1b[2J\u2028" * 1000
    principal = Principal(uid=1, executable="/tmp/\udcff\n" + "x" * 5000)
    claims = tuple(hostile for _ in range(100))
    world.trail.write(decision(1, path=hostile, authority=hostile, detail=hostile, typ=hostile, issuer=hostile, audience=claims))
    world.trail.write(decision(2, principal=principal, created=10**30))
    lines = world.lines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= 7681
    record = json.loads(lines[1])
    assert record["path"].endswith("\u2026[cut, 6000 characters]")
    assert (len(record["aud"]), record["aud_count"]) == (8, 100)
    assert json.loads(lines[2])["principal"]["executable"].startswith("/tmp/\\udcff\n")
    assert world.verify().sound


async def test_records_reach_the_disk_by_themselves(world: World) -> None:
    world.trail.write(decision())
    await until(lambda: world.trail.synced == world.trail.head.seq)


async def test_waiting_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    good = os.fdatasync
    world = World(tmp_path, Rules(wait_for_sync=True))
    await world.start()
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(good(fd)))
    waits = [world.trail.write(decision(number)) for number in range(50)]
    assert all(wait is not None for wait in waits)
    cancelled = asyncio.ensure_future(waits[0])  # type: ignore[arg-type]
    cancelled.cancel()
    await asyncio.wait_for(asyncio.gather(*waits[1:]), 10)  # type: ignore[arg-type]
    assert 1 <= len(synced) < 10, "many records, few syncs"
    await world.crash()


async def test_a_failed_sync_is_never_believed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, Rules(wait_for_sync=True))
    await world.start()
    await world.trail.sync()
    before = world.trail.synced

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        wait = world.trail.write(decision(1))
        assert wait is not None
        with pytest.raises(AuditError, match="Input/output error"):
            await wait
        for _ in range(2):
            with pytest.raises(AuditError):
                world.trail.write(decision(2))
        assert "Input/output" in str(world.trail.failure)
    await world.trail.sync()
    assert world.trail.synced == before, "that the next sync succeeds proves nothing"
    world.trail._next_try = 0
    wait = world.trail.write(decision(3))
    assert wait is not None
    await wait
    assert world.trail.failure is None
    gaps = [json.loads(line) for line in world.lines() if b'"gap"' in line]
    assert [gap["what"] for gap in gaps] == ["reopened", "unrecorded"]
    assert (gaps[0]["synced"], gaps[1]["count"]) == (before, 2)
    await world.crash()
    assert world.verify().sound


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


class Full:
    """A file size limit, which cuts a write short like a disk that is full."""

    def __init__(self, room: int, path: Path) -> None:
        self.limit = path.stat().st_size + room

    def __enter__(self) -> None:
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, self.before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


@pytest.mark.parametrize("room", [0, 1, 100])
async def test_without_room_nothing_is_allowed_and_nothing_is_torn(world: World, room: int) -> None:
    world.trail.write(decision(1))
    with Full(room, world.path):
        for number in range(3):
            with pytest.raises(AuditError, match=r"nothing is done without it"):
                world.trail.write(decision(number))
        assert world.path.read_bytes().endswith(b"}\n")
        assert len(world.lines()) == 2
    world.trail.write(decision(4))
    _, _, gap, two = world.lines()
    assert json.loads(gap)["count"] == 3
    assert json.loads(two)["path"] == "/4"
    assert world.verify().sound


async def test_going_on_without_is_counted(tmp_path: Path) -> None:
    world = World(tmp_path, Rules(on_failure="continue"))
    await world.start()
    with Full(10, world.path):
        assert [world.trail.write(decision(number)) for number in range(5)] == [None] * 5
        assert world.trail.failure
    world.trail.write(decision(6))
    assert world.trail.failure is None
    gap = json.loads(world.lines()[1])
    assert (gap["operation"], gap["what"], gap["count"], gap["on_failure"]) == ("gap", "unrecorded", 5, "continue")
    await world.crash()
    report = world.verify()
    assert report.sound
    assert "5 decisions could not be recorded, and keyd went on without" in report.notes[0]


async def test_a_restart_continues_the_chain(tmp_path: Path) -> None:
    world = World(tmp_path)
    for run in range(3):
        await world.start()
        world.trail.write(decision(run))
        await world.stop()
    report = world.verify()
    assert (report.sound, report.notes, report.records, report.checkpoints) == (True, [], 12, 3)
    assert report.signed == 11, "the last checkpoint, record 12, covers everything before it"


FORGED = b'{"seq":3,"time":"","operation":"x","prev":"%b"}' % GENESIS.encode()


@pytest.mark.parametrize("torn", [FORGED, b'{"seq":3,"ti', b"\0" * 5000, b'{"seq":3}\n\n\n{"', b"\n"])
async def test_a_torn_line_stays_as_evidence(tmp_path: Path, torn: bytes) -> None:
    world = World(tmp_path)
    await world.start()
    world.trail.write(decision(1))
    await world.crash()
    with world.path.open("ab") as file:
        file.write(torn)
    await world.start()
    world.trail.write(decision(2))
    await world.stop()
    assert torn in world.path.read_bytes()
    report = world.verify()
    assert report.sound
    assert any("torn line" in note for note in report.notes)


async def test_a_line_whose_newline_alone_is_missing_is_a_record(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    world.trail.write(decision(1))
    await world.crash()
    world.path.write_bytes(world.path.read_bytes()[:-1])
    await world.start()
    await world.stop()
    assert [json.loads(line)["seq"] for line in world.lines()] == [1, 2, 3, 4, 5]
    assert world.verify().notes == []


async def test_a_cut_tail_is_found_at_the_next_start(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    for number in range(5):
        world.trail.write(decision(number))
    await world.stop()
    world.path.write_bytes(b"".join(world.lines()[:4]))
    world.rules = Rules(on_gap="refuse")
    with pytest.raises(AuditError, match="ends at record 4, and record 8 was signed"):
        await world.start()
    world.trail._thread.shutdown()
    world.trail._file.close()  # type: ignore[union-attr]
    world.rules = Rules()
    await world.start()
    await world.stop()
    gap = json.loads(world.lines()[4])
    assert (gap["seq"], gap["what"], gap["found"], gap["expected"]) == (9, "cut", 4, 8)
    findings = [str(finding) for finding in world.verify().findings]
    assert findings[0] == "audit.jsonl line 5: records 5 to 8 are missing between records 4 and 9"


async def test_a_changed_tail_is_found_at_the_next_start(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.stop()
    lines = world.lines()
    world.path.write_bytes(b"".join([*lines[:-1], lines[-1].replace(b"T", b"t", 1)]))
    await world.start()
    await world.crash()
    assert json.loads(world.lines()[3])["what"] == "altered"
    assert not world.verify().sound


async def test_rotation_by_size_keeps_the_chain(tmp_path: Path) -> None:
    world = World(tmp_path, Rules(sync_interval=0.001, max_file_size=2000))
    await world.start()
    world.checkpointer.start()
    for number in range(60):
        world.trail.write(decision(number))
        await asyncio.sleep(0.002)
    await world.stop()
    files = names(tmp_path)
    assert len(files) > 3
    assert files[0] == "audit-000000000001.jsonl"
    report = world.verify()
    assert report.sound and report.notes == []
    first = (tmp_path / files[0]).read_bytes().splitlines()[-1]
    assert json.loads(first)["operation"] == "checkpoint", "a file ends with a signature"
    (tmp_path / files[1]).unlink()
    assert "missing between records" in str(world.verify().findings[0])


async def test_rotation_by_age(tmp_path: Path) -> None:
    world = World(tmp_path, Rules(max_file_age=60))
    await world.start()
    assert not world.trail.rotation_due
    world.clock.advance(61)
    assert world.trail.rotation_due
    world.trail.rotate()
    assert not world.trail.rotation_due
    await world.stop()
    assert world.verify().sound


async def test_keeping_the_newest_only_is_on_record(tmp_path: Path) -> None:
    world = World(tmp_path, Rules(keep=2))
    await world.start()
    for number in range(5):
        world.trail.write(decision(number))
        assert await world.checkpointer.make(rotate=True)
    await world.stop()
    assert len(names(tmp_path)) == 3
    report = world.verify()
    assert report.sound
    assert "the trail begins with record" in report.notes[0]
    (tmp_path / names(tmp_path)[0]).unlink()
    assert "a file before record" in str(world.verify().findings[0])


async def test_a_crash_between_the_two_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    await world.start()
    world.trail.write(decision(1))
    world.path.rename(tmp_path / "audit-000000000001.jsonl")
    (tmp_path / ".audit.next").write_bytes(b'{"seq":3}\n')
    await world.crash()
    await world.start()
    await world.stop()
    assert not (tmp_path / ".audit.next").exists()
    assert world.verify().sound


async def test_a_directory_that_cannot_be_changed_stops_the_rotation_and_not_the_records(tmp_path: Path) -> None:
    world = World(tmp_path, Rules(max_file_size=1000))
    await world.start()
    (tmp_path / ".audit.next/x").mkdir(parents=True)  # in the way: root is stopped by no mode
    for number in range(5):
        world.trail.write(decision(number))
    assert world.trail.rotation_due
    world.trail.rotate()
    world.trail.write(decision(6))
    assert names(tmp_path) == [".audit.next", "audit.jsonl"]
    (tmp_path / ".audit.next/x").rmdir()
    (tmp_path / ".audit.next").rmdir()
    world.trail.rotate()
    await world.stop()
    assert len(names(tmp_path)) == 2
    assert world.verify().sound


async def test_log_rotation_by_others(world: World) -> None:
    world.trail.write(decision(1))
    world.path.rename(world.directory / "audit.jsonl.1")
    world.trail.write(decision(2))
    await world.trail.sync()
    world.trail.write(decision(3))
    assert json.loads(world.lines()[0])["operation"] == "rotate"
    report = world.verify()
    assert report.sound and report.records == 5


@pytest.mark.parametrize("how", ["removed", "replaced", "truncated"])
async def test_what_others_do_to_the_file_is_on_record(world: World, how: str) -> None:
    for number in range(3):
        world.trail.write(decision(number))
    await world.trail.sync()
    if how == "truncated":
        os.truncate(world.path, world.path.stat().st_size - 100)
    else:
        world.path.unlink()
    if how == "replaced":
        world.path.write_bytes(b"something else")
    world.trail.write(decision(4))
    await world.trail.sync()
    world.trail.write(decision(5))
    gap = next(json.loads(line) for line in world.lines() if b'"gap"' in line)
    assert gap["what"] == how
    report = world.verify()
    assert not report.sound
    assert any(f"record {gap['seq']}: " in note for note in report.notes)


async def test_a_directory_that_is_gone_is_made_again(world: World) -> None:
    world.trail.write(decision(1))
    world.path.unlink()
    world.directory.rmdir()
    await world.trail.sync()
    assert world.trail.failure
    world.trail._next_try = 0
    world.trail.write(decision(2))
    assert json.loads(world.lines()[0])["what"] == "reopened"
    assert not world.verify().sound


async def test_a_trail_that_cannot_be_opened_refuses_until_it_can(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("in the way")
    world = World(tmp_path / "audit")
    await world.start()
    with pytest.raises(AuditError):
        world.trail.write(decision(1))
    (tmp_path / "audit").unlink()
    world.trail._next_try = 0
    world.trail.write(decision(2))
    assert [json.loads(line)["operation"] for line in world.lines()] == ["start", "gap", "sign"]
    await world.stop()
    assert world.verify().sound


async def test_a_file_that_is_a_link_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir()
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / "audit/audit.jsonl").symlink_to(tmp_path / "elsewhere")
    world = World(tmp_path / "audit")
    await world.start()
    with pytest.raises(AuditError):
        world.trail.write(decision(1))
    await world.crash()
    assert (tmp_path / "elsewhere").read_text() == ""


async def test_checkpoints_wait_for_the_key_and_signing_does_not(world: World) -> None:
    world.signer.failure = BackendUnavailableError("the HSM is away")
    world.trail.write(decision(1))
    assert not await world.checkpointer.make()
    assert world.store.rows == []
    world.trail.write(decision(2))
    world.signer.failure = None
    assert await world.checkpointer.make()
    assert world.store.rows[0].seq == world.trail.head.seq
    assert world.trail.unsigned == 0
    report = world.verify()
    assert report.sound and report.signed == 3


async def test_the_database_knows_nothing_that_a_crash_could_take(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    world.trail.write(decision(1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        await world.checkpointer.make()
    assert b'"checkpoint"' in world.lines()[-1]
    assert world.store.rows == []


async def test_many_records_bring_a_checkpoint_before_its_time(world: World) -> None:
    world.trail.checkpoint_records = 10
    world.checkpointer.start()
    for number in range(12):
        world.trail.write(decision(number))
    await until(lambda: bool(world.store.rows))
    assert PRINCIPAL.identity not in repr(world.store.rows)
    await world.checkpointer.stop(5)
