"""Backups: what is in one, what is refused, and what a restore brings back and what not."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from components.postgres import Database, fresh_database
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from older_databases import IN_GRACE, KEK, LEFT_OVER, SCHEMAS, STATES, lay_out
from sqlalchemy import JSON, Connection
from support import START

from backends.api import Backend
from backends.errors import BackendConfigError, BackendError, BackendIntegrityError, KeyExistsError
from backends.file import FileBackend
from backends.kek import Kek, decode, encode
from backends.secrets import Secret
from keyd import backup as backups
from keyd import config, plugins, process
from keyd.config import Config
from keyd.core.audit.record import timestamp
from keyd.core.backup import BackendPart, Backup, BackupError, Contents, container, place
from keyd.core.backup.contents import needed
from keyd.core.errors import StoreUnavailableError
from keyd.core.model import KeyVersion
from keyd.core.store import CheckpointRow, Intent, SqlStore, dump, migrate, tables
from keyd.core.store.database import Sqlite
from keyd.core.store.dump import DumpError
from keyd.core.timeline import KeyState

CONFIG = """
[server]
state_dir = "{directory}/state"
socket = "{directory}/keyd.sock"
[backends.file]
type = "file"
kek = {{ file = "{directory}/kek" }}
"""


def configured(directory: Path, text: str = CONFIG) -> Config:
    path = directory / "keyd.toml"
    path.write_text(text.format(directory=directory))
    return config.load(path)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("template")
    lay_out("0002", directory)
    SqlStore(directory / "state/keyd.db").close()
    return directory


@pytest.fixture
def source(tmp_path: Path, template: Path) -> Config:
    """A daemon's directory with keys in every state, of the schema of today."""
    shutil.copytree(template, tmp_path / "source")
    return configured(tmp_path / "source")


@pytest.fixture
def empty(tmp_path: Path) -> Config:
    """Another machine, with the same key-encryption key and nothing else."""
    directory = tmp_path / "target"
    directory.mkdir()
    (directory / "kek").write_bytes(KEK)
    (directory / "kek").chmod(0o400)
    return configured(directory)


def keys_of(at: Config) -> Path:
    return at.server.state_dir / "backends/file/keys"


def database(at: Config) -> sqlite3.Connection:
    return sqlite3.connect(at.server.state_dir / "keyd.db")


def made(at: Config) -> Backup:
    return backups.create(at, lambda: START)


def passed_on(backup: Backup) -> Contents:
    """Return what a reader gets."""
    stream = io.BytesIO()
    backup.write(stream)
    stream.seek(0)
    return Contents.of(Backup.read(stream))


def on_record(at: Config) -> dict[tuple[str, int], KeyVersion]:
    with closing(SqlStore(at.server.state_dir / "keyd.db")) as store:
        return {(version.key, version.version): version for version in store.load().versions}


def with_rows(backup: Backup, table: str, change: Callable[[list[dict[str, object]]], object]) -> Backup:
    """Return a backup with other rows in a table, and a manifest that says so."""
    name = f"tables/{table}.jsonl"
    rows = [json.loads(line) for line in backup.members[name].splitlines()]
    change(rows)
    return replace(backup, members={**backup.members, name: b"".join(json.dumps(row).encode() + b"\n" for row in rows)})


# ---- what is in one


def test_every_table_and_column_is_in_it(source: Config) -> None:
    rows = {name: [json.loads(line) for line in made(source).members[f"tables/{name}.jsonl"].splitlines()] for name in names()}
    with closing(database(source)) as connection:
        for name in names():
            assert len(rows[name]) == connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
            assert all(set(row) == set(tables.metadata.tables[name].c.keys()) for row in rows[name])
    assert all(rows[name] for name in names()), "a table of which nothing is tested"


def names() -> set[str]:
    """Return the tables that belong in a backup: all but those that say which processes and releases use the database."""
    return set(tables.metadata.tables) - {"replicas", "compatibility"}


def test_every_column_has_a_type_that_json_has() -> None:
    for table in tables.metadata.tables.values():
        for column in table.c:
            assert isinstance(column.type, JSON) or column.type.python_type in (str, int, float, bool), column


def test_it_has_the_key_files_that_are_needed_and_no_others(source: Config) -> None:
    there = {name.rpartition("/")[2] for name in made(source).members if name.startswith("backends/")}
    assert there == {path.name for path in keys_of(source).glob("*.key")} - LEFT_OVER


