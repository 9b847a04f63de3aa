"""Backups: what is in one."""

from __future__ import annotations

import io
import json
import os
from contextlib import closing

import pytest
from backup_support import (
    CONFIG,
    configured,
    database,
    keys_of,
    made,
    names,
    passed_on,
)
from older_databases import KEK, LEFT_OVER
from sqlalchemy import JSON
from support import START

from backends.errors import BackendIntegrityError
from backends.file import FileBackend
from backends.kek import Kek, decode, encode
from backends.secrets import Secret
from keyd import backup as backups
from keyd.config import Config
from keyd.core.backup import BackupError
from keyd.core.sessions.revocations import Revoked
from keyd.core.store import SqlStore, tables
from keyd.core.store.dump import DumpError
from keyd.core.timeline import KeyState


def test_every_table_and_column_is_in_it(source: Config) -> None:
    with closing(SqlStore(source.server.state_dir / "keyd.db")) as store:
        store.revoke([Revoked("https://a.example", "one", START + 600, START)], START)
    rows = {name: [json.loads(line) for line in made(source).members[f"tables/{name}.jsonl"].splitlines()] for name in names()}
    with closing(database(source)) as connection:
        for name in names():
            assert len(rows[name]) == connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
            assert all(set(row) == set(tables.metadata.tables[name].c.keys()) for row in rows[name])
    assert all(rows[name] for name in names()), "a table of which nothing is tested"


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
