"""Backups as a file: where it is put, and what is refused as no backup."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from backup_support import (
    made,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyd.config import Config
from keyd.core.backup import Backup, BackupError, Contents, container, place


def test_the_file_is_closed_to_others_and_nothing_is_replaced(source: Config, tmp_path: Path) -> None:
    path = tmp_path / "b"
    place.save(made(source), path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Contents.of(place.load(path)).backup == made(source)
    before = path.read_bytes()
    other = replace(made(source), keyd="9")
    with pytest.raises(BackupError, match="exists already"):
        place.save(other, path)
    assert path.read_bytes() == before
    place.save(other, path, replace=True)
    assert place.load(path).keyd == "9"
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BackupError, match="exists already"):
        place.save(other, link)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["b", "link", "source"]
    with pytest.raises(BackupError, match="No such file or directory"):
        place.save(other, tmp_path / "no/where")


def test_a_directory_is_no_name_for_a_backup() -> None:
    for path in (Path("/"), Path()):
        with pytest.raises(BackupError, match="is a directory; name a file in it"):
            place.save(SMALL, path)


@pytest.mark.parametrize("says", [errno.EPERM, errno.ENOTSUP])
def test_a_file_system_without_hard_links_takes_a_backup(says: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a stick with FAT, and shares."""

    def link(source: object, target: Path) -> None:
        if taken:
            target.write_text("precious")
        raise OSError(says, os.strerror(says))

    taken = False
    monkeypatch.setattr(os, "link", link)
    place.save(SMALL, tmp_path / "b")
    assert place.load(tmp_path / "b") == SMALL
    taken = True
    with pytest.raises(BackupError, match="exists already"):
        place.save(SMALL, tmp_path / "c")
    assert (tmp_path / "c").read_text() == "precious"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["b", "c"]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BackupError, match=r"cannot write .*: No space left on device"):
        place.save(SMALL, tmp_path / "b")
    assert list(tmp_path.iterdir()) == []
    with Path("/dev/full").open("wb", buffering=0) as stream, pytest.raises(BackupError, match="No space left on device"):
        place.pour(SMALL, stream)


SMALL = Backup(
    "1", "0003", "2027-01-15T08:00:00.000000Z", {}, {"tables/keys.jsonl": b'{"a":1}\n' * 40, "backends/f/k.1.key": b"x"}
)


def written(backup: Backup = SMALL) -> bytes:
    stream = io.BytesIO()
    backup.write(stream)
    return stream.getvalue()


def test_it_reads_what_it_wrote() -> None:
    assert Backup.read(io.BytesIO(written())) == SMALL


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_is_found(data: st.DataObject) -> None:
    whole = written()
    at = data.draw(st.integers(10, len(whole) - 1))  # before it stands what gzip says of the system
    kind = data.draw(st.sampled_from(["flip", "cut", "remove"]))
    if kind == "flip":
        damaged = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    else:
        damaged = whole[:at] if kind == "cut" else whole[:at] + whole[at + 1 :]
    try:
        read = Backup.read(io.BytesIO(damaged))
    except BackupError:
        return
    # What is compressed can say the same in other words: then every octet is as it was.
    assert (kind, read) == ("flip", SMALL)
    assert gzip.decompress(damaged) == gzip.decompress(whole)


@given(st.binary(max_size=200))
def test_what_is_no_backup_is_refused(content: bytes) -> None:
    for each in (content, gzip.compress(content)):
        with pytest.raises(BackupError):
            Backup.read(io.BytesIO(each))