def test_no_private_key_and_no_key_encryption_key_is_in_it(source: Config) -> None:
    """The bytes themselves are looked for, as they are and in what text they could be in."""
    kek = Kek(Secret(KEK))
    secrets = [KEK]
    for path in keys_of(source).glob("*.key"):
        envelope = json.loads(path.read_bytes())
        header = [envelope[name] for name in ("format", "name", "version", "algorithm", "kek_id")]
        bound = json.dumps(["keyd key file", *header], separators=(",", ":")).encode()
        der = kek.decrypt(decode(envelope["nonce"]), decode(envelope["ciphertext"]), bound)
        # PKCS#8 of Ed25519 ends with the 32 bytes of the key (RFC 8410 section 7); SEC 1 has those of a curve behind its header.
        secrets += [der, der[-32:]] if envelope["algorithm"] == "Ed25519" else [der, der[36:68]]
    assert len(secrets) > 20
    content = b"".join(made(source).members.values())
    compressed = io.BytesIO()
    made(source).write(compressed)
    for secret in secrets:
        for spelled in (secret, secret.hex().encode(), encode(secret).encode(), json.dumps(list(secret)).encode()):
            assert spelled not in content
            assert spelled not in compressed.getvalue()
    assert keys_of(source).joinpath("active.1.key").read_bytes() in content, "the search finds nothing at all"


def test_it_is_made_without_the_key_encryption_key(source: Config) -> None:
    (source.server.state_dir.parent / "kek").unlink()
    assert made(source).backends["file"].private_keys


def test_a_salt_goes_with_the_files_that_need_it(source: Config, empty: Config) -> None:
    for at in (source, empty):
        (at.server.state_dir.parent / "word").write_text("correct horse")
        (at.server.state_dir.parent / "word").chmod(0o400)
    text = CONFIG.replace("kek = {{", "passphrase = {{").replace("/kek", "/word")
    secret, there = (configured(at.server.state_dir.parent, text) for at in (source, empty))
    for path in keys_of(source).iterdir():
        path.unlink()
    with closing(database(source)) as connection:
        connection.execute("DELETE FROM versions")
        connection.commit()
    backend = FileBackend.open(secret.backends["file"].options, secret.backend_context("file"))  # type: ignore[arg-type]
    backend.close()
    contents = passed_on(made(secret))
    assert set(contents.files("file")) == {"kdf.json"}
    backups.restore(there, contents)
    assert (keys_of(there) / "kdf.json").read_bytes() == (keys_of(secret) / "kdf.json").read_bytes()


def test_a_private_key_that_is_missing_fails_the_backup(source: Config) -> None:
    (keys_of(source) / "grace.1.key").unlink()
    with pytest.raises(BackupError, match=r"grace\.1\.key is on record and not in its store"):
        made(source)


def test_a_damaged_key_file_fails_the_backup(source: Config) -> None:
    path = keys_of(source) / "grace.1.key"
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(BackendIntegrityError, match="changed or damaged"):
        made(source)


