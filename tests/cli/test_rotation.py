"""``keyd key plan``, ``timeline`` and what steers rotation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from cli.fake_daemon import CREATED, FakeDaemon, Run
from click.testing import CliRunner
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from keyd.cli import cli, timeline_view
from keyd.v1 import key_service_pb2 as pb
from keyd.v1 import types_pb2

DAY = 86400
NOW = CREATED + 40 * DAY


def step(kind: int, version: int, day: float, **fields: object) -> pb.PlannedStep:
    return pb.PlannedStep(key="agent", version=version, kind=kind, time=Timestamp(seconds=int(CREATED + day * DAY)), **fields)  # type: ignore[arg-type]


STEPS = [
    step(pb.STEP_KIND_UNPUBLISH, 1, 42),
    step(pb.STEP_KIND_CREATE, 3, 56, deadline=Timestamp(seconds=CREATED + 59 * DAY)),
    step(pb.STEP_KIND_PUBLISH, 3, 59),
    step(pb.STEP_KIND_ACTIVATE, 3, 60),
    step(pb.STEP_KIND_STOP_SIGNING, 2, 60.1),
    step(pb.STEP_KIND_UNPUBLISH, 2, 62),
    step(pb.STEP_KIND_DESTROY, 1, 72),
]


@pytest.fixture
def at_day_40(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> FakeDaemon:
    """A key that is in the middle of its second version, and whose third is planned."""
    monkeypatch.setattr("keyd.cli.key_rotation.time", SimpleNamespace(time=lambda: float(NOW)))
    key = daemon.add("agent", lifecycle=types_pb2.LifecyclePolicy(rotation_period=Duration(seconds=30 * DAY)))
    first = key.versions[0]
    first.state = types_pb2.KEY_STATE_DEACTIVATED
    for field, day in (("deactivate_time", 30), ("sign_until_time", 30.1), ("unpublish_time", 42)):
        getattr(first.timeline, field).seconds = int(CREATED + day * DAY)
    second = daemon.add_version(key, types_pb2.KEY_STATE_ACTIVE, activate=CREATED + 30 * DAY)
    second.timeline.create_time.seconds = CREATED + 22 * DAY
    second.timeline.publish_time.seconds = CREATED + 26 * DAY
    daemon.planned = pb.PlanRotationsResponse(steps=STEPS)
    return daemon


DRAWN = """\
                                                       now
version 3    planned                                   │           ··██████████
version 2    active                        ··░░░█████████████████████▓▒········
version 1    deactivated   █████████████████████▓▒▒▒▒▒▒▒▒····················†
                          ┴────────────────────────────│──────────────────────┴
                          2023-11-13                                 2024-01-27

