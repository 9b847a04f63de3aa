"""What an attacker, a log rotation or a log daemon that is away can do to a trail that is being written."""

from __future__ import annotations

import asyncio
import gzip
import os
from pathlib import Path

import pytest
from audit_support import World, decision

from keyd.core.audit import files
from keyd.core.audit.checkpoints import TYPE, CheckpointError, check, compact
from keyd.core.audit.record import Record, event, parse
from keyd.core.audit.sinks import Syslog
from keyd.core.audit.trail import Rules
from keyd.core.errors import AuditError, BackendUnavailableError
from keyd.core.jws import b64url


def operations(world: World) -> list[str]:
    return [record.operation for record in map(parse, world.lines()) if record is not None]


def last(world: World) -> Record:
    record = parse(world.lines()[-1])
    assert record is not None
    return record


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def rotated(directory: Path, rules: Rules | None = None) -> World:
    """Return a trail of several files that is not being written."""
    world = World(directory, rules)
    await world.start()
    for number in range(5):
        world.trail.write(decision(number))
        await world.checkpointer.make(rotate=True)
    await world.stop()
    return world


async def test_removed_files_are_missed_whatever_a_record_behind_says(tmp_path: Path) -> None:
    world = await rotated(tmp_path)
    end = last(world)
    min(files.in_directory(tmp_path)).unlink()
    excuse = event(end.seq + 1, end.digest, end.time, "rotate", {"by": "keyd", "previous": "x", "kept_from": end.seq})
    world.path.write_bytes(world.path.read_bytes() + excuse + b"\n")
    await world.start()
    await world.stop()
    assert "a file before record" in str(world.verify().findings[0]), "keyd has signed what stood there, and not that it is true"


