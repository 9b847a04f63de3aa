"""Checking a trail: whatever was recorded verifies, and whatever was done to it afterwards is found and named."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from audit_support import World, decision
from hypothesis import given, settings
from hypothesis import strategies as st

from keyd.core.audit import files
from keyd.core.audit.checkpoints import CheckpointError, check, keys_of
from keyd.core.audit.record import MAX_READ, event, parse
from keyd.core.audit.trail import Rules
from keyd.core.audit.verify import Expected, Verifier
from keyd.core.errors import GrantError

TEXT = st.text(max_size=40)
DECISIONS = st.builds(
    decision,
    st.integers(0, 10**6),
    key=st.none() | TEXT,
    path=st.none() | st.text(max_size=3000),
    authority=st.none() | TEXT,
    detail=st.none() | TEXT,
    issuer=st.none() | TEXT,
    audience=st.lists(TEXT, max_size=12).map(tuple),
    created=st.none() | st.integers(),
    reason=st.none() | st.just(GrantError.reason),
)


def recorded(directory: Path, batches: list[list[object]], *, rules: Rules | None = None) -> World:
    """Return a trail that was written by one process after another, with checkpoints between."""
    world = World(directory, rules or Rules(sync_interval=0.001))

    async def write() -> None:
        for batch in batches:
            await world.start()
            for number, item in enumerate(batch):
                world.trail.write(item)  # type: ignore[arg-type]
                if number % 4 == 3:
                    await world.checkpointer.make()
            await world.stop()

    asyncio.run(write())
    return world


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> World:
    return recorded(
        tmp_path_factory.mktemp("sound") / "audit", [[decision(n) for n in range(10)], [decision(n) for n in range(6)]]
    )


@settings(max_examples=40, deadline=None)
@given(batches=st.lists(st.lists(DECISIONS, max_size=8), min_size=1, max_size=3))
def test_any_decisions_verify(batches: list[list[object]], tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("any")
    world = recorded(directory, batches)
    report = world.verify()
    assert report.findings == []
    assert report.notes == []
    assert report.records == len(world.lines())
    shutil.rmtree(directory)


def damaged(world: World, lines: list[bytes]) -> list[tuple[int, str]]:
    """Return what is found in a copy of a trail with these lines: the line, 0 for none, and the message."""
    directory = world.directory.parent / "damaged"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    (directory / files.CURRENT).write_bytes(b"".join(lines))
    expected = [Expected(row.seq, row.head, "the database") for row in world.store.rows]
    report = Verifier(keys=world.signer.keys, expected=expected, begins=1).run([directory / files.CURRENT])  # type: ignore[arg-type]
    return [(finding.place.line if finding.place else 0, finding.message) for finding in report.findings]


def flip(lines: list[bytes], at: int, draw: Callable[[int], int]) -> list[bytes]:
    line = bytearray(lines[at])
    line[draw(len(line))] ^= 1 + draw(255)
    return [*lines[:at], bytes(line), *lines[at + 1 :]]


def remove(lines: list[bytes], at: int, draw: Callable[[int], int]) -> list[bytes]:
    return [*lines[:at], *lines[at + 1 :]]


def duplicate(lines: list[bytes], at: int, draw: Callable[[int], int]) -> list[bytes]:
    return [*lines[: at + 1], *lines[at:]]


def swap(lines: list[bytes], at: int, draw: Callable[[int], int]) -> list[bytes]:
    at = min(at, len(lines) - 2)
    return [*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]]


def truncate(lines: list[bytes], at: int, draw: Callable[[int], int]) -> list[bytes]:
    return [*lines[:at], lines[at][: draw(len(lines[at]) - 1)] + b"\n", *lines[at + 1 :]]


def insert(lines: list[bytes], at: int, draw: Callable[[int], int]) -> list[bytes]:
    record = parse(lines[at])
    assert record is not None
    forged = event(record.seq, record.prev, record.time, "stop", {"forged": draw(1000)}) + b"\n"
    return [*lines[:at], forged, *lines[at:]]


def cut(lines: list[bytes], at: int, draw: Callable[[int], int]) -> list[bytes]:
    return lines[:at]


@pytest.mark.parametrize("mutate", [flip, remove, duplicate, swap, truncate, insert, cut])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_single_change_is_found_at_or_before_its_place(
    mutate: Callable[[list[bytes], int, Callable[[int], int]], list[bytes]], data: st.DataObject, sound: World
) -> None:
    lines = sound.lines()
    at = data.draw(st.integers(0, len(lines) - 1))
    mutated = mutate(lines, at, lambda size: data.draw(st.integers(0, size - 1)))
    found = damaged(sound, mutated)
    assert found, f"{mutate.__name__} at line {at + 1} is not found"
    assert found[0][0] <= at + 1, f"{mutate.__name__} at line {at + 1}: {found[0]}"


def test_without_damage_nothing_is_found(sound: World) -> None:
    assert damaged(sound, sound.lines()) == []


@pytest.mark.parametrize(
    ("mutate", "message"),
    [
        (remove, r"record 5 is missing between records 4 and 6"),
        (duplicate, r"record 5 is there twice"),
        (swap, r"record 5 is missing between records 4 and 6"),
        (insert, r"there are two records 5; one was put in"),
        (truncate, r"not a record; it was altered, cut short, or put in"),
        (cut, r"the end is cut off after record 4: the database knows record 25"),
    ],
)
def test_what_happened_is_named(mutate: Callable[..., list[bytes]], message: str, sound: World) -> None:
    assert damaged(sound, mutate(sound.lines(), 4, lambda size: size // 2))[0][1] == message


def test_a_record_rewritten_with_all_hashes_after_it_is_found_by_the_signature(sound: World) -> None:
    lines = sound.lines()
    rewritten: list[bytes] = []
    prev = None
    for number, line in enumerate(lines):
        members = json.loads(line)
        if number == 2:
            members["path"] = "/innocent"
        if prev is not None:
            members["prev"] = prev
        record = parse(json.dumps(members, separators=(",", ":")).encode() + b"\n")
        assert record is not None
        rewritten.append(json.dumps(members, separators=(",", ":")).encode() + b"\n")
        prev = record.digest
    path = sound.directory.parent / "rewritten.jsonl"
    path.write_bytes(b"".join(rewritten))
    report = Verifier(keys=sound.signer.keys).run([path])  # type: ignore[arg-type]
    assert "signs another record 5 than is there" in report.findings[0].message
    assert Verifier(keys=None).run([path]).findings != [], "even without the key: the checkpoint has another head"


def test_a_checkpoint_of_another_key_is_found(sound: World, tmp_path: Path) -> None:
    other = recorded(tmp_path / "audit", [[decision()]])
    report = Verifier(keys=sound.signer.keys).run([other.path])  # type: ignore[arg-type]
    assert "the signature of its checkpoint is wrong" in report.findings[0].message
    report = Verifier(keys={}).run([other.path])
    assert "none of the keys given" in report.findings[0].message
    report = Verifier().run([other.path])
    assert report.sound
    assert "were not checked, because no key was given" in report.notes[-1]


def test_a_torn_line_that_was_changed_is_found(tmp_path: Path) -> None:
    world = recorded(tmp_path, [[decision()]])
    before = world.lines()
    world.path.write_bytes(b"".join([*before, b'{"torn']))

    async def again() -> None:
        await world.start()
        await world.stop()

    asyncio.run(again())
    assert world.verify().sound
    world.path.write_bytes(world.path.read_bytes().replace(b"torn\n", b"turn\n"))
    assert [finding.message for finding in world.verify().findings] == ["not a record; it was altered, cut short, or put in"]


def test_a_checkpoint_has_one_spelling(sound: World) -> None:
    record = parse(sound.lines()[-1])
    assert record is not None
    jws = record.text("jws")
    other = jws[:-1] + {"A": "B", "Q": "R", "g": "h", "w": "x"}[jws[-1]]  # bits that no octet has
    line = event(record.seq, record.prev, record.time, "checkpoint", {"jws": other})
    respelled = parse(line + b"\n")
    assert respelled is not None
    with pytest.raises(CheckpointError, match="no such JWS"):
        check(respelled, line, sound.signer.keys)  # type: ignore[arg-type]


def test_files_in_any_order_and_compressed(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def write() -> None:
        await world.start()
        for number in range(9):
            world.trail.write(decision(number))
            if number % 3 == 2:
                world.trail.rotate()
        await world.stop()

    asyncio.run(write())
    oldest = tmp_path / "audit-000000000001.jsonl"
    (tmp_path / "audit-000000000001.jsonl.gz").write_bytes(gzip.compress(oldest.read_bytes()))
    oldest.unlink()
    assert world.verify().sound
    assert len({path.name for path in files.in_directory(tmp_path)}) == 4
    second = sorted(files.in_directory(tmp_path))[1]
    report = Verifier(keys=world.signer.keys).run([second])  # type: ignore[arg-type]
    assert report.sound
    assert "what was before is not here" in report.notes[0]
    second.rename(tmp_path / "elsewhere")
    assert "missing between records" in str(world.verify().findings[0])
    for path in files.in_directory(tmp_path)[:-1]:
        path.unlink()
    assert "records 1 to 12 are missing: a file before record 13 is not there" in str(world.verify().findings[-1])


def test_a_line_without_end_costs_no_memory(sound: World, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"".join(sound.lines()) + b"x" * (MAX_READ * 20))
    report = Verifier().run([path])
    assert len(report.findings) == 1
    assert "no record" in report.findings[0].message


@given(st.binary(max_size=300))
def test_any_bytes_are_read(data: bytes) -> None:
    parse(data + b"\n")


@given(
    st.dictionaries(st.sampled_from(["seq", "prev", "time", "operation", "jws"]), st.integers() | st.text() | st.just("0" * 64))
)
def test_any_object_is_a_record_or_none(members: dict[str, object]) -> None:
    record = parse(json.dumps(members).encode() + b"\n")
    assert record is None or record.seq >= 1
    if record is not None:
        with pytest.raises(CheckpointError):
            check(record, b"", {})


@pytest.mark.parametrize(
    "document", [None, [], {}, {"keys": []}, {"keys": [{}]}, {"kty": "OKP", "kid": "a", "alg": "Ed25519"}, "x"]
)
def test_what_is_no_key(document: object) -> None:
    with pytest.raises(ValueError, match="JWK"):
        keys_of(document)
