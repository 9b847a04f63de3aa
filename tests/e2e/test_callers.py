"""Who calls: real processes, real kernel. What one process can do to be taken for another, it does here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_process import DaemonProcess
from gated import Program, connected, copy_of_python, gated, open_files
from support import until

CALL = "channel = RawChannel(connect())\nattempt(channel)\n"
STAY = "sys.stdin.readline()\n"


@pytest.fixture
def alpha(tmp_path) -> Path:
    return copy_of_python(tmp_path / "alpha")


@pytest.fixture
def beta(tmp_path) -> Path:
    return copy_of_python(tmp_path / "beta")


async def test_two_executables_of_one_uid_are_told_apart(alpha, beta):
    async with gated() as gate:
        for executable in (alpha, beta):
            with Program(CALL, gate.socket, executable) as program:
                caller = await program.caller()
                assert (caller["executable"], caller["pid"], caller["uid"], caller["gid"]) == (
                    str(executable),
                    program.process.pid,
                    os.geteuid(),
                    os.getegid(),
                )
                assert set(caller["groups"]) == set(os.getgroups()) - {os.getegid()}


async def test_a_connection_stays_its_process_as_long_as_it_lasts(alpha):
    async with gated() as gate:
        with Program(CALL + "attempt(channel)\nattempt(channel)\n", gate.socket, alpha) as program:
            assert [(await program.caller())["executable"] for _ in range(3)] == [str(alpha)] * 3


class TestASocketThatChangesHands:
    async def test_one_that_is_passed_is_closed(self, alpha, beta):
        """alpha connects, calls, and passes the socket to beta with SCM_RIGHTS."""
        give = CALL + (
            "side = socket.socket(socket.AF_UNIX)\nside.connect(PATH + '.side')\n"
            "side.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [channel.socket.fileno()]))])\n" + STAY
        )
        take = (
            "side = socket.socket(socket.AF_UNIX)\nside.bind(PATH + '.side')\nside.listen()\nsay('ready')\n"
            "_, fds, _, _ = socket.recv_fds(side.accept()[0], 1, 1)\n"
            "channel = RawChannel(socket.socket(fileno=fds[0]))\nchannel.socket.settimeout(10)\nchannel._stream = 1\nattempt(channel)\n"
        )
        async with gated() as gate:
            with Program(take, gate.socket, beta) as taker:
                assert await taker.line() == "ready"
                with Program(give, gate.socket, alpha) as giver:
                    assert (await giver.caller())["executable"] == str(alpha)
                    assert await taker.line() == "closed"
                    assert len(gate.callers) == 1

    async def test_one_that_is_inherited_is_closed(self, alpha):
        code = CALL + "if os.fork() == 0:\n    attempt(channel)\n    os._exit(0)\n" + STAY
        async with gated() as gate:
            with Program(code, gate.socket, alpha) as program:
                assert (await program.caller())["executable"] == str(alpha)
                assert await program.line() == "closed"
                assert len(gate.callers) == 1

    async def test_one_that_is_inherited_and_not_used_stays(self, alpha):
        code = CALL + "if os.fork() == 0:\n    time.sleep(60)\nattempt(channel)\n"
        async with gated() as gate:
            with Program(code, gate.socket, alpha, process_group=0) as program:
                assert await program.caller() == await program.caller()
                os.killpg(program.process.pid, 9)

    async def test_descriptors_that_come_along_end_it_and_are_not_taken(self, alpha):
        code = (
            CALL
            + STAY
            + (
                "socket.send_fds(channel.socket, [b'\\0' * 9], [0, 1, 2])\n"
                "try:\n    say('closed' if channel.socket.recv(1) == b'' else 'open')\nexcept ConnectionError:\n    say('closed')\n"
            )
        )
        async with gated() as gate:
            with Program(code, gate.socket, alpha) as program:
                assert (await program.caller())["executable"] == str(alpha)
                before = open_files()
                program.tell()
                assert await program.line() == "closed"
                await until(lambda: open_files() == before - 4)


def then(code: str) -> str:
    """Code for the program that is executed: it has the connection as a descriptor."""
    return (
        f"import socket, sys\nsys.path.insert(0, {str(Path(__file__).parents[1])!r})\nfrom raw_grpc import RawChannel\n"
        "channel = RawChannel(socket.socket(fileno=int(sys.argv[1])))\nchannel.socket.settimeout(10)\n" + code
    )


def executes(beta: Path, code: str) -> str:
    return (
        "os.set_inheritable(channel.socket.fileno(), True)\n"
        f"os.execv({str(beta)!r}, [{str(beta)!r}, '-c', {code!r}, str(channel.socket.fileno())])\n"
    )


ONE_MORE = (
    "channel._stream = 1\ntry:\n    print(channel.call('/test.Who/Who').decode(), flush=True)\n"
    "except OSError:\n    print('closed', flush=True)\n"
)


class TestExecution:
    @pytest.mark.parametrize("which", ["another program", "the same program"])
    async def test_it_ends_the_connection(self, alpha, beta, which):
        async with gated() as gate:
            program_of_then = beta if which == "another program" else alpha
            code = CALL + executes(program_of_then, then(ONE_MORE))
            with Program(code, gate.socket, alpha) as program:
                assert (await program.caller())["executable"] == str(alpha)
                assert await program.line() == "closed"
                assert len(gate.callers) == 1

    async def test_what_was_written_before_is_not_the_new_programs(self, alpha, beta):
        """alpha connects, writes a request, and executes beta before the gate has looked at it: the gate sees beta."""
        ready = "import time\nprint('ready', flush=True)\ntime.sleep(60)\n"
        code = "channel = RawChannel(connect())\nchannel.send('/test.Who/Who')\n" + executes(beta, ready)
        async with gated(accept=False, handshake_timeout=0.5) as gate:
            with Program(code, gate.socket, alpha) as program:
                assert await program.line() == "ready"
                gate.accept()
                await until(lambda: bool(gate.gate._arrivals))
                await until(lambda: bool(gate.callers) or (not gate.gate._arrivals and not gate.gate._relays))
                assert gate.callers == []

    async def test_nor_with_an_accomplice_who_answers(self, alpha, beta):
        """As before; another process has the socket too, reads the gate's question, and answers it."""
        answers = (
            "if os.fork() == 0:\n"
            "    try:\n        say(channel.receive())\n    except OSError:\n        say('closed')\n"
            "    os._exit(0)\n"
        )
        code = "channel = RawChannel(connect())\nchannel.send('/test.Who/Who')\n" + answers
        code += executes(beta, "import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
        async with gated(accept=False) as gate:
            with Program(code, gate.socket, alpha) as program:
                assert await program.line() == "ready"
                gate.accept()
                assert await program.line() == "closed"
                assert gate.callers == []

    async def test_who_writes_at_once_and_stays_is_served(self, alpha):
        """The honest twin: it need not wait for the server before it sends a request."""
        code = "channel = RawChannel(connect())\nchannel.send('/test.Who/Who')\nsay('ready')\nsay(channel.receive())\n"
        async with gated(accept=False) as gate:
            with Program(code, gate.socket, alpha) as program:
                assert await program.line() == "ready"
                gate.accept()
                assert (await program.caller())["executable"] == str(alpha)


class TestProcessesThatEnd:
    async def test_before_the_gate_looks(self, alpha):
        """A child connects and writes, and ends; its parent has the socket too."""
        code = (
            "channel = RawChannel(connect())\n"
            "if os.fork() == 0:\n    time.sleep(60)\n"
            "channel.send('/test.Who/Who')\nos.kill(os.getpid(), 9)\n"
        )
        async with gated(accept=False) as gate:
            with Program(code, gate.socket, alpha, process_group=0) as program:
                await asyncio.to_thread(program.process.wait)
                gate.accept()
                await until(lambda: bool(gate.gate._complain._last))
                await until(lambda: not gate.gate._arrivals)
                assert gate.callers == []
                os.killpg(program.process.pid, 9)

    REUSE = """
import os, socket, struct, sys
from pathlib import Path
from keyd.service.gate import peer
listener = socket.socket(socket.AF_UNIX); listener.bind(sys.argv[1]); listener.listen()
client = socket.socket(socket.AF_UNIX)
first = os.fork()
if first == 0:
    client.connect(sys.argv[1])
    os._exit(0)
os.waitpid(first, 0)
Path("/proc/sys/kernel/ns_last_pid").write_text(str(first - 1))
second = os.fork()
if second == 0:
    os.execv("/bin/sleep", ["sleep", "60"])
assert second == first, "the number was not given out again"
while Path(f"/proc/{second}/comm").read_text() != "sleep\\n":  # or it would be refused for executing another program
    pass
accepted = listener.accept()[0]
assert peer.credentials(accepted)[0] == first
try:
    print("taken for", peer.identify(accepted).principal.pid)
except peer.IdentificationError as error:
    print("refused:", error)
os.kill(second, 9)
"""

    def test_a_number_that_another_process_has_by_now(self, tmp_path):
        done = subprocess.run(
            ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", self.REUSE, str(tmp_path / "s")],
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.stdout == "refused: the process that connected has ended\n", done.stderr


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


class TestNamespaces:
    async def test_another_mount_namespace_with_the_socket_mounted(self, alpha, tmp_path):
        async with gated() as gate:
            mounted = tmp_path / "mounted"
            mounted.mkdir()
            before = ["unshare", "--mount", "sh", "-c", f'mount --bind {gate.directory} {mounted} && exec "$@"', "sh"]
            with Program(CALL, mounted / "s", alpha, before) as program:
                caller = await program.caller()
                assert (caller["executable"], caller["pid"]) == (str(alpha), program.process.pid)

    async def test_a_name_that_is_another_file_there_proves_nothing(self, alpha, beta):
        async with gated() as gate:
            before = ["unshare", "--mount", "sh", "-c", f'mount --bind {beta} {alpha} && exec "$@"', "sh"]
            with Program(CALL, gate.socket, alpha, before) as program:
                caller = await program.caller()
                assert (await asyncio.to_thread(os.readlink, f"/proc/{program.process.pid}/exe")) == str(alpha)
                assert (caller["executable"], caller["uid"]) == (None, os.geteuid())

    async def test_another_pid_namespace_is_seen_from_above(self, alpha):
        async with gated() as gate:
            with Program(CALL + STAY, gate.socket, alpha, ["unshare", "--pid", "--fork"]) as program:
                caller = await program.caller()
                assert caller["executable"] == str(alpha)
                assert parent_of(caller["pid"]) == program.process.pid
                program.tell()

    def test_from_below_only_the_uid_is_known(self, tmp_path):
        code = """
import os, socket, sys
from keyd.service.gate import peer
listener = socket.socket(socket.AF_UNIX); listener.bind(sys.argv[1]); listener.listen()
print("ready", flush=True)
found = peer.identify(listener.accept()[0])
print(found.principal, found.principal.pid, found.runs_the_same_program(), flush=True)
"""
        with subprocess.Popen(
            ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code, str(tmp_path / "s")],
            stdout=subprocess.PIPE,
            text=True,
        ) as below:
            assert below.stdout is not None
            assert below.stdout.readline() == "ready\n"
            with connected(tmp_path / "s"):
                assert below.stdout.readline() == f"uid:{os.geteuid()} None True\n"


async def test_a_program_that_was_replaced_has_no_name(alpha):
    async with gated() as gate:
        with Program(STAY + CALL, gate.socket, alpha) as program:
            program.tell()
            assert (await program.caller())["executable"] == str(alpha)
        with Program("say('ready')\n" + STAY + CALL, gate.socket, alpha) as program:
            assert await program.line() == "ready"
            alpha.with_name("alpha (deleted)").hardlink_to(alpha)  # as the kernel writes it
            alpha.unlink()
            copy_of_python(alpha)
            program.tell()
            assert (await program.caller())["executable"] is None


def cgroup_root() -> Path:
    """The hierarchy that keyd reads: systemd's own in version 1 where the processes of this machine are in that, else version 2."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options):
            return Path(fields.split()[4])
    raise AssertionError("no hierarchy of control groups is mounted")


async def test_two_cgroups_of_one_executable_are_told_apart(alpha):
    """Real groups, named as systemd names them; systemd itself does not run here."""
    root = cgroup_root()
    slice_ = root / "keydtest.slice"
    groups = [slice_ / f"agent-{name}-{os.getpid()}.service" for name in "ab"]
    async with gated() as gate:
        try:
            for group in groups:
                group.mkdir(parents=True)
                with Program(STAY + CALL, gate.socket, alpha) as program:
                    (group / "cgroup.procs").write_text(str(program.process.pid))
                    program.tell()
                    assert (await program.caller())["unit"] == group.name
        finally:
            for group in [*groups, slice_]:
                with contextlib.suppress(OSError):
                    group.rmdir()


#: Root without its capabilities is an ordinary user, to whom the files of root belong.
PLAIN = ["setpriv", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]

INTRUDER = """
import os, socket, sys
pid, names = sys.argv[1], sys.argv[2:]
denied = connected = 0
for number in range(3, 64):
    if not os.path.lexists(f"/proc/{pid}/fd/{number}"):
        continue
    client = socket.socket(socket.AF_UNIX)
    try:
        if names:
            client.bind("\\0" + names[0])  # free in this network namespace, and free again when it is closed
        client.connect(f"/proc/{pid}/fd/{number}")
        connected += 1
    except PermissionError:
        denied += 1
    except (ConnectionRefusedError, FileNotFoundError):
        pass  # a file, a socket that does not listen, or one that has been closed meanwhile
    finally:
        client.close()
print(f"denied: {denied > 3}, connected: {connected}")
"""


class TestThePrivateSocket:
    """The daemon and the intruder have one uid and no capabilities: what an agent of the daemon's user can do."""

    @pytest.fixture
    def plain(self, stopped, monkeypatch) -> DaemonProcess:
        stopped.exec, command = True, [*PLAIN, *stopped.command()]
        monkeypatch.setattr(stopped, "command", lambda: command)
        return stopped.start()

    def intrude(self, daemon: DaemonProcess, *before: str) -> str:
        assert daemon.process is not None
        with daemon.client() as client:
            client.jwks()
            names = re.findall(r"@(keyd-[0-9a-f]{32})", Path("/proc/net/unix").read_text())
            # The name of the relay's end is there for everybody to see; over http2 it has none.
            assert names or os.environ.get("KEYD_TEST_TRANSPORT") == "http2"
            command = [*before, sys.executable, "-c", INTRUDER, str(daemon.process.pid), *(names if "--net" in before else [])]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert not done.stderr
        return done.stdout.strip()

    @pytest.mark.parametrize("namespace", [[], ["unshare", "--net"]])
    def test_nobody_of_the_same_uid_reaches_it(self, plain, namespace):
        assert self.intrude(plain, *namespace, *PLAIN) == "denied: True, connected: 0"

    def test_who_may_trace_the_daemon_does(self, plain):
        """The twin: this is what the intruder would do if it could."""
        assert self.intrude(plain, "unshare", "--net") == "denied: False, connected: 1"

    def test_it_has_no_path(self, plain):
        assert [path.name for path in plain.directory.rglob("*") if path.is_socket()] == ["keyd.sock"]
