"""Backups: what the audit trail remembers of the time since, a restore does not undo."""

from __future__ import annotations

import gzip
from contextlib import closing
from pathlib import Path

import pytest
from backup_support import (
    database,
    made,
    numbers_of,
    on_record,
    passed_on,
    record,
    with_rows,
    with_trail,
)
from support import START

from keyd import backup as backups
from keyd.config import Config
from keyd.core.audit.record import timestamp
from keyd.core.backup import BackupError
from keyd.core.timeline import KeyState


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
