"""``keyd key``: what is asked of the daemon, what is printed, and what is asked of people first."""

from __future__ import annotations

import json

import pytest
from cli.fake_daemon import FakeDaemon, Run
from google.protobuf.timestamp_pb2 import Timestamp

from keyd.v1 import types_pb2


def test_create_passes_the_spec_on(daemon: FakeDaemon, run: Run) -> None:
    daemon.warnings = ["mind \x1b[31mthis"]
    arguments = (
        "--algorithm es256 --backend vault --purpose http --purpose jwt --profile aauth --kid-format name-version"
        " --keyid-alias a1 --unpublished --publish-lead 1h30m --sign-grace 0 --retention 7d"
    )
    result = run("key", "create", "agent", *arguments.split())
    assert result.exit_code == 0, result.stderr
    spec = daemon.requests[0].spec
    assert (spec.name, spec.algorithm, spec.backend, spec.profile) == ("agent", types_pb2.ALGORITHM_ES256, "vault", "aauth")
    assert list(spec.purposes) == [types_pb2.PURPOSE_HTTP, types_pb2.PURPOSE_JWT]
    assert (spec.kid_format, list(spec.keyid_aliases), spec.unpublished) == (types_pb2.KID_FORMAT_NAME_VERSION, ["a1"], True)
    lifecycle = spec.lifecycle
    assert (lifecycle.publish_lead.seconds, lifecycle.retention.seconds) == (5400, 604800)
    assert lifecycle.HasField("sign_grace") and lifecycle.sign_grace.seconds == 0
    assert result.stderr == "warning: mind \\x1b[31mthis\n"
    assert "ACTIVE" in result.stdout


def test_create_leaves_defaults_to_the_daemon(daemon: FakeDaemon, run: Run) -> None:
    assert run("key", "create", "agent").exit_code == 0
    spec = daemon.requests[0].spec
    assert {field.name for field, _ in spec.ListFields()} == {"name"}


@pytest.mark.parametrize("value", ["soon", "10", "-5s", "5 parsecs", ""])
def test_durations(value: str, daemon: FakeDaemon, run: Run) -> None:
    assert run("key", "create", "agent", f"--retention={value}").exit_code == (0 if value == "10" else 2)


def test_list_cuts_nothing_when_piped(daemon: FakeDaemon, run: Run) -> None:
    first, second = daemon.add("a-key"), daemon.add("b-key")
    second.disable_time.CopyFrom(Timestamp(seconds=5))
    lines = run("key", "list", env={"COLUMNS": "40"}).stdout.splitlines()
    assert len(lines) == 3
    assert first.versions[0].kid in lines[1] and "active" in lines[1]
    assert "(2023-11-14 22:13:20Z)" in lines[1]
    assert "disabled" in lines[2]
    assert "\x1b" not in "".join(lines)


