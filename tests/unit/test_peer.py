"""What is read of a process: the files of /proc, and the order in which they are looked at. Real processes: tests/e2e/test_callers.py."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keyd.service.gate import peer
from keyd.service.gate.peer import IdentificationError, identify, parse_start_time, parse_status

STATUS = b"Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nFDSize:\t64\nGroups:\t10 20 \nVmPeak:\t1 kB\n"


class TestStatus:
    def test_ids_and_groups(self):
        assert parse_status(STATUS) == {"Uid": (1, 2, 3, 4), "Gid": (5, 6, 7, 8), "Groups": (10, 20)}

    def test_no_groups(self):
        assert parse_status(STATUS.replace(b"10 20 ", b""))["Groups"] == ()

    def test_our_own(self):
        found = parse_status(Path("/proc/self/status").read_bytes())
        assert found["Uid"][:2] == (os.getuid(), os.geteuid())
        assert set(found["Groups"]) == set(os.getgroups())

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            STATUS.replace(b"Uid", b"uid"),
            STATUS.replace(b"Groups", b"x"),
            STATUS.replace(b"\t1\t2", b"\t1\t-2"),
            STATUS.replace(b"\t1\t2\t3\t4", b"\t1\t2\t3"),
            STATUS.replace(b"10 20", b"10 \xd9\xa0"),
            STATUS + b"Uid:\t0\t0\t0\t0\n",
            STATUS.replace(b"\t1\t2", b"\t1\t" + b"9" * 5000),
        ],
    )
    def test_what_says_something_else(self, content):
        with pytest.raises((ValueError, KeyError)):
            parse_status(content)

    @given(st.binary(max_size=300))
    @example(STATUS)
    def test_any_bytes_are_survived(self, content):
        with contextlib.suppress(ValueError, KeyError):
            parse_status(content)


class TestStartTime:
    FIELDS = b" ".join(b"%d" % n for n in range(4, 53))

    @pytest.mark.parametrize("name", [b"sh", b"a b", b") R 1 2", b"(((", b"\xff"])
    def test_whatever_the_process_calls_itself(self, name):
        assert parse_start_time(b"7 (" + name + b") S " + self.FIELDS) == 22

    @pytest.mark.parametrize("content", [b"", b"7 (x) S 4 5", b"7 (x) S " + b"x " * 40])
    def test_what_has_none(self, content):
        with pytest.raises(ValueError, match=r"field|number"):
            parse_start_time(content)


@pytest.fixture
def pair(tmp_path) -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        client.connect(str(tmp_path / "s"))
        with listener.accept()[0] as server:
            yield server, client


def test_we_are_ourselves(pair):
    found = identify(pair[0])
    try:
        assert (found.principal.pid, found.principal.executable) == (os.getpid(), os.path.realpath("/proc/self/exe"))
        assert found.credentials == struct.pack("iII", os.getpid(), os.getuid(), os.getgid())
        assert found.runs_the_same_program()
    finally:
        found.close()
    assert not found.runs_the_same_program()


def test_without_so_peerpidfd(pair, monkeypatch):
    """As on a kernel before 6.5."""
    monkeypatch.setattr(peer, "_SO_PEERPIDFD", 9999)
    found = identify(pair[0])
    assert found.principal.pid == os.getpid()
    found.close()


def copy_of_proc(pid: int, directory: Path) -> Path:
    directory.mkdir(parents=True)
    for name in ("status", "stat", "cgroup"):
        (directory / name).write_bytes(Path(f"/proc/{pid}", name).read_bytes())
    return directory


@pytest.fixture
def proc(tmp_path) -> Path:
    """A directory like that of this process, of files of our own."""
    return copy_of_proc(os.getpid(), tmp_path / "proc" / str(os.getpid()))


def test_a_unit_of_systemd(pair, proc):
    (proc / "cgroup").write_text("0::/system.slice/shop.service\n")
    found = identify(pair[0], proc.parent)
    assert (found.principal.unit, found.principal.executable) == ("shop.service", None)
    assert found.runs_the_same_program()  # as far as can be told
    found.close()


def test_without_the_right_to_read_the_page_map_the_file_is_compared(pair, proc):
    (proc / "exe").symlink_to("/bin/sh")
    found = identify(pair[0], proc.parent)
    assert found.principal.executable == "/bin/sh"
    assert found.runs_the_same_program()
    (proc / "exe").unlink()
    (proc / "exe").symlink_to("/bin/ls")
    assert not found.runs_the_same_program()
    found.close()


@pytest.mark.parametrize("target", ["relative", "/nowhere/at/all", "/bin/sh\x1b[2J"])
def test_an_executable_that_is_no_path_here(pair, proc, target):
    (proc / "exe").symlink_to(target)
    found = identify(pair[0], proc.parent)
    assert found.principal.executable is None
    found.close()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("status", b"Uid:\t9\t9\t9\t9\nGid:\t9\t9\t9\t9\nGroups:\t\n", "another uid or gid"),
        ("status", b"nonsense", "cannot be read"),
        ("stat", b"nonsense", "cannot be read"),
        ("status", b"x" * 70000, "cannot be read"),
    ],
)
def test_what_does_not_agree_is_refused(pair, proc, name, content, message):
    (proc / name).write_bytes(content)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(IdentificationError, match=message):
        identify(pair[0], proc.parent)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_another_start_time_at_the_second_look_is_refused(pair, proc):
    stat = proc / "stat"
    fields = stat.read_bytes().rpartition(b") ")

    def restart() -> None:
        after = fields[2].split()
        after[19] = b"1"
        stat.write_bytes(fields[0] + fields[1] + b" ".join(after))

    with pytest.raises(IdentificationError, match="has ended"):
        identify(pair[0], proc.parent, restart)


@pytest.mark.parametrize("so_peerpidfd", [77, 9999])
def test_who_ends_between_the_two_looks_is_refused(tmp_path, monkeypatch, so_peerpidfd):
    monkeypatch.setattr(peer, "_SO_PEERPIDFD", so_peerpidfd)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        code = "import socket,sys,time;s=socket.socket(socket.AF_UNIX);s.connect(sys.argv[1]);time.sleep(60)"
        with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "s")]) as child, listener.accept()[0] as server:

            def end() -> None:
                child.kill()
                child.wait()

            with pytest.raises(IdentificationError, match="has ended"):
                identify(server, between=end)


def test_a_process_that_is_hidden_has_what_the_socket_says(pair, tmp_path):
    """As with hidepid: the directory is not there for us, and the process lives."""
    found = identify(pair[0], tmp_path)
    assert (found.principal.uid, found.principal.pid, found.principal.executable) == (os.geteuid(), os.getpid(), None)
    assert found.runs_the_same_program()
    found.close()


def test_one_whose_files_may_not_be_read_has_what_the_socket_says(pair, proc, monkeypatch):
    """As with hidepid=1 and ProtectProc=noaccess: the directory is there, and what is in it is not for us."""

    def refused(directory: int, name: str) -> bytes:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(peer, "_read", refused)
    found = identify(pair[0], proc.parent)
    assert (found.principal.uid, found.principal.pid, found.principal.executable) == (os.geteuid(), os.getpid(), None)
    found.close()


@pytest.mark.parametrize("file", ["stat", "status", "pagemap"])
def test_without_descriptors_nobody_is_taken_for_less_than_he_is(pair, monkeypatch, file):
    """Or the connection would go on without being held to its program."""
    real = os.open

    def none_left(path, *args, **options):
        if path == file:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, *args, **options)

    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(os, "open", none_left)
    with pytest.raises(OSError, match="Too many open files"):
        identify(pair[0])
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("hidden", [True, False])
def test_without_the_right_to_look_into_the_process_it_still_has_to_live(tmp_path, hidden):
    """As a daemon without CAP_SYS_PTRACE, of another uid: what takes the number of a process that ended is not that process."""
    proc = tmp_path / "proc"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        code = "import socket,sys,time;s=socket.socket(socket.AF_UNIX);s.connect(sys.argv[1]);time.sleep(60)"
        with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "s")]) as child, listener.accept()[0] as server:
            if not hidden:
                copy_of_proc(child.pid, proc / str(child.pid))
            before = len(list(Path("/proc/self/fd").iterdir()))
            found = identify(server, proc)
            assert found.runs_the_same_program()
            child.kill()
            child.wait()
            assert not found.runs_the_same_program()
            found.close()
            assert len(list(Path("/proc/self/fd").iterdir())) == before