async def test_a_tail_that_was_replaced_by_a_longer_one_is_found_at_the_start(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    world.trail.write(decision(1))
    await world.stop()
    known = last(world)
    lines, before = world.lines()[:-1], parse(world.lines()[-2])
    assert before is not None
    lines.append(event(known.seq + 1, before.digest, known.time, "stop", {}) + b"\n")  # the number that is known is left out
    world.path.write_bytes(b"".join(lines))
    await world.start()
    await world.stop()
    assert operations(world)[-4:] == ["gap", "start", "stop", "checkpoint"]
    assert any("altered or removed" in str(finding) for finding in world.verify().findings)
    world.path.write_bytes(b"".join(lines))
    world.rules = Rules(on_gap="refuse")
    with pytest.raises(AuditError, match="was signed"):
        await world.start()


@pytest.mark.parametrize(("seq", "refused"), [(2**53 - 1, True), (2**53, False), (2**64 - 1, False)])
async def test_a_number_from_somebody_else_never_makes_records_that_are_none(seq: int, refused: bool, tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.stop()
    end = last(world)
    world.path.write_bytes(world.path.read_bytes() + event(seq, end.digest, end.time, "stop", {}) + b"\n")
    await world.start()
    if refused:
        with pytest.raises(AuditError, match="used up"):
            world.trail.write(decision(1))
    else:
        world.trail.write(decision(1))
        assert (last(world).operation, last(world).seq) == ("sign", end.seq + 3), "behind the gap and the start"
    await world.stop()


@pytest.mark.parametrize("added", [b"half a line", b"a line\n"])
async def test_what_others_write_to_the_file_is_on_record_and_costs_no_later_one(added: bytes, tmp_path: Path) -> None:
    world = World(tmp_path, Rules(max_file_size=100))
    await world.start()
    with world.path.open("ab") as file:
        file.write(added)
    await world.trail.sync()
    world.trail.write(decision(1))
    assert operations(world) == ["start", "gap", "sign"]
    world.trail.rotate()
    await world.stop()
    assert (tmp_path / files.rotated_name(1)).exists(), "it still begins with the first record"
    report = world.verify()
    assert not report.sound
    assert "somebody else wrote to the file" in report.notes[0]


async def test_what_comes_after_the_stop_is_refused_and_leaves_the_files_alone(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.stop()
    before = world.path.read_bytes()
    for number in range(3):
        with pytest.raises(AuditError, match="closed"):
            world.trail.write(decision(number))
    assert world.path.read_bytes() == before


async def test_files_are_removed_only_when_a_signature_says_so(tmp_path: Path) -> None:
    world = await rotated(tmp_path, Rules(keep=2))
    assert len(files.in_directory(tmp_path)) == 3
    assert world.verify().sound
    await world.start()
    world.signer.failure = BackendUnavailableError("the HSM is away")
    for number in range(3):
        world.trail.write(decision(number))
        await world.checkpointer.make(rotate=True)
    assert len(files.in_directory(tmp_path)) == 6, "rotated, and nothing removed"
    world.signer.failure = None
    await world.checkpointer.make(rotate=True)
    await world.stop()
    assert len(files.in_directory(tmp_path)) == 3
    assert world.verify().sound
    min(files.in_directory(tmp_path)).unlink()
    assert "a file before record" in str(world.verify().findings[0])


async def test_a_rotation_that_fails_does_not_fill_the_trail_with_checkpoints(tmp_path: Path) -> None:
    world = World(tmp_path, Rules(sync_interval=0.001, max_file_size=1000))
    await world.start()
    world.checkpointer.start()
    (tmp_path / ".audit.next/x").mkdir(parents=True)
    for number in range(5):
        world.trail.write(decision(number))
    await asyncio.sleep(0.3)
    assert operations(world).count("checkpoint") == 1
    await world.stop()


async def test_a_log_alone_that_is_away_at_the_start_is_waited_for(tmp_path: Path) -> None:
    world = World(tmp_path, sinks=[Syslog(tmp_path / "log")])
    world.fileless = True
    await world.start()
    with pytest.raises(AuditError, match="syslog does not take records"):
        world.trail.write(decision(1))
    world.trail._next_try = 0
    with pytest.raises(AuditError, match="syslog does not take records"):
        world.trail.write(decision(1))
    await world.stop()


async def test_a_log_that_is_away_costs_no_descriptors(tmp_path: Path) -> None:
    world = World(tmp_path / "audit", sinks=[Syslog(tmp_path / "log")])
    await world.start()
    before = descriptors()
    for number in range(5):
        world.trail._next_try = 0
        with pytest.raises(AuditError):
            world.trail.write(decision(number))
    assert descriptors() == before
    await world.stop()


@pytest.mark.parametrize("cut", [15, -30])
async def test_a_compression_that_was_interrupted_stops_nothing_and_is_named(cut: int, tmp_path: Path) -> None:
    world = await rotated(tmp_path)
    oldest = min(files.in_directory(tmp_path))
    oldest.with_name(f"{oldest.name}.gz").write_bytes(gzip.compress(oldest.read_bytes())[:cut])
    oldest.unlink()
    await world.start()
    assert world.trail.write(decision(9)) is None
    await world.stop()
    assert any("not compressed to its end" in str(finding) for finding in world.verify().findings)


async def test_a_trail_of_which_only_a_damaged_compressed_file_is_left_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl.1.gz").write_bytes(gzip.compress(b"{}\n" * 100)[:-9])
    world = World(tmp_path)
    await world.start()
    assert world.trail.write(decision(1)) is None
    await world.stop()


async def test_a_copy_beside_the_file_is_not_where_the_trail_ends(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    (tmp_path / "audit.jsonl.bak").write_bytes(world.path.read_bytes())
    world.trail.write(decision(1))
    await world.crash()
    await world.start()
    await world.stop()
    (tmp_path / "audit.jsonl.bak").unlink()
    assert world.verify().findings == []


async def test_a_short_write_takes_nothing_but_itself_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    await world.start()
    with world.path.open("ab") as file:
        file.write(b"put in by somebody\n" * 20)
    world.trail.write(decision(1))
    before = world.path.read_bytes()
    write = os.write
    with monkeypatch.context() as patch, pytest.raises(AuditError):
        patch.setattr(os, "write", lambda fd, data: write(fd, data[:50]))
        world.trail.write(decision(2))
    assert world.path.read_bytes() == before
    await world.crash()


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ValueError("a defect")])
@pytest.mark.parametrize("on_failure", ["refuse", "continue"])
async def test_who_waits_for_a_disk_that_fails_gets_an_answer(
    error: Exception, on_failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, Rules(wait_for_sync=True, on_failure=on_failure))  # type: ignore[arg-type]
    await world.start()
    await world.trail.sync()

    def fail(_: int) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        wait = world.trail.write(decision(1))
        assert wait is not None
        done = asyncio.wait_for(wait, 5)
        if on_failure == "continue":
            await done
        else:
            with pytest.raises(AuditError, match="may not be on the disk"):
                await done
    assert world.trail.failure
    await world.crash()


def test_a_checkpoint_about_no_number_is_none() -> None:
    payload = b'{"seq":Infinity,"head":"a","time":"b"}'
    jws = f"{compact({'alg': 'Ed25519', 'typ': TYPE, 'kid': 'x'}, payload).decode()}.{b64url(b'x')}"
    line = event(5, "0" * 64, "b", "checkpoint", {"jws": jws})
    record = parse(line + b"\n")
    assert record is not None
    with pytest.raises(CheckpointError, match="no such JWS"):
        check(record, line, {})
