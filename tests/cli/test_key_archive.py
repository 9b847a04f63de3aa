"""``keyd key archive``: what was ever recorded, for those who verify old signatures."""

from __future__ import annotations

import json

from cli.fake_daemon import FakeDaemon, Run
from google.protobuf.timestamp_pb2 import Timestamp

from keyd.cli import errors
from keyd.v1 import types_pb2


def filled(daemon: FakeDaemon) -> tuple[types_pb2.KeyVersion, types_pb2.KeyVersion]:
    """Put in a key with a destroyed and an active version, and another key."""
    key = daemon.add("agent")
    first = key.versions[0]
    first.state = types_pb2.KEY_STATE_DESTROYED
    first.timeline.sign_until_time.CopyFrom(Timestamp(seconds=1_700_000_300))
    first.timeline.destroy_time.CopyFrom(Timestamp(seconds=1_700_009_000))
    second = daemon.add_version(key, types_pb2.KEY_STATE_ACTIVE, activate=1_700_000_200)
    daemon.add("other")
    return first, second


def test_every_version_is_listed_with_its_time(daemon: FakeDaemon, run: Run) -> None:
    first, second = filled(daemon)
    lines = run("key", "archive").stdout.splitlines()
    assert len(lines) == 4
    assert first.kid in lines[1] and "destroyed" in lines[1]
    assert "2023-11-14 22:18:20Z" in lines[1], "when it stopped signing, not when it was destroyed"
    assert second.kid in lines[2] and lines[2].rstrip().endswith("-")


def test_of_one_key(daemon: FakeDaemon, run: Run) -> None:
    filled(daemon)
    entries = json.loads(run("key", "archive", "other", "--json").stdout)["versions"]
    assert [(entry["key"], entry["version"]) for entry in entries] == [("other", 1)]
    assert entries[0]["public_jwk"]["kid"] == entries[0]["kid"]
    assert run("key", "archive", "nobody").exit_code == errors.NOT_FOUND


def test_the_jwk_of_a_kid(daemon: FakeDaemon, run: Run) -> None:
    first, _ = filled(daemon)
    jwk = json.loads(run("key", "archive", "--kid", first.kid).stdout)
    assert (jwk["kid"], jwk["alg"], jwk["crv"]) == (first.kid, "Ed25519", "Ed25519")
    assert "d" not in jwk
    assert json.loads(run("key", "archive", "agent", "--kid", first.thumbprint, "--json").stdout) == jwk
    for arguments in (("--kid", "never-was"), ("other", "--kid", first.kid)):
        result = run("key", "archive", *arguments)
        assert (result.exit_code, result.stdout) == (errors.NOT_FOUND, "")


def test_of_nothing(daemon: FakeDaemon, run: Run) -> None:
    result = run("key", "archive")
    assert result.exit_code == 0
    assert result.stderr == "no key was ever recorded\n"
