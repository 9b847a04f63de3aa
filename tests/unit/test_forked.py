"""Forked processes are what ``exec`` would have made, to those who look at them from outside and from within."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import forked
import pytest

NAME = "unit.test_forked"  # this file, as a module in the processes below


def run(tmp_path: Path, *arguments: str, env: dict[str, str] | None = None, pass_fds: tuple[int, ...] = ()) -> forked.Process:
    with (tmp_path / "out").open("ab") as out, (tmp_path / "err").open("ab") as err:
        return forked.Process(
            NAME, arguments, stdout=out.fileno(), stderr=err.fileno(), env=os.environ if env is None else env, pass_fds=pass_fds
        )


def test_it_has_what_it_was_given_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = run(tmp_path, "wait")
    with (tmp_path / "passed").open("w") as passed:
        process = run(tmp_path, "tell", "-x", env={"KEYD_ONE": "1"}, pass_fds=(passed.fileno(),))
        number = str(passed.fileno())
    assert process.wait(30) == 0
    told = json.loads((tmp_path / "out").read_text())
    assert told["arguments"] == ["tell", "-x"]
    assert told["environment"] == {"KEYD_ONE": "1"}
    assert told["directory"] == str(tmp_path)
    assert told["pid"] == process.pid
    files = {"0": "/dev/null", "1": str(tmp_path / "out"), "2": str(tmp_path / "err"), number: str(tmp_path / "passed")}
    assert told["files"] == files
    assert (told["keyd"], told["main"], told["threads"]) == (True, "__main__", 1)
    other.kill()
    assert other.wait(30) == -9


@pytest.mark.parametrize(("ends", "code"), [("0", 0), ("7", 7), ("raise", 1)])
def test_its_code_is_that_of_an_interpreter_which_ran_to_its_end(tmp_path, ends, code):
    process = run(tmp_path, "exit", ends)
    assert process.wait(30) == code == process.poll() == process.returncode
    assert (tmp_path / "out").read_text() == "at the end\n"
    assert ("ValueError" in (tmp_path / "err").read_text()) == (ends == "raise")


def test_a_signal_ends_it_and_is_its_code(tmp_path):
    process = run(tmp_path, "wait")
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == -signal.SIGTERM
    process.send_signal(signal.SIGKILL)  # to nobody
    assert not Path(f"/proc/{process.pid}").exists()


def test_one_whose_asker_was_interrupted_takes_no_others_with_it(tmp_path):
    other = run(tmp_path, "wait")
    report, theirs = os.pipe()
    os.close(report)
    order = {"arguments": [NAME, "exit", "0"], "environment": dict(os.environ), "directory": str(tmp_path), "numbers": []}
    forked._server().send(json.dumps(order).encode(), [theirs])
    os.close(theirs)
    assert run(tmp_path, "exit", "0").wait(30) == 0
    assert other.poll() is None
    other.kill()
    assert other.wait(30) == -9


def test_it_ends_with_who_asked_for_it(tmp_path):
    code = (
        "import os, forked\n"
        f"process = forked.Process({NAME!r}, ['wait'], stdout=1, stderr=2, env=os.environ)\n"
        "print(process.pid, flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    path = os.pathsep.join(filter(None, [str(Path(forked.__file__).parent), os.environ.get("PYTHONPATH")]))
    ran = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=30
    )
    assert ran.returncode == -9
    with suppress(ProcessLookupError):  # it may have ended by now
        ended = os.pidfd_open(int(ran.stdout))
        try:
            assert select.select([ended], [], [], 30)[0]
        finally:
            os.close(ended)


@pytest.mark.parametrize("name", ["PYTHONPATH", "LD_PRELOAD", "GRPC_VERBOSITY"])
def test_what_is_read_before_it_begins_needs_exec(name):
    assert forked.can_run({**os.environ, "KEYD_ONE": "1"})
    assert not forked.can_run({**os.environ, name: "other"})


def _tell() -> None:
    files = {each.name: str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()}
    print(
        json.dumps(
            {
                "arguments": sys.argv[1:],
                "environment": {name: value for name, value in os.environ.items() if name != "GRPC_EXPERIMENTS"},
                "directory": str(Path.cwd()),
                "pid": os.getpid(),
                "files": files,
                "keyd": "keyd.app" in sys.modules,
                "main": sys.modules["__main__"].__name__,
                "threads": len(list(Path("/proc/self/task").iterdir())),
            }
        )
    )


def _act() -> None:
    import atexit

    if sys.argv[1] == "tell":
        _tell()
    elif sys.argv[1] == "wait":
        signal.pause()
    elif sys.argv[1] == "exit":
        atexit.register(print, "at the end")
        sys.exit(int(sys.argv[2]))


if __name__ == "__main__":
    _act()