def test_a_version_that_is_destroyed_meanwhile_does_not(source: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []

    def backup(config: object, context: object, handles: object) -> dict[str, bytes]:
        if not looked:  # between the look at the database and the look at the files
            with closing(database(source)) as connection:
                connection.execute("UPDATE versions SET destroyed_at = ?, handle = NULL WHERE key = 'unpublished'", (START,))
                connection.commit()
            for version in (1, 2):
                (keys_of(source) / f"unpublished.{version}.key").unlink()
        looked.append(True)
        return dict(original(config, context, handles))  # type: ignore[arg-type]

    original = FileBackend.backup
    monkeypatch.setattr(FileBackend, "backup", backup)
    contents = passed_on(made(source))
    assert len(looked) == 2
    assert {v.timeline.state(START) for v in contents.records.versions if v.key == "unpublished"} == {KeyState.DESTROYED}


def test_a_backend_that_is_not_configured_is_named(source: Config) -> None:
    text = CONFIG.replace("[backends.file]", "[backends.other]") + '[defaults]\nbackend = "other"\n[audit]\nbackend = "other"\n'
    contents = passed_on(made(configured(source.server.state_dir.parent, text)))
    assert not contents.backup.backends["file"].private_keys
    assert contents.files("file") == {}


def test_there_has_to_be_a_database(empty: Config) -> None:
    empty.server.state_dir.mkdir()
    with pytest.raises(BackupError, match="there is no database"):
        made(empty)
    assert list(empty.server.state_dir.iterdir()) == []
    SqlStore(empty.server.state_dir / "keyd.db").close()
    with closing(database(empty)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    with pytest.raises(DumpError, match="schema '9999', which this keyd does not know"):
        made(empty)


def test_only_the_daemons_user_makes_one(source: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(BackupError, match="run this as that user"):
        made(source)


# ---- the file


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
    with pytest.raises(BackupError):
        Backup.read(io.BytesIO(damaged))


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


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("keys", lambda rows: rows[0].update(more=1), "other columns than its schema"),
        ("keys", lambda rows: rows[0].pop("name"), "other columns than its schema"),
        ("keys", lambda rows: rows[0].update(name=5), "column name of table keys cannot have a value of type int"),
        ("keys", lambda rows: rows[0].update(publish=1), "column publish of table keys cannot have a value of type int"),
        ("keys", lambda rows: rows[0].update(name=None), "column name of table keys cannot have a value of type NoneType"),
        (
            "keys",
            lambda rows: rows[0].update(profile="\ud800"),
            "column profile of table keys has a value that no database keeps",
        ),
        ("keys", lambda rows: rows[0].update(profile="a\0b"), "column profile of table keys has a value that no database keeps"),
        ("keys", lambda rows: rows[0].update(created_at=10**400), "column created_at of table keys has a value that no"),
        ("version_numbers", lambda rows: rows[0].update(last=2**63), "column last of table version_numbers has a value that no"),
        ("keys", lambda rows: rows[0].update(algorithm="none"), "a value that keyd does not know"),
        ("keys", lambda rows: rows[0].update(purposes=["everything"]), "a value that keyd does not know"),
        ("keys", lambda rows: rows[0].update(created_at=float("nan")), "is not JSON"),
        ("keys", lambda rows: rows[0].update(backend="hsm"), "does not name backend 'hsm'"),
        ("keys", lambda rows: rows.append(rows[0]), "cannot be restored"),
        ("keys", lambda rows: rows.clear(), "cannot be restored"),
        ("versions", lambda rows: rows[0].update(version="1"), "column version of table versions cannot"),
        ("versions", lambda rows: rows[0].update(thumbprint="x"), "is not the one of its thumbprint"),
        ("versions", lambda rows: rows[0].update(public_jwk=rows[-1]["public_jwk"]), "is not the one of its thumbprint"),
        ("versions", lambda rows: rows[0].update(public_jwk="{}"), "is not the one of its thumbprint"),
        ("versions", lambda rows: rows[0].update(public_jwk='{"kty":"OKP"}'), "is not the one of its thumbprint"),
        ("versions", lambda rows: rows[0].update(handle="other.1.key"), r"other\.1\.key of backend 'file' is missing"),
        ("versions", lambda rows: rows[0].update(handle=None), "has no private key, and was not destroyed"),
        ("no_such_table", lambda rows: rows.append({}), "has no table 'no_such_table'"),
    ],
)
def test_rows_that_no_database_has_are_refused(
    source: Config, table: str, change: Callable[[list[dict[str, object]]], object], message: str
) -> None:
    backup = made(source)
    if table not in names():
        backup = replace(backup, members={**backup.members, f"tables/{table}.jsonl": b""})
    with pytest.raises(BackupError, match=message):
        Contents.of(with_rows(backup, table, change))


@pytest.mark.parametrize("line", [b"{", b"[]", b"1", b'{"a":NaN}', b"[" * 100_000])
def test_lines_that_are_no_rows_are_refused(source: Config, line: bytes) -> None:
    backup = made(source)
    with pytest.raises(BackupError, match=r"line 1 of tables/keys\.jsonl is not"):
        Contents.of(replace(backup, members={**backup.members, "tables/keys.jsonl": line}))


def test_a_number_without_end_is_refused(source: Config) -> None:
    backup = made(source)
    rows = backup.members["tables/keys.jsonl"].replace(b'"disabled_at":null', b'"disabled_at":1e999')
    with pytest.raises(BackupError, match="column disabled_at of table keys has a value that no database keeps"):
        Contents.of(replace(backup, members={**backup.members, "tables/keys.jsonl": rows}))


def test_a_newer_schema_is_refused(source: Config) -> None:
    with pytest.raises(BackupError, match="schema '0999', which this keyd does not know; restore them with a newer keyd"):
        Contents.of(replace(made(source), schema="0999"))


def test_a_private_key_that_is_not_in_it_is_missed(source: Config) -> None:
    backup = made(source)
    members = {name: content for name, content in backup.members.items() if not name.endswith("/grace.1.key")}
    with pytest.raises(BackupError, match=r"the private key grace\.1\.key of backend 'file' is missing"):
        Contents.of(replace(backup, members=members))


# ---- restoring


def test_a_restore_brings_everything_back(source: Config, empty: Config) -> None:
    done = backups.restore(empty, passed_on(made(source)))
    assert on_record(empty) == on_record(source)
    assert done.proved == len({path.name for path in keys_of(source).glob("*.key")} - LEFT_OVER) > 15
    for path in keys_of(empty).iterdir():
        assert path.read_bytes() == (keys_of(source) / path.name).read_bytes()
        assert path.stat().st_mode & 0o777 == 0o400
    with closing(database(source)) as before, closing(database(empty)) as after:
        for name in sorted(names() - {"intents", "version_numbers"}):
            order = ", ".join(column.name for column in tables.metadata.tables[name].primary_key)
            query = f"SELECT * FROM {name} ORDER BY {order}"
            columns = tuple(tables.metadata.tables[name].c.keys())
            query = query.replace("*", ", ".join(f'"{column}"' for column in columns))
            assert after.execute(query).fetchall() == before.execute(query).fetchall(), name


def test_a_backend_type_is_not_looked_up_for_each_key(source: Config, empty: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up reads the metadata of every installed distribution, which takes longer than all else that is done for a key."""
    looked: list[str] = []

    def load(name: str) -> type[Backend]:
        looked.append(name)
        return original(name)

    original = plugins.load
    monkeypatch.setattr(plugins, "load", load)
    contents = passed_on(made(source))
    backups.restore(empty, contents)
    assert len(contents.records.keys) > 5 >= len(looked)


def test_no_version_number_is_given_out_twice(source: Config, empty: Config) -> None:
    with closing(database(source)) as connection:
        before = dict(connection.execute("SELECT key, last FROM version_numbers").fetchall())
    done = backups.restore(empty, passed_on(made(source)))
    assert set(done.contents.interrupted) == {("active", 2), ("never-made", 1)}
    with closing(database(empty)) as connection:
        after = dict(connection.execute("SELECT key, last FROM version_numbers").fetchall())
        assert connection.execute("SELECT count(*) FROM intents").fetchone() == (0,), "what was being made may be in use by now"
    assert after == {key: last + backups.SKIP for key, last in before.items()}


def test_numbers_are_not_left_out_where_nothing_was_made_since(source: Config, empty: Config) -> None:
    backups.restore(empty, passed_on(made(source)), skip=0)
    with closing(database(empty)) as connection, closing(database(source)) as before:
        query = "SELECT * FROM version_numbers ORDER BY key"
        assert connection.execute(query).fetchall() == before.execute(query).fetchall()


def test_all_keys_can_be_disabled(source: Config, empty: Config) -> None:
    backups.restore(empty, passed_on(made(source)), disabled_at=START)
    with closing(database(empty)) as connection:
        times = dict(connection.execute("SELECT name, disabled_at FROM keys"))
    assert times.pop("disabled") < START, "since when it is disabled is not forgotten"
    assert set(times.values()) == {START}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_backup_of_an_older_schema_is_migrated(schema: str, tmp_path: Path, empty: Config) -> None:
    directory = tmp_path / "old"
    directory.mkdir()
    lay_out(schema, directory)
    contents = passed_on(made(configured(directory)))
    assert contents.backup.schema == schema
    with closing(database(configured(directory))) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (schema,), "making one changes nothing"
    backups.restore(empty, contents)
    states: dict[str, list[str]] = {}
    for (key, _), version in sorted(on_record(empty).items()):
        states.setdefault(key, []).append(version.timeline.state(START).value)
    assert states == {name: STATES[name] for name in states}
    assert len(states) >= 11
    with closing(database(empty)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (max(migrate.known()),)
        archived = connection.execute("SELECT count(*) FROM archive").fetchone()[0]
    assert archived == len(on_record(empty))
    assert set(on_record(empty)) >= IN_GRACE


def untouched(at: Config) -> bool:
    """Say whether a restore left nothing but its lock and an empty database."""
    return not keys_of(at).exists() and (not (at.server.state_dir / "keyd.db").exists() or on_record(at) == {})


def test_nothing_that_is_there_is_replaced(source: Config, empty: Config) -> None:
    contents = passed_on(made(source))
    backups.restore(empty, contents)
    before = (on_record(empty), {path.name: path.read_bytes() for path in keys_of(empty).iterdir()})
    with pytest.raises(DumpError, match=r"the database is not empty \(table keys has \d+ rows\); move it away"):
        backups.restore(empty, contents)
    (empty.server.state_dir / "keyd.db").rename(empty.server.state_dir / "away")
    path = keys_of(empty) / "grace.1.key"
    other = (keys_of(empty) / "grace.2.key").read_bytes()
    path.chmod(0o600)
    path.write_bytes(other)
    with pytest.raises(KeyExistsError, match=r"grace\.1\.key exists already and is another"):
        backups.restore(empty, contents)
    assert path.read_bytes() == other
    path.write_bytes(before[1][path.name])
    path.chmod(0o400)
    backups.restore(empty, contents)
    assert on_record(empty) == before[0]


def test_a_database_that_is_not_empty_keeps_the_private_keys_out_too(source: Config, empty: Config) -> None:
    contents = passed_on(made(source))
    empty.server.state_dir.mkdir(mode=0o700)
    with closing(SqlStore(empty.server.state_dir / "keyd.db")) as store:
        store.begin_version(Intent("another", 1, ""))
    with pytest.raises(DumpError, match=r"table version_numbers has 1 rows"):
        backups.restore(empty, contents)
    assert not keys_of(empty).exists()
    with closing(Sqlite(empty.server.state_dir / "keyd.db")) as there, pytest.raises(DumpError, match="is not empty"):
        dump.restore(there, contents.dump)  # looked at again where nobody can come between


def test_a_store_that_counts_and_is_in_no_backup(source: Config, empty: Config) -> None:
    """Its keys stay where they are: nothing of them is restored, proved, or left out."""
    backup = made(source)

    def moved(rows: list[dict[str, object]]) -> None:
        next(row for row in rows if row["name"] == "unlisted")["backend"] = "vault"

    members = {name: content for name, content in backup.members.items() if not name.endswith("/unlisted.1.key")}
    parts = {**backup.backends, "vault": BackendPart(type="vault", private_keys=False)}
    contents = passed_on(with_rows(replace(backup, members=members, backends=parts), "keys", moved))
    vault = '[backends.vault]\ntype = "vault"\naddress = "https://vault.example"\nauth = {{ token = {{ env = "T" }} }}\n'
    done = backups.restore(configured(empty.server.state_dir.parent, CONFIG + vault), contents)
    assert done.unproved == ("vault",)
    with closing(database(empty)) as connection:
        last = dict(connection.execute("SELECT key, last FROM version_numbers").fetchall())
    assert (last["unlisted"], last["disabled"]) == (1, 1 + backups.SKIP)


def test_the_daemon_must_not_run(source: Config, empty: Config) -> None:
    contents = passed_on(made(source))
    with process.lock_file(empty.server.state_dir / "lock"), pytest.raises(process.AlreadyRunningError):
        backups.restore(empty, contents)
    assert untouched(empty)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ('[backends.other]\ntype = "file"\n', "the configuration has none"),
        ('[backends.file]\ntype = "memory"\n', "the configuration has one of type 'memory'"),
    ],
)
def test_the_configuration_must_have_the_backends(source: Config, empty: Config, section: str, message: str) -> None:
    text = CONFIG[: CONFIG.index("[backends")] + section
    if "other" in section:
        text += '[defaults]\nbackend = "other"\n[audit]\nbackend = "other"\n'
    with pytest.raises(BackupError, match=message):
        backups.restore(configured(empty.server.state_dir.parent, text), passed_on(made(source)))
    assert untouched(empty)


def test_the_wrong_key_encryption_key_is_found_before_the_database_is_filled(source: Config, empty: Config) -> None:
    kek = empty.server.state_dir.parent / "kek"
    kek.chmod(0o600)
    kek.write_bytes(bytes(32))
    contents = passed_on(made(source))
    with pytest.raises(BackendConfigError, match="encrypted under another key-encryption key"):
        backups.restore(empty, contents)
    assert on_record(empty) == {}
    kek.write_bytes(KEK)
    backups.restore(empty, contents)
    assert on_record(empty) == on_record(source)


def test_no_key_encryption_key_is_made_for_files_that_have_one(source: Config, tmp_path: Path) -> None:
    directory = tmp_path / "first"
    directory.mkdir()
    there = replace(configured(directory, CONFIG.replace("kek =", "# kek =")), first_run_allowed=True)
    with pytest.raises(BackendError, match="is gone; restore it from its backup"):
        backups.restore(there, passed_on(made(source)))
    assert not list(directory.rglob("kek"))


def test_a_private_key_under_another_kid_is_found(source: Config, empty: Config) -> None:
    """Who can write to a backup cannot have a key sign as another: here two versions of the database change places."""
    contents = passed_on(made(source))
    one, two = (needed(contents.records, "file")[handle] for handle in ("active.1.key", "disabled.1.key"))

    def exchange(rows: list[dict[str, object]]) -> None:
        by_kid = {row["kid"]: row for row in rows}
        by_kid[one.kid]["handle"], by_kid[two.kid]["handle"] = two.handle, one.handle

    altered = passed_on(with_rows(contents.backup, "versions", exchange))
    with pytest.raises(BackupError, match="is not that of kid"):
        backups.restore(empty, altered)
    assert on_record(empty) == {}


def test_a_restore_that_fails_in_the_database_leaves_it_empty(
    source: Config, empty: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = passed_on(made(source))

    def fail(*_: object) -> None:
        raise DumpError("enough")

    with monkeypatch.context() as patch:
        patch.setattr(dump, "_catch_up", fail)
        with pytest.raises(DumpError, match="enough"):
            backups.restore(empty, contents)
    assert on_record(empty) == {}
    backups.restore(empty, contents)
    assert on_record(empty) == on_record(source)


def test_a_database_of_somebody_else_is_left_alone(source: Config, empty: Config) -> None:
    empty.server.state_dir.mkdir()
    with closing(database(empty)) as connection:
        connection.execute("CREATE TABLE accounts (id INTEGER)")
    with pytest.raises(DumpError, match="tables that are not keyd's"):
        backups.restore(empty, passed_on(made(source)))


# ---- what the audit trail remembers


def record(
    operation: str, key: str, version: int | None = None, *, at: str = "2027-01-15T09:00:00.000000Z", detail: str = "done"
) -> dict[str, object]:
    members = {"seq": 1, "time": at, "operation": operation, "decision": "allow", "key": key, "detail": detail, "prev": "0" * 64}
    return members if version is None else {**members, "version": version}


def with_trail(at: Config, *records: dict[str, object]) -> None:
    (at.server.state_dir / "audit").mkdir(parents=True)
    lines = [json.dumps({**each, "seq": number}) + "\n" for number, each in enumerate(records, 1)]
    (at.server.state_dir / "audit/audit.jsonl").write_text("".join(lines))


def test_what_was_stopped_since_stays_stopped(source: Config, empty: Config) -> None:
    with_trail(
        empty,
        record("compromise_version", "active", 1, at="2027-01-15T07:49:59.000000Z"),  # long before the backup, which has it right
        record("compromise_version", "grace", 1, detail="asked for"),  # and not done
        record("compromise_version", "grace", 2, at="2027-01-15T07:59:59.000000Z"),  # begun before the backup, and done after
        record("destroy_version", "unpublished", 1),
        record("disable_key", "waiting"),
        record("disable_key", "unlisted"),
        record("enable_key", "unlisted"),
        record("enable_key", "disabled"),
    )
    done = backups.restore(empty, passed_on(made(source)))
    assert done.memory is not None
    assert [each.operation for each in done.memory.changes].count("compromise_version") == 1
    versions = on_record(empty)
    later = 1_800_003_600.0
    state = {place: version.timeline.state(later) for place, version in versions.items()}
    assert state["active", 1] is KeyState.ACTIVE
    assert state["grace", 1] is KeyState.DEACTIVATED
    assert state["grace", 2] is KeyState.COMPROMISED
    assert "audit trail" in versions["grace", 2].compromise_reason
    assert state["unpublished", 1] is KeyState.DESTROYED
    with closing(database(empty)) as connection:
        off = {name for (name,) in connection.execute("SELECT name FROM keys WHERE disabled_at IS NOT NULL")}
    assert off == {"waiting"}


def test_numbers_that_the_trail_knows_are_never_used_again(source: Config, empty: Config) -> None:
    with_trail(
        empty,
        record("sign", "waiting", 7),
        record("rotate_key", "grace", 2000),
        record("create_key", "born-later"),
        record("sign", "no-version"),
    )
    backups.restore(empty, passed_on(made(source)), skip=10)
    with closing(database(empty)) as connection:
        last = dict(connection.execute("SELECT key, last FROM version_numbers").fetchall())
    assert (last["waiting"], last["grace"], last["born-later"], last["disabled"]) == (17, 2010, 11, 11)
    assert "no-version" not in last


def test_a_number_that_somebody_only_typed_is_not_left_out(source: Config, empty: Config) -> None:
    """An operator asked for a version that there never was, and was told so. The key would be at its last number for ever."""
    with_trail(
        empty,
        record("destroy_version", "waiting", 2**32 - 1, detail="asked for"),
        record("compromise_version", "waiting", 2**31, detail="asked for"),
        record("compromise_version", "waiting", 3),
    )
    backups.restore(empty, passed_on(made(source)), skip=10)
    assert numbers_of(empty)["waiting"] == 13


def test_a_number_on_record_is_used_even_where_it_is_not_noted(source: Config, empty: Config) -> None:
    backups.restore(empty, passed_on(with_rows(made(source), "version_numbers", lambda rows: rows.clear())), skip=0)
    last = numbers_of(empty)
    assert all(last[key] >= number for key, number in on_record(empty))


def numbers_of(at: Config) -> dict[str, int]:
    with closing(database(at)) as connection:
        return dict(connection.execute("SELECT key, last FROM version_numbers").fetchall())


def test_a_trail_that_missed_a_key_being_disabled_does_not_enable_it(source: Config, empty: Config) -> None:
    """Another replica disabled it, shortly before the backup; this one's trail has only that it was enabled before that."""
    backup = with_rows(made(source), "keys", lambda rows: [row.update(disabled_at=START - 60) for row in rows])
    enabled = timestamp(START - 120), timestamp(START - 30)
    with_trail(empty, record("enable_key", "active", at=enabled[0]), record("enable_key", "grace", at=enabled[1]))
    backups.restore(empty, passed_on(backup))
    with closing(database(empty)) as connection:
        on = {name for (name,) in connection.execute("SELECT name FROM keys WHERE disabled_at IS NULL")}
    assert on == {"grace"}


def test_the_last_word_is_that_of_the_latest_time(source: Config, empty: Config) -> None:
    """Not that of the last line: the files may be of several replicas."""
    times = [f"2027-01-15T09:0{minute}:00.000000Z" for minute in range(3)]
    with_trail(
        empty,
        record("disable_key", "active", at=times[2]),
        record("enable_key", "active", at=times[1]),
        record("enable_key", "grace", at=times[0]),
        record("disable_key", "grace", at=times[1]),
    )
    done = backups.restore(empty, passed_on(made(source)))
    assert done.memory is not None
    assert (set(done.memory.disabled), set(done.memory.enabled)) == ({"active", "grace"}, set())
    assert [each.time for each in done.memory.changes] == sorted(each.time for each in done.memory.changes)


def test_a_damaged_trail_is_read_as_far_as_it_can_be(source: Config, empty: Config) -> None:
    with_trail(
        empty, record("compromise_version", "active", 1, at="2027-01-15T0\ud7ff:00"), record("disable_key", "grace", at="9")
    )
    done = backups.restore(empty, passed_on(made(source)))
    assert done.memory is not None
    assert on_record(empty)["active", 1].timeline.state(START) is KeyState.COMPROMISED


def test_a_trail_that_cannot_be_read_is_said(source: Config, empty: Config) -> None:
    (empty.server.state_dir / "audit").mkdir(parents=True)
    (empty.server.state_dir / "audit/audit.jsonl.1.gz").write_bytes(gzip.compress(b"x" * 5000)[:-9])
    with pytest.raises(BackupError, match=r"cannot read the audit trail: .* is damaged"):
        backups.restore(empty, passed_on(made(source)))


def test_what_was_stopped_at_another_replica_stays_stopped(source: Config, empty: Config, tmp_path: Path) -> None:
    with_trail(empty, record("disable_key", "grace"))
    with_trail(source, record("compromise_version", "active", 1), record("rotate_key", "waiting", 9))
    (tmp_path / "none").mkdir()
    contents = passed_on(made(source))
    with pytest.raises(BackupError, match=r"there is no audit trail in .*/none"):
        backups.restore(empty, contents, trails=[tmp_path / "none"])
    with pytest.raises(BackupError, match=r"cannot read the audit trail: .*/gone: No such file or directory"):
        backups.restore(empty, contents, trails=[tmp_path / "gone"])
    done = backups.restore(empty, contents, skip=0, trails=[source.server.state_dir / "audit"])
    assert done.memory is not None and set(done.memory.disabled) == {"grace"}
    assert on_record(empty)["active", 1].timeline.state(START) is KeyState.ACTIVE, "it was stopped later"
    assert on_record(empty)["active", 1].timeline.state(1_800_010_000.0) is KeyState.COMPROMISED
    assert numbers_of(empty)["waiting"] == 9


def test_without_a_trail_that_is_said(source: Config, empty: Config) -> None:
    assert backups.restore(empty, passed_on(made(source))).memory is None


# ---- between the two kinds of databases


@pytest.fixture
def shared(empty: Config) -> Iterator[tuple[Config, Database]]:
    """Another machine, whose metadata is in PostgreSQL."""
    with fresh_database() as made:
        text = CONFIG + f'[store]\nurl = "{made.url}"\nreplica = "one"\n'
        yield configured(empty.server.state_dir.parent, text), made


def in_postgres(database: Database) -> dict[tuple[str, int], KeyVersion]:
    with closing(SqlStore.on_postgres(database.conninfo, replica_name="one")) as store:
        return {(version.key, version.version): version for version in store.load().versions}


@pytest.mark.parametrize("schema", [*SCHEMAS, "newest"])
def test_from_sqlite_into_postgresql_and_back(
    schema: str, source: Config, shared: tuple[Config, Database], tmp_path: Path
) -> None:
    there, database = shared
    if schema != "newest":
        old = tmp_path / "old"
        old.mkdir()
        lay_out(schema, old)
        source = configured(old)
    first = passed_on(made(source))
    backups.restore(there, first, skip=0)
    second = passed_on(made(there))
    assert second.backup.schema == max(migrate.known())
    assert second.records.versions and set(second.records.versions) == set(first.records.versions)
    assert {replace(key, change=0) for key in second.records.keys} == {replace(key, change=0) for key in first.records.keys}
    assert second.files("file") == first.files("file")
    back = tmp_path / "back"
    back.mkdir()
    (back / "kek").write_bytes(KEK)
    (back / "kek").chmod(0o400)
    backups.restore(configured(back), second, skip=0)
    assert on_record(configured(back)) == in_postgres(database)
    third = passed_on(made(configured(back)))
    assert third.backup.members == second.backup.members


def test_a_restored_postgresql_counts_on(source: Config, shared: tuple[Config, Database]) -> None:
    there, database = shared
    backups.restore(there, passed_on(made(source)))
    with closing(SqlStore.on_postgres(database.conninfo, replica_name="one")) as store:
        store.add_checkpoint(CheckpointRow(30, "3" * 64, "/audit", START))
    assert [row[0] for row in database.execute("SELECT id FROM audit_checkpoints ORDER BY id")] == [1, 2, 3]


def test_postgresql_must_be_empty_and_unused(source: Config, shared: tuple[Config, Database]) -> None:
    there, database = shared
    contents = passed_on(made(source))
    with closing(SqlStore.on_postgres(database.conninfo, replica_name="two")) as store:
        store.register("two")
        with pytest.raises(DumpError, match="a daemon uses the database"):
            backups.restore(there, contents)
        store.leave()
    backups.restore(there, contents)
    with pytest.raises(DumpError, match="is not empty"):
        backups.restore(there, contents)


def test_a_replica_that_starts_meanwhile_waits_and_sees_everything(
    source: Config, shared: tuple[Config, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    there, database = shared
    contents = passed_on(made(source))
    with closing(SqlStore.on_postgres(database.conninfo, replica_name="two")) as store, ThreadPoolExecutor() as pool:
        starting: list[Future[int]] = []

        def start() -> int:
            store.register("two")
            return len(store.load().versions)

        def fill_all(connection: Connection, rows: dump.Dump) -> None:
            starting.append(pool.submit(start))
            deadline = time.monotonic() + 30
            while not starting[0].done() and not database.execute("SELECT 1 FROM pg_locks WHERE NOT granted"):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            original(connection, rows)

        original = dump._fill_all
        monkeypatch.setattr(dump, "_fill_all", fill_all)
        backups.restore(there, contents)
        assert starting[0].result(30) == len(contents.records.versions)


def test_postgresql_that_is_away_is_said(source: Config, shared: tuple[Config, Database]) -> None:
    there, database = shared
    contents = passed_on(made(source))
    database.drop()
    with pytest.raises(StoreUnavailableError) as caught:
        backups.restore(there, contents)
    assert "postgresql://" not in str(caught.value)
    assert not keys_of(there).exists()


def test_a_writer_does_not_change_what_is_read(source: Config) -> None:
    """The rows are those of one moment, and a daemon that writes meanwhile waits for nobody."""
    path = source.server.state_dir / "keyd.db"
    with closing(Sqlite(path)) as reader, reader.reading() as connection:
        before = connection.exec_driver_sql("SELECT count(*) FROM version_numbers").scalar_one()
        with closing(SqlStore(path)) as writer:
            writer.begin_version(Intent("born-now", 1, ""))
        assert connection.exec_driver_sql("SELECT count(*) FROM version_numbers").scalar_one() == before
    assert b"born-now" in made(source).members["tables/version_numbers.jsonl"]