def test_list_of_nothing_says_what_to_do(daemon: FakeDaemon, run: Run) -> None:
    result = run("key", "list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "keyd key create NAME" in result.stderr
    assert json.loads(run("key", "list", "--json").stdout) == {"keys": []}


def test_show_draws_the_timeline(daemon: FakeDaemon, run: Run) -> None:
    key = daemon.add("agent")
    key.versions[0].timeline.deactivate_time.seconds = 4_000_000_000
    daemon.add_version(key, types_pb2.KEY_STATE_PRE_ACTIVATION, activate=4_000_000_000)
    text = run("key", "show", "agent").stdout
    newest, oldest = text.index("version 2"), text.index("version 1")
    assert newest < oldest
    assert "● activated" in text[oldest:] and "○ deactivates" in text[oldest:] and "(2096-10-02 07:06:40Z)" in text[oldest:]
    assert "│ now" in text
    assert text[newest:oldest].count("○ activates") == 1


def test_show_in_ascii(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("agent")
    from click.testing import CliRunner

    from keyd.cli import cli

    result = CliRunner(charset="ascii").invoke(cli, ["key", "show", "agent"])
    assert result.exit_code == 0
    assert "* activated" in result.stdout


def test_show_does_not_let_a_name_steer_the_terminal(daemon: FakeDaemon, run: Run) -> None:
    key = daemon.add("agent")
    key.versions[0].compromise_reason = "\x1b]0;owned\x07 [red]x[/red]\nfake line"
    text = run("key", "show", "agent").stdout
    assert "\x1b" not in text
    assert "\\x1b]0;owned\\x07 [red]x[/red]\\nfake line" in text


def test_compromised_versions_show_no_future(daemon: FakeDaemon, run: Run) -> None:
    key = daemon.add("agent")
    version = key.versions[0]
    version.state, version.published = types_pb2.KEY_STATE_COMPROMISED, False
    version.timeline.unpublish_time.seconds = 4_000_000_000
    version.timeline.compromise_time.seconds = 1_700_000_100
    text = run("key", "show", "agent").stdout
    assert "COMPROMISED  not published" in text
    assert "unpublished" not in text.split("version 1")[1]
    assert text.rstrip().endswith("│ now")


@pytest.mark.parametrize(
    "arguments",
    [
        "key create new",
        "key list",
        "key show agent",
        "key rotate agent",
        "key rotate agent --now --yes",
        "key disable agent",
        "key enable agent",
        "key compromise agent 1 --reason r --yes",
        "key destroy agent 1 --yes",
    ],
)
def test_json(arguments: str, daemon: FakeDaemon, run: Run) -> None:
    daemon.add("agent")
    daemon.warnings = ["careful"]
    result = run(*arguments.split(), "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    key = document["keys"][0] if "keys" in document else document["key"]
    version = key["versions"][0]
    assert version["public_jwk"]["kty"] == "OKP"
    assert (version["state"], version["published"], version["version"]) == ("KEY_STATE_ACTIVE", True, 1)
    assert version["timeline"]["create_time"] == "2023-11-14T22:13:20Z"
    if "warnings" in document:
        assert document["warnings"] == ["careful"]
        assert result.stderr == "warning: careful\n"


def test_rotate_says_when(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("agent")
    result = run("key", "rotate", "agent")
    assert result.exit_code == 0
    assert "agent: version 2 (kid agent-kid-2-" in result.stdout
    assert "activates in " in result.stdout and "(2096-10-02 07:06:40Z)" in result.stdout
    assert not daemon.requests[0].now


DESTRUCTIVE = ["key rotate agent --now", "key compromise agent 1 --reason leaked", "key destroy agent 1 --force"]


@pytest.mark.parametrize("arguments", DESTRUCTIVE)
def test_without_a_terminal_destructive_commands_need_yes(arguments: str, daemon: FakeDaemon, run: Run) -> None:
    daemon.add("agent")
    result = run(*arguments.split(), stdin="agent\ny\n")
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert daemon.requests == []
    assert run(*arguments.split(), "--yes").exit_code == 0
    assert len(daemon.requests) == 1


@pytest.mark.parametrize("arguments", DESTRUCTIVE)
@pytest.mark.parametrize("answer", ["n\n", "agents\n", "Agent\n"])
@pytest.mark.usefixtures("terminal")
def test_a_wrong_answer_does_nothing(arguments: str, answer: str, daemon: FakeDaemon, run: Run) -> None:
    daemon.add("agent")
    result = run(*arguments.split(), stdin=answer + "n\n")
    assert result.exit_code == 1
    assert "nothing was done" in result.stderr
    assert daemon.requests == []


@pytest.mark.parametrize("arguments", DESTRUCTIVE)
@pytest.mark.usefixtures("terminal")
def test_no_answer_does_nothing(arguments: str, daemon: FakeDaemon, run: Run) -> None:
    daemon.add("agent")
    assert run(*arguments.split(), stdin="").exit_code == 130
    assert daemon.requests == []


@pytest.mark.parametrize("arguments", DESTRUCTIVE)
@pytest.mark.usefixtures("terminal")
def test_the_right_answer_goes_on(arguments: str, daemon: FakeDaemon, run: Run) -> None:
    daemon.add("agent")
    result = run(*arguments.split(), stdin="y\n" if "rotate" in arguments else "agent\n")
    assert result.exit_code == 0, result.stderr
    request = daemon.requests[0]
    assert request.name == "agent"
    if "rotate" in arguments:
        assert request.now
    elif "compromise" in arguments:
        assert (request.version, request.reason) == (1, "leaked")
    else:
        assert (request.version, request.force) == (1, True)


@pytest.mark.parametrize("arguments", ["key destroy agent 0 --yes", "key compromise agent 1 --yes", "key destroy agent --yes"])
def test_usage(arguments: str, daemon: FakeDaemon, run: Run) -> None:
    assert run(*arguments.split()).exit_code == 2
    assert daemon.requests == []
