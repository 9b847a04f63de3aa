"""Backups: rows that no database has are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from backup_support import (
    made,
    names,
    with_rows,
)

from keyd.config import Config
from keyd.core.backup import BackupError, Contents


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
