"""Hardening, the lock, the supervisor's socket and the place of our own, against the real kernel."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from keyd import process


def run(code: str, *args: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=30, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


HARDENED = """
import ctypes, os, resource
from keyd import process
assert process.harden() == []
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(
    ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), status["NoNewPrivs"].strip(),
    resource.getrlimit(resource.RLIMIT_CORE), oct(os.umask(0)),
)
"""


def test_hardening_takes_effect():
    assert run(HARDENED) == "0 1 (0, 0) 0o77"


def test_the_hardening_test_sees_a_process_that_is_not():
    plain = HARDENED.replace("assert process.harden() == []", "")
    assert run(plain).split()[:2] != ["0", "1"]


def test_hardening_says_what_it_could_not_do():
    code = """
import resource
from unittest.mock import patch
from keyd import process
with patch.object(process, "_PR_SET_DUMPABLE", 10**6), patch.object(resource, "setrlimit", side_effect=ValueError("no")):
    print(process.harden())
"""
    assert run(code) == "['cannot turn core dumps off: no', 'cannot keep debuggers out: Invalid argument']"


class TestLock:
    HOLD = """
import sys, pathlib
from keyd import process
with process.lock_file(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""

    @pytest.fixture
    def holder(self, tmp_path):
        with subprocess.Popen(
            [sys.executable, "-c", self.HOLD, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout.readline() == "held\n"
            yield child
            child.kill()

    def test_a_second_process_is_refused_and_told_the_pid(self, holder, tmp_path):
        with (
            pytest.raises(process.AlreadyRunningError, match=f"pid {holder.pid} holds {tmp_path}/lock"),
            process.lock_file(tmp_path / "lock"),
        ):
            pass

    def test_the_kernel_frees_the_lock_of_a_killed_process(self, holder, tmp_path):
        holder.kill()
        holder.wait()
        with process.lock_file(tmp_path / "lock"):
            assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"

    def test_a_pid_that_is_none_is_not_shown(self, holder, tmp_path):
        (tmp_path / "lock").write_text("\x1b[2Jforged\n")
        with pytest.raises(process.AlreadyRunningError, match="another process holds"), process.lock_file(tmp_path / "lock"):
            pass

    def test_it_is_free_again_afterwards_even_after_an_error(self, tmp_path):
        with pytest.raises(KeyError), process.lock_file(tmp_path / "lock"):
            raise KeyError
        with process.lock_file(tmp_path / "lock"):
            pass
        assert (tmp_path / "lock").read_text() == ""

    def test_a_link_is_not_followed(self, tmp_path):
        (tmp_path / "precious").write_text("kept")
        (tmp_path / "lock").symlink_to(tmp_path / "precious")
        with pytest.raises(process.ProcessError, match="cannot open the lock file"), process.lock_file(tmp_path / "lock"):
            pass
        assert (tmp_path / "precious").read_text() == "kept"

    def test_a_pipe_is_refused(self, tmp_path):
        os.mkfifo(tmp_path / "lock")
        with pytest.raises(process.ProcessError, match="is not a file"), process.lock_file(tmp_path / "lock"):
            pass


class TestNotify:
    @pytest.fixture(params=["path", "abstract"])
    def manager(self, request, tmp_path, monkeypatch):
        name = f"{tmp_path}/n" if request.param == "path" else f"@keyd-test-{os.getpid()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
            server.bind(name.replace("@", "\0"))
            server.settimeout(5)
            monkeypatch.setenv("NOTIFY_SOCKET", name)
            yield server

    def test_state_arrives(self, manager):
        assert process.notify("READY=1")
        assert manager.recv(4096) == b"READY=1"

    def test_reloading_carries_the_time(self, manager):
        assert process.notify("RELOADING=1")
        first, second = manager.recv(4096).decode().split("\n")
        assert first == "RELOADING=1"
        assert second.removeprefix("MONOTONIC_USEC=").isdigit()

    def test_a_library_cannot_speak_for_keyd(self, manager, monkeypatch):
        monkeypatch.setattr(process, "_environment", {})
        process.take_service_manager()
        assert "NOTIFY_SOCKET" not in os.environ
        assert process.notify("READY=1")
        assert manager.recv(4096) == b"READY=1"

    @pytest.mark.parametrize("address", ["", "relative", "/nowhere/at/all", "/" + "a" * 200])
    def test_no_manager_is_no_error(self, monkeypatch, address):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        assert not process.notify("READY=1")


class TestSocket:
    def listen(self, path: Path, kind: int = socket.SOCK_STREAM) -> socket.socket:
        server = socket.socket(socket.AF_UNIX, kind)
        server.bind(str(path))
        if kind == socket.SOCK_STREAM:
            server.listen(0)
        return server

    def test_a_missing_directory_is_made_private(self, tmp_path):
        process.prepare_socket(tmp_path / "a" / "b" / "s")
        assert [(tmp_path / d).stat().st_mode & 0o777 for d in ("a", "a/b")] == [0o700, 0o700]

    def test_a_live_socket_is_refused_and_stays(self, tmp_path):
        with self.listen(tmp_path / "s"):
            with pytest.raises(process.AlreadyRunningError, match="something listens on"):
                process.prepare_socket(tmp_path / "s")
            assert (tmp_path / "s").is_socket()

    def test_a_live_socket_with_a_full_backlog_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr(process, "_PROBE_TIMEOUT", 0.05)
        with self.listen(tmp_path / "s"), socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
            one.connect(str(tmp_path / "s"))
            two.setblocking(False)
            two.connect_ex(str(tmp_path / "s"))
            with pytest.raises(process.AlreadyRunningError):
                process.prepare_socket(tmp_path / "s")

    def test_a_live_datagram_socket_is_refused(self, tmp_path):
        with self.listen(tmp_path / "s", socket.SOCK_DGRAM), pytest.raises(process.AlreadyRunningError):
            process.prepare_socket(tmp_path / "s")

    def test_a_stale_socket_is_removed(self, tmp_path):
        self.listen(tmp_path / "s").close()
        assert (tmp_path / "s").is_socket()
        process.prepare_socket(tmp_path / "s")
        assert not (tmp_path / "s").exists()

    @pytest.mark.parametrize(
        "make", [Path.touch, Path.mkdir, lambda path: path.symlink_to("x")], ids=["file", "directory", "link"]
    )
    def test_what_is_no_socket_is_kept(self, tmp_path, make):
        make(tmp_path / "s")
        with pytest.raises(process.ProcessError, match="is not a socket"):
            process.prepare_socket(tmp_path / "s")
        assert os.path.lexists(tmp_path / "s")

    @pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
    @pytest.mark.parametrize("place", ["d", "d/sub"], ids=["directory", "parent"])
    def test_a_directory_that_others_can_write_is_refused(self, tmp_path, mode, place):
        (tmp_path / "d" / "sub").mkdir(parents=True)
        (tmp_path / "d").chmod(mode)
        with pytest.raises(process.ProcessError, match=f"{tmp_path}/d is writable by others.*chmod go-w"):
            process.prepare_socket(tmp_path / place / "s")

    def test_a_link_to_such_a_directory_is_refused(self, tmp_path):
        (tmp_path / "d").mkdir()
        (tmp_path / "d").chmod(0o777)
        (tmp_path / "link").symlink_to(tmp_path / "d")
        with pytest.raises(process.ProcessError, match="writable by others"):
            process.prepare_socket(tmp_path / "link" / "s")

    def test_a_sticky_directory_is_taken(self, tmp_path):
        (tmp_path / "d").mkdir()
        (tmp_path / "d").chmod(0o1777)
        process.prepare_socket(tmp_path / "d" / "s")

    def test_a_directory_of_somebody_else_is_refused(self, tmp_path, monkeypatch):
        real = Path.stat

        def foreign(self, **options):
            found = real(self, **options)
            return os.stat_result([*found[:4], 4711, *found[5:10]]) if self.name == "d" else found

        (tmp_path / "d").mkdir()
        monkeypatch.setattr(Path, "stat", foreign)
        with pytest.raises(process.ProcessError, match="belongs to uid 4711"):
            process.prepare_socket(tmp_path / "d" / "s")

    def test_a_file_for_a_directory_is_refused(self, tmp_path):
        (tmp_path / "d").touch()
        with pytest.raises(process.ProcessError, match="is not a directory"):
            process.prepare_socket(tmp_path / "d" / "s")

    def test_a_path_too_long_is_refused_in_bytes(self):
        assert process.socket_path_problem(Path("/" + "a" * 106)) is None
        with pytest.raises(process.ProcessError, match="has 109 bytes and a socket takes 107"):
            process.prepare_socket(Path("/" + "\u00e9" * 54))

    def test_a_relative_path_is_refused(self):
        with pytest.raises(process.ProcessError, match="not absolute"):
            process.prepare_socket(Path("keyd.sock"))


@pytest.mark.parametrize(("given", "used"), [(None, "-event_engine_listener"), ("", ""), ("tcp_rcv_lowat", "tcp_rcv_lowat")])
def test_what_the_operator_says_to_grpcio_stands(given: str | None, used: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRPC_EXPERIMENTS", raising=False)
    if given is not None:
        monkeypatch.setenv("GRPC_EXPERIMENTS", given)
    process.prepare_grpc()
    assert os.environ["GRPC_EXPERIMENTS"] == used


def test_grpcio_is_prepared_before_it_is_imported() -> None:
    """And knows the experiment: of one that it does not it says so on standard error."""
    code = "import sys, keyd.cli.serve, keyd.process as p; assert 'grpc' not in sys.modules; p.prepare_grpc(); import keyd.app, grpc.aio"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "GRPC_EXPERIMENTS": ""}
    )
    assert (done.returncode, done.stderr) == (0, "")
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_EXPERIMENTS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_is_made_while_the_daemon_settles_is_kept_out_of_the_search_for_garbage() -> None:
    made = "import gc, keyd.process as p\n{} made = [[] for _ in range(5000)]; inside = gc.isenabled()\nprint(inside, gc.isenabled(), gc.get_freeze_count() > 5000)"
    assert run_python(made.format("with p.settling():")) == "False True True"
    assert run_python(made.format("if True:")) == "True True False"


def test_garbage_is_looked_for_again_after_a_start_that_failed() -> None:
    code = "import gc, keyd.process as p\ntry:\n  with p.settling(): 1 / 0\nexcept ZeroDivisionError: print(gc.isenabled())"
    assert run_python(code) == "True"
