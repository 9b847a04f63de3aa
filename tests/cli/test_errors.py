"""Exit codes, messages and hints."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from cli.fake_daemon import FakeDaemon, Run

from keyd.cli import errors

CODES = {
    grpc.StatusCode.NOT_FOUND: 3,
    grpc.StatusCode.PERMISSION_DENIED: 4,
    grpc.StatusCode.UNAUTHENTICATED: 4,
    grpc.StatusCode.INVALID_ARGUMENT: 4,
    grpc.StatusCode.FAILED_PRECONDITION: 5,
    grpc.StatusCode.UNAVAILABLE: 6,
    grpc.StatusCode.DEADLINE_EXCEEDED: 6,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 6,
    grpc.StatusCode.ALREADY_EXISTS: 7,
}


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK], ids=lambda code: code.name)
@pytest.mark.parametrize("reason", ["", "SOME_REASON"])
def test_exit_code_of_every_grpc_code(code: grpc.StatusCode, reason: str, daemon: FakeDaemon, run: Run) -> None:
    daemon.fail(code, reason, "no such luck")
    result = run("key", "disable", "agent")
    assert result.exit_code == CODES.get(code, 1)
    assert result.stdout == ""
    assert result.stderr.startswith("keyd: ") and "no such luck" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_table_has_no_other_rows() -> None:
    assert {code.name: number for code, number in CODES.items()} == errors.EXIT_CODES


def test_a_message_cannot_steer_the_terminal(daemon: FakeDaemon, run: Run) -> None:
    daemon.fail(grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "there is no key '\x1b[2J\nkeyd: ok'")
    stderr = run("key", "show", "x").stderr
    assert "\x1b" not in stderr
    assert "'\\x1b[2J\\nkeyd: ok'" in stderr


def test_a_rotated_key_hints_at_the_active_kid(daemon: FakeDaemon, run: Run) -> None:
    daemon.fail(grpc.StatusCode.FAILED_PRECONDITION, "KEY_STATE", "version 1 is deactivated", active_kid="k2")
    assert "the active kid is k2" in run("sign", "agent", "--base", stdin="x").stderr


def test_the_hint_of_a_backend_is_not_that_of_a_daemon(daemon: FakeDaemon, run: Run) -> None:
    daemon.fail(grpc.StatusCode.UNAVAILABLE, "BACKEND_UNAVAILABLE", "backend 'vault' is sealed")
    stderr = run("key", "disable", "agent").stderr
    assert "backend 'vault' is sealed" in stderr and "keyd serve" not in stderr


@pytest.mark.parametrize("placed", ["environment", "before", "after"])
def test_no_daemon(placed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    address = f"unix:{tmp_path}/none.sock"
    monkeypatch.setenv("KEYD_ADDRESS", address if placed == "environment" else "unix:/elsewhere.sock")
    option = ["--address", address]
    result = run(
        *(option if placed == "before" else []), "key", "disable", "a", *(option if placed == "after" else []), "--timeout", "5"
    )
    assert result.exit_code == 6
    assert "none.sock" in result.stderr
    assert "is the daemon running? start it with: keyd serve" in result.stderr


@pytest.mark.parametrize("address", ["nonsense", "unix:relative", "example.com:1"])
def test_a_bad_address_is_a_usage_error(address: str, run: Run) -> None:
    result = run("key", "list", "--address", address)
    assert result.exit_code == 2
    assert address in result.stderr


def test_no_option_of_that_name(run: Run) -> None:
    assert run("key", "list", "--nonsense").exit_code == 2
    assert run("nonsense").exit_code == 2


def test_a_defect_of_our_own_is_not_hidden(monkeypatch: pytest.MonkeyPatch, daemon: FakeDaemon, run: Run) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("defect")

    monkeypatch.setattr("keyd.cli.key_view.print_key", broken)
    result = run("key", "create", "agent")
    assert isinstance(result.exception, RuntimeError)


def test_interrupted(monkeypatch: pytest.MonkeyPatch, daemon: FakeDaemon, run: Run) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("keyd.client.AdminClient.get_key", interrupted)
    assert run("key", "show", "agent").exit_code == 130


def test_ctrl_c(tmp_path: Path) -> None:
    """A process that waits for its input, and the signal that a terminal sends."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = [sys.executable, "-m", "keyd", "sign", "agent", "--base", str(fifo)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with fifo.open("wb"):  # returns once the other end is open, and that is where it waits
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in stderr


@pytest.mark.parametrize("arguments", ["key list", "key list --json", "jwks", "sign k0 --base", "sign k0 --base --raw"])
def test_a_broken_pipe_is_quiet(arguments: str, daemon: FakeDaemon) -> None:
    for number in range(50):
        daemon.add(f"k{number}")
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "keyd", *arguments.split()]
    done = subprocess.run(command, input=b"x", stdout=writing, stderr=subprocess.PIPE, timeout=60)
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode == 1
