"""Times for people, and output on a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest
from cli.fake_daemon import FakeDaemon

from keyd.cli import times

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (NOW, "now"),
        (NOW + 45, "in 45 s"),
        (NOW + 59.6, "in 1 min"),
        (NOW - 60, "1 min ago"),
        (NOW + 3600 + 120, "in 1 h 2 min"),
        (NOW - 86400 * 3 - 3600 * 4, "3 d 4 h ago"),
        (NOW - 86400 * 3 - 60, "3 d ago"),
    ],
)
def test_relative(at: float, text: str) -> None:
    assert times.relative(at, NOW) == text


def test_both() -> None:
    assert times.both(NOW + 60, NOW) == "in 1 min (2027-01-15 08:01:00Z)"


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """Run the command line with a terminal of 80 columns for its output, and return what it shows."""
    outer, inner = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", **environment}
    for name in {"NO_COLOR", "FORCE_COLOR"} - set(environment):
        env.pop(name, None)
    with subprocess.Popen([sys.executable, "-m", "keyd", *arguments], stdout=inner, env=env) as process:
        os.close(inner)
        text = b""
        try:
            while part := os.read(outer, 65536):
                text += part
        except OSError:  # how Linux says that the other end of a terminal is gone
            pass
        assert process.wait(timeout=30) == 0
    os.close(outer)
    return text.decode()


def test_colours_on_a_terminal_only(daemon: FakeDaemon) -> None:
    daemon.add("agent")
    assert "\x1b[" in on_a_terminal("key", "show", "agent")
    assert "\x1b" not in on_a_terminal("key", "show", "agent", NO_COLOR="1")


def test_a_narrow_terminal_folds_kids_and_loses_nothing(daemon: FakeDaemon) -> None:
    kid = daemon.add("agent").versions[0].kid
    text = on_a_terminal("key", "list", NO_COLOR="1", COLUMNS="100")
    assert kid not in text
    assert "…" not in text
    lines = text.splitlines()
    assert all(word in lines[1] for word in ("NAME", "ALGORITHM", "KID", "NEXT CHANGE"))
    column = lines[1].index("KID")
    assert kid == "".join(line[column:].split(" ")[0] for line in lines[3:])


def test_no_colours_in_a_pipe(daemon: FakeDaemon) -> None:
    daemon.add("agent")
    env = {**os.environ, "TERM": "xterm-256color", "FORCE_COLOR": "1"}
    done = subprocess.run([sys.executable, "-m", "keyd", "key", "show", "agent"], capture_output=True, timeout=30, env=env)
    assert b"version 1" in done.stdout
    assert b"\x1b" not in done.stdout