def packed(*entries: tarfile.TarInfo | tuple[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                archive.addfile(info, io.BytesIO(entry[1]))
    return stream.getvalue()


def manifest(**changes: object) -> tuple[str, bytes]:
    document = json.loads(SMALL._manifest())
    return "manifest.json", json.dumps({**document, **changes}).encode()


def extended(records: dict[str, str]) -> bytes:
    """Return an archive whose first header is an extension (POSIX.1-2001 pax) of the one behind it."""
    info = tarfile.TarInfo("manifest.json")
    info.pax_headers = records
    return gzip.compress(info.tobuf(tarfile.PAX_FORMAT) + bytes(1024))


def sparse(size: int) -> bytes:
    """Return a file of that size that has nothing in it: an old sparse file of GNU tar, whose real size is at offset 483."""
    block = bytearray(link("manifest.json", tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    block[386:410] = b"00000000000\0" * 2
    block[483:495] = b"%011o\0" % size
    block[148:156] = b" " * 8  # the checksum counts itself as spaces
    block[148:156] = b"%06o\0 " % sum(block)
    return gzip.compress(bytes(block) + bytes(1024))


def link(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def member(name: str, content: bytes = b"x") -> dict[str, object]:
    return {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


MEMBERS = tuple(SMALL.members.items())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (packed(), "does not begin with a manifest"),
        (packed(*MEMBERS, manifest()), "does not begin with a manifest"),
        (packed(manifest(), *MEMBERS[::-1]), "is missing"),
        (packed(manifest(), MEMBERS[0]), r"backends/f/k\.1\.key is missing"),
        (packed(manifest(), *MEMBERS, ("more", b"")), "more in it than its manifest says"),
        (packed(manifest(), MEMBERS[0], ("backends/f/k.1.key", b"y")), r"backends/f/k\.1\.key is damaged"),
        (packed(manifest(), MEMBERS[0], ("backends/f/k.1.key", b"")), r"backends/f/k\.1\.key is damaged"),
        (packed(manifest(), MEMBERS[0], link("backends/f/k.1.key", tarfile.SYMTYPE)), "is not a plain file"),
        (packed(manifest(), MEMBERS[0], link("backends/f/k.1.key", tarfile.LNKTYPE)), "is not a plain file"),
        (packed(manifest(), link("tables", tarfile.DIRTYPE)), "is not a plain file"),
        (packed(manifest(), link("tables", tarfile.CHRTYPE)), "is not a plain file"),
        (packed(manifest(), link("tables", tarfile.FIFOTYPE)), "is not a plain file"),
        (sparse(8**11 - 1), "is not a plain file"),  # 8 GiB of zeros, to whoever unpacks it
        (extended({"GNU.sparse.size": "x", "GNU.sparse.map": "0,0"}), "is not a plain file"),
        (extended({"GNU.sparse.map": "a"}), "is not a plain file"),
        (packed(*[link("deeper", tarfile.GNUTYPE_LONGNAME)] * 2000), "is not a plain file"),
        (packed(manifest(members=[member("../../x")]), ("../../x", b"x")), "which no backup of keyd has"),
        (packed(manifest(members=[member("/x")]), ("/x", b"x")), "which no backup of keyd has"),
        (packed(manifest(members=[member("backends/f/../x")]), ("backends/f/../x", b"x")), "which no backup of keyd has"),
        (packed(manifest(members=[member("backends/f/.x")] * 2)), "which no backup of keyd has"),
        (packed(manifest(members=[member("backends/f/x")] * 2), ("backends/f/x", b"x"), ("backends/f/x", b"x")), "or has once"),
        (packed(("manifest.json", b"{")), "its manifest is not JSON"),
        (packed(("manifest.json", b"[" * 100_000)), "its manifest is not JSON"),
        (packed(manifest(format=2)), "not one that this keyd knows"),
        (packed(manifest(format="1")), "not one that this keyd knows"),
        (packed(manifest(time="yesterday")), "not as keyd writes it \\(at time\\)"),
        (packed(manifest(time="2027-99-15T08:00:00.000000Z")), "not as keyd writes it \\(at time\\)"),
        (packed(manifest(more=1)), "not as keyd writes it \\(at more\\)"),
        (packed(manifest(members=[{**member("backends/f/x"), "size": -1}])), "not as keyd writes it"),
    ],
    ids=lambda value: value if isinstance(value, str) else "content",  # which has the time of its making in it
)
def test_what_no_backup_has_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(BackupError, match=message):
        Backup.read(io.BytesIO(content))


def test_what_unpacks_to_more_than_anybody_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "MAX_SIZE", 100_000)
    monkeypatch.setattr(container, "_MAX_MANIFEST", 50_000)
    bomb = packed(manifest(members=[member("backends/f/x", bytes(10_000_000))]), ("backends/f/x", bytes(10_000_000)))
    assert len(bomb) < 100_000
    with pytest.raises(BackupError, match="larger than"):
        Backup.read(io.BytesIO(bomb))
    with pytest.raises(BackupError, match="would be larger"):
        written(replace(SMALL, members={"tables/keys.jsonl": bytes(200_000)}))


@pytest.mark.parametrize("name", ["backends/f/..", "backends/f/a/b", "backends/f/\n", "tables/x", "backends/f/" + "x" * 100])
def test_a_name_that_no_reader_takes_is_not_written(name: str) -> None:
    with pytest.raises(BackupError, match="cannot be the name"):
        written(replace(SMALL, members={name: b""}))
