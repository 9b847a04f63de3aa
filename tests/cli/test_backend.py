"""``keyd backend`` and ``keyd key adopt``."""

from __future__ import annotations

import json
from pathlib import Path

from cli.fake_daemon import FakeDaemon, Run

from keyd.v1 import types_pb2


def test_list_says_what_is_wrong(daemon: FakeDaemon, run: Run) -> None:
    lines = run("backend", "list").stdout.splitlines()
    assert lines[1].split() == ["file", "file", "3", "Ed25519,", "ES256", "ok"]
    assert lines[2].endswith("token \\x1b[2Jgone")
    assert json.loads(run("backend", "list", "--json").stdout)["backends"][1]["name"] == "hsm"


def test_keys_shows_handles(daemon: FakeDaemon, run: Run) -> None:
    lines = [line.split() for line in run("backend", "keys", "hsm").stdout.splitlines()[1:]]
    assert lines == [["id=01", "agent", "2", "kid-2"], ["id=02", "-", "-"]]
    assert daemon.requests[-1].backend == "hsm"
    assert [key["handle"] for key in json.loads(run("backend", "keys", "hsm", "--unrecorded", "--json").stdout)["keys"]] == [
        "id=02"
    ]


def test_adopt_passes_the_handle_on(daemon: FakeDaemon, run: Run) -> None:
    result = run("key", "adopt", "legacy", "id=02", "--backend", "hsm", "--kid", "old", "--algorithm", "PS512")
    assert result.exit_code == 0, result.stderr
    request = daemon.requests[-1]
    assert (request.handle, request.kid, request.spec.name, request.spec.backend) == ("id=02", "old", "legacy", "hsm")
    assert request.spec.algorithm == types_pb2.ALGORITHM_PS512
    assert "ACTIVE" in result.stdout


def test_policy_of_a_store_without_policies_and_of_nothing(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "keyd.toml"
    path.write_text('[backends.scratch]\ntype = "memory"\n')
    for name, complaint in (("scratch", "type memory has no access policies"), ("nope", "no backend type 'nope'")):
        result = run("backend", "policy", name, "--config", str(path))
        assert (result.exit_code, result.stdout) == (2, "")
        assert complaint in result.stderr
