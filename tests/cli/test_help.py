"""Help, documentation and start-up of every command, found by walking the tree."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from cli.fake_daemon import Run

from keyd import __version__
from keyd.cli import cli, errors

DOCS = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()


def _commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from _commands(child, (*path, name))


COMMANDS = dict(_commands(cli))


def test_the_commands_are_those_promised() -> None:
    assert {" ".join(path) for path in COMMANDS} == {
        *("", "serve", "demo", "sign", "jwt", "jwks", "request", "bench", "completion", "config", "config check", "config show"),
        *("key", "key create", "key list", "key show", "key rotate", "key import", "key disable", "key enable"),
        *(
            "key compromise",
            "key destroy",
            "key adopt",
            "key archive",
            "backend",
            "backend list",
            "backend keys",
            "backend policy",
        ),
        *("key plan", "key timeline", "key rollback", "key pause", "key resume", "key set"),
        *("policy", "policy check", "policy explain"),
        *("audit", "audit verify", "audit tail", "audit grep"),
        *("directory", "directory check"),
        *("session", "session list", "session revoke"),
        *("token", "token issue", "token revoke", "token list"),
        *("backup", "backup create", "backup verify", "backup restore"),
    }


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_ends_with_examples(path: tuple[str, ...], run: Run) -> None:
    result = run(*path, "--help")
    assert result.exit_code == 0
    _, found, examples = result.stdout.partition("\nExamples:\n")
    assert found and examples.strip()
    assert "keyd " + " ".join(path) in examples
    assert all(len(line) <= 120 for line in examples.splitlines())


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_reference_names_every_command_and_option(path: tuple[str, ...]) -> None:
    heading = f"\n### keyd {' '.join(path)}\n" if path else "\n## Global options\n"
    assert heading in DOCS
    section = re.split(r"\n##", DOCS.split(heading)[1])[0]
    parameters = [parameter for parameter in COMMANDS[path].params if isinstance(parameter, click.Option)]
    shared = {"--address", "--timeout", "--json"} if path else set()
    for parameter in parameters:
        for name in (*parameter.opts, *parameter.secondary_opts):
            assert name in shared or f"`{name}" in section, f"{name} is not in the section of keyd {' '.join(path)}"


def test_the_reference_has_every_exit_code() -> None:
    table = DOCS.split("\n## Exit codes\n")[1].split("\n## ")[0]
    rows = {int(row) for row in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    assert rows == {0, errors.FAILURE, errors.USAGE, errors.BAD_CONFIG, errors.INTERRUPTED, *errors.EXIT_CODES.values()}
    for code in errors.EXIT_CODES:
        assert f"`{code}`" in table


def test_version(run: Run) -> None:
    assert run("--version").stdout == f"keyd {__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["sign", "--help"], ["key", "import", "--help"], ["request", "--help"]])
def test_start_is_light(arguments: list[str]) -> None:
    """Neither the daemon's libraries nor grpc are needed to say how a command is used."""
    script = (
        "import sys\nfrom keyd.cli import cli\n"
        f"try: cli({arguments!r}, prog_name='keyd')\n"
        "except SystemExit as exc: assert not exc.code\n"
        "print([name for name in ('sqlalchemy', 'pydantic', 'grpc', 'httpx', 'rich') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stderr == "[]\n"


def test_the_client_side_is_light() -> None:
    script = (
        "import sys, keyd.cli, keyd.client, keyd.cli.sign\nprint([n for n in ('sqlalchemy', 'pydantic') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "keyd", "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: keyd ")
    assert "click" in done.stderr
    assert not re.search(r"\b(sqlalchemy|pydantic)\b", done.stderr)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, run: Run) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert f"_KEYD_COMPLETE={shell}_complete" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("# install it with: keyd completion")


def test_completion_answers() -> None:
    environment = {"_KEYD_COMPLETE": "bash_complete", "COMP_WORDS": "keyd key ro", "COMP_CWORD": "2"}
    done = subprocess.run([sys.executable, "-m", "keyd"], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "plain,rotate\nplain,rollback\n", done.stderr


def test_completion_of_another_shell(run: Run) -> None:
    assert run("completion", "tcsh").exit_code == errors.USAGE