░ published, waits  █ active  ▓ signs what names it  ▒ published only
· not published  ✗ compromised  † private key destroyed
"""


def test_the_timeline_is_drawn(at_day_40: FakeDaemon, run: Run) -> None:
    result = run("key", "timeline", "agent")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == DRAWN
    assert at_day_40.requests[-1].horizon.seconds == 45 * DAY


def test_the_reference_shows_it() -> None:
    assert f"```\n{DRAWN}```" in (Path(__file__).parents[2] / "docs" / "cli.md").read_text()


def test_the_timeline_in_ascii(at_day_40: FakeDaemon) -> None:
    result = CliRunner(charset="ascii").invoke(cli, ["key", "timeline", "agent"])
    table = dict(zip("·░█▓▒✗†│─┴", ".:#=-x+|-^", strict=True))
    assert result.stdout == "".join(table.get(glyph, glyph) for glyph in DRAWN)


@pytest.mark.parametrize("width", [30, 60, 81, 200])
def test_it_is_as_wide_as_it_may_be(at_day_40: FakeDaemon, width: int) -> None:
    drawn = timeline_view.draw(timeline_view.lives(at_day_40.keys["agent"], STEPS), NOW, width, timeline_view.UNICODE)
    bars = [line.plain for line in drawn[: drawn.index(next(line for line in drawn if not line.plain))]]
    assert max(map(len, bars)) == max(width - 1, 46)


def test_marks_of_compromise_and_destruction(at_day_40: FakeDaemon, run: Run) -> None:
    version = at_day_40.keys["agent"].versions[1]
    version.state = types_pb2.KEY_STATE_COMPROMISED
    version.timeline.compromise_time.seconds = CREATED + 35 * DAY
    version.timeline.destroy_time.seconds = CREATED + 39 * DAY
    at_day_40.planned = pb.PlanRotationsResponse()
    [line] = [line for line in run("key", "timeline", "agent").stdout.splitlines() if line.startswith("version 2")]
    assert re.search("░█+✗·+†$", line.replace("│", "").rstrip()), line


def test_versions_that_are_long_gone_are_left_out(at_day_40: FakeDaemon, run: Run) -> None:
    result = run("key", "timeline", "agent", "--within", "1h")
    assert "version 1" in result.stdout  # still published
    at_day_40.keys["agent"].versions[0].timeline.unpublish_time.seconds = CREATED + 35 * DAY
    at_day_40.planned = pb.PlanRotationsResponse()
    result = run("key", "timeline", "agent", "--within", "1h")
    assert "version 1" not in result.stdout and "1 versions that are long gone" in result.stderr
    result = run("key", "timeline", "agent", "--within", "1h", "--all")
    assert "version 1" in result.stdout and result.stderr == ""


def test_a_paused_key_says_so(at_day_40: FakeDaemon, run: Run) -> None:
    at_day_40.keys["agent"].pause_time.seconds = NOW
    assert "keyd key resume agent" in run("key", "timeline", "agent").stderr


def test_the_timeline_as_json(at_day_40: FakeDaemon, run: Run) -> None:
    document = json.loads(run("key", "timeline", "agent", "--json").stdout)
    assert document["key"]["name"] == "agent"
    assert document["steps"][1]["kind"] == "STEP_KIND_CREATE"


def test_the_plan(at_day_40: FakeDaemon, run: Run) -> None:
    at_day_40.planned.steps.append(step(pb.STEP_KIND_CREATE, 4, 70, delay="late \x1b[31m(away)"))
    at_day_40.planned.truncated = True
    result = run("key", "plan", "agent", "--within", "90d")
    assert (at_day_40.requests[-1].name, at_day_40.requests[-1].horizon.seconds) == ("agent", 90 * DAY)
    lines = result.stdout.splitlines()
    assert re.fullmatch(r"in 2 d \(2023-12-26 22:13:20Z\) +agent +1 +leaves the JWK Set *", lines[1])
    assert re.fullmatch(r"in 16 d .* agent +3 +is made +deadline in 19 d *", lines[2])
    assert "late \\x1b[31m(away)" in lines[-1]
    assert "first 8 steps" in result.stderr


def test_the_plan_of_all_keys_and_of_nothing(daemon: FakeDaemon, run: Run) -> None:
    result = run("key", "plan")
    assert (daemon.requests[-1].name, daemon.requests[-1].horizon.seconds) == ("", 30 * DAY)
    assert (result.stdout, result.stderr) == ("", "nothing happens within 30 d\n")
    assert json.loads(run("key", "plan", "--json").stdout) == {"steps": [], "truncated": False}


def test_rollback_asks_first(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("agent")
    assert run("key", "rollback", "agent").exit_code == 2
    assert daemon.requests == []
    result = run("key", "rollback", "agent", "--yes")
    assert result.stdout == "agent: version 1 is active again\n"
    assert json.loads(run("key", "rollback", "agent", "--yes", "--json").stdout)["version"] == 1


@pytest.mark.parametrize("command", ["pause", "resume"])
def test_pause_and_resume(command: str, daemon: FakeDaemon, run: Run) -> None:
    daemon.add("agent")
    assert run("key", command, "agent").stdout.startswith("agent: rotat")
    assert type(daemon.requests[-1]).__name__ == f"{command.capitalize()}KeyRequest"
    assert json.loads(run("key", command, "agent", "--json").stdout)["key"]["name"] == "agent"
    assert run("key", command, "nobody").exit_code == 3


def test_set_sends_what_is_given_and_nothing_else(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("agent")
    daemon.warnings = ["short"]
    result = run("key", "set", "agent", "--rotation-period", "20d", "--destroy-after", "0")
    lifecycle = daemon.requests[-1].lifecycle
    assert {field.name for field, _ in lifecycle.ListFields()} == {"rotation_period", "destroy_after"}
    assert (lifecycle.rotation_period.seconds, lifecycle.destroy_after.seconds) == (20 * DAY, 0)
    assert result.stderr == "warning: short\n" and "agent" in result.stdout
    assert json.loads(run("key", "set", "agent", "--retention", "3d", "--json").stdout)["warnings"] == ["short"]


def test_set_of_nothing_is_a_mistake(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("agent")
    result = run("key", "set", "agent")
    assert result.exit_code == 2 and "say which period" in result.stderr
    assert daemon.requests == []
