"""HTTP/2 as nobody speaks it who means well, against a running daemon, while another caller signs.

    make hostile-http2, or python -m hostile.http2 [--seconds 5] [--only NAME] (with tests/ on the path)

Each attack is a program of its own, of another user where that can be had (as root: nobody), with as many connections as it is allowed, that
reads nothing unless it says so. Measured are the memory that the daemon takes meanwhile, what the other caller notices, and whether
everything is as before afterwards.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
from daemon_process import DaemonProcess
from support import signature_base

from keyd.config.model import Server
from keyd.v1 import signing_service_pb2 as pb
from keyd.v1 import signing_service_pb2_grpc

#: What one attack may cost the daemon, in MiB of memory, and the other caller, in seconds for the slowest of a hundred signatures. Loose: the
#: attacker and the daemon share the machine.
MOST_MEMORY, MOST_WAITING = 64, 5.0
#: Those that others notice too much, by the memory that they take all the same at most: grpcio reads a connection on while there is anything to read, and a
#: field that stands in a table costs the sender one octet and the reader four thousand. docs/threat-model.md says so.
KNOWN = {"continuation": 128, "hpack_bomb": 128}
OTHER = 65534 if os.geteuid() == 0 else os.geteuid()
#: Those that the configuration knows.
TRANSPORTS = ("grpcio", "http2") if "transport" in Server.model_fields else ("grpcio",)

SECTIONS = """
[backends.memory]
type = "memory"
[defaults]
backend = "memory"
[grants.owner]
principals = [{{ uid = {uid} }}]
operations = ["*"]
keys = ["*"]
purposes = ["http"]
"""

PROGRAM = r"""
import os, socket, struct, sys, threading, time
path, name, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
end = time.monotonic() + seconds
counts = [0, 0]  # connections, and what was sent on them beside greetings
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload
SETTINGS = frame(4, 0, 0)
def literal(key, value, kind=0):
    def text(octets):
        size, head = len(octets), b""
        if size < 127:
            return bytes([size]) + octets
        size, head = size - 127, b"\x7f"
        while size >= 128:
            head, size = head + bytes([size % 128 + 128]), size // 128
        return head + bytes([size]) + octets
    return bytes([kind]) + text(key) + text(value)
def call(method="/keyd.v1.SigningService/GetJWKS"):
    fields = {":method": "POST", ":scheme": "http", ":path": method, ":authority": "a", "content-type": "application/grpc", "te": "trailers"}
    return b"".join(literal(key.encode(), value.encode()) for key, value in fields.items())
CALL = call()
NOTHING = struct.pack(">BI", 0, 0)
def connected(greeting=PREFACE + SETTINGS):
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(1)
    client.connect(path)
    client.sendall(greeting)
    if greeting:
        # The gate asks with a PING, and for the ACK of SETTINGS, before it lets anything through. After that nothing is read any more.
        received = b""
        while len(received) < 17 or received[-17:-8] != b"\0\0\x08\6\0\0\0\0\0":
            more = client.recv(4096)
            if not more:
                raise OSError
            received += more
        client.sendall(frame(4, 1, 0) + frame(6, 1, 0, received[-8:]))
        time.sleep(0.01)
    counts[0] += 1
    return client
def streams(client, made, batch=50):
    for first in range(1, 2**30, 2 * batch):
        client.sendall(b"".join(made(stream) for stream in range(first, first + 2 * batch, 2)))
        yield
def again(client, octets):
    while True:
        client.sendall(octets)
        yield
def rapid_reset():
    yield from streams(connected(), lambda stream: frame(1, 4, stream, CALL) + frame(3, 0, stream, struct.pack(">I", 8)))
def reset_of_answers():
    yield from streams(connected(), lambda stream: frame(1, 4, stream, CALL) + frame(0, 1, stream, NOTHING) + frame(3, 0, stream, struct.pack(">I", 8)))
def continuation():
    client = connected()
    client.sendall(frame(1, 0, 1, CALL))
    yield from again(client, frame(9, 0, 1, literal(b"x", b"y" * 100) * 100) * 4)
def empty_continuation():
    client = connected()
    client.sendall(frame(1, 0, 1, CALL))
    yield from again(client, frame(9, 0, 1) * 1000)
def ping():
    yield from again(connected(), frame(6, 0, 0, b"12345678") * 1000)
def settings():
    yield from again(connected(), frame(4, 0, 0, struct.pack(">HI", 4, 65535) * 100) * 50)
def empty_data():
    client = connected()
    client.sendall(frame(1, 4, 1, CALL))
    yield from again(client, frame(0, 0, 1) * 1000)
def priority():
    yield from streams(connected(), lambda stream: frame(2, 0, stream, struct.pack(">IB", 0, 1)), 500)
def unknown_frames():
    yield from again(connected(), frame(0xEE, 0, 0, b"x" * 16384) * 4)
def hpack_bomb():
    # One long field in the table, then as many octets that each mean it.
    def made(stream):
        return frame(1, 4, stream, CALL + literal(b"x", b"y" * 3900, 0x40) + b"\xbe" * 12000)
    yield from streams(connected(), made, 4)
def no_window():
    # Answers that may never be sent.
    client = connected(PREFACE + frame(4, 0, 0, struct.pack(">HI", 4, 0)))
    yield from streams(client, lambda stream: frame(1, 4, stream, CALL) + frame(0, 1, stream, NOTHING))
def window_games():
    client = connected()
    client.sendall(frame(1, 4, 1, CALL))
    yield from again(client, (frame(8, 0, 0, struct.pack(">I", 1)) + frame(8, 0, 1, struct.pack(">I", 1))) * 500)
def window_overflow():
    client = connected()
    yield from again(client, frame(8, 0, 0, struct.pack(">I", 2**31 - 1)) * 2)
def slow_writer():
    client = connected(b"")
    for octet in (PREFACE + SETTINGS + frame(1, 4, 1, CALL) + struct.pack(">I", 1 << 20)[1:] + b"\0\0\0\0\0\1" + b"x" * 10**6):
        client.sendall(bytes([octet]))
        time.sleep(0.01)
        yield
def messages_without_end():
    client = connected()
    client.sendall(frame(1, 4, 1, call("/keyd.v1.SigningService/SignStream")) + frame(0, 0, 1, struct.pack(">BI", 0, 2**32 - 1)))
    yield from again(client, frame(0, 0, 1, b"x" * 16384))
def idle():
    held = []
    for _ in range(10000):
        try:
            held.append(connected())
        except OSError:
            break
    while True:
        time.sleep(0.05)
        yield
def calls_nobody():
    while True:
        yield
def work():
    while time.monotonic() < end:
        try:
            for _ in globals()[name]():
                counts[1] += 1
                if time.monotonic() >= end:
                    break
        except OSError:
            time.sleep(0.01)
threads = [threading.Thread(target=work, daemon=True) for _ in range(1 if name == "idle" else 4)]
for thread in threads:
    thread.start()
time.sleep(max(0.0, end - time.monotonic()))
print(*counts, flush=True)
os._exit(0)
"""
ATTACKS = tuple(
    line.removeprefix("def ").removesuffix("():")
    for line in PROGRAM.splitlines()
    if line.startswith("def ") and line.endswith("():") and line != "def work():"
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attack did. Memory in MiB, times in seconds.

    Attributes:
        grown: memory of the daemon, at its most.
        kept: of that, two seconds afterwards.
        open_files: that the daemon has more of afterwards.
        connections: that the attacker made.
        sent: how often it sent something on them.
    """

    name: str
    grown: float
    kept: float
    calls: int
    failed: int
    p50: float
    p99: float
    open_files: int
    connections: int
    sent: int

    @property
    def good(self) -> bool:
        """Whether the daemon kept within its bounds, and served the other caller."""
        waited = self.p99 <= MOST_WAITING or self.name in KNOWN
        return self.grown <= KNOWN.get(self.name, MOST_MEMORY) and not self.failed and waited and self.open_files <= 0


@contextlib.contextmanager
def attacked(transport: str = "grpcio") -> Iterator[DaemonProcess]:
    """A daemon that another user reaches."""
    daemon = DaemonProcess(sections=SECTIONS.format(uid=os.geteuid()))
    for directory in (daemon.directory, daemon.directory / "run"):
        directory.mkdir(exist_ok=True)
        directory.chmod(0o711)
    text = re.sub(r"^transport = .*\n", "", daemon.config.read_text(), flags=re.MULTILINE)
    more = 'socket_mode = "0666"\n' + (f'transport = "{transport}"\n' if len(TRANSPORTS) > 1 else "")
    daemon.config.write_text(text.replace("[http]", f"{more}[http]", 1))
    try:
        daemon.start()
        with daemon.admin() as admin:
            admin.create_key("other", backend="memory")
        yield daemon
        assert daemon.process is not None
        assert daemon.process.poll() is None
        assert daemon.stop() == 0
    finally:
        daemon.close()


def attack(daemon: DaemonProcess, name: str, seconds: float) -> Outcome:
    """Run one attack, and have another caller sign a hundred times a second meanwhile."""
    assert daemon.process is not None
    pid, python = daemon.process.pid, shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable
    socket = daemon.address.removeprefix("unix:")
    with grpc.insecure_channel(daemon.address) as channel:
        stub = signing_service_pb2_grpc.SigningServiceStub(channel)
        sign(stub)
        before, files, most, took, failed = memory(pid), open_files(pid), 0.0, [], 0
        command = [python, "-c", PROGRAM, socket, name, str(seconds)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, user=OTHER, cwd="/") as process:
            while process.poll() is None:
                began = time.monotonic()
                try:
                    sign(stub)
                except grpc.RpcError:
                    failed += 1
                took.append(time.monotonic() - began)
                most = max(most, memory(pid))
                time.sleep(0.01)
            assert process.stdout is not None
            assert process.returncode == 0
            connections, sent = map(int, process.stdout.read().split())
        end = time.monotonic() + 20
        while open_files(pid) > files and time.monotonic() < end:
            time.sleep(0.05)
        sign(stub)
        more = open_files(pid) - files
    took.sort()
    return Outcome(
        name,
        most - before,
        memory(pid) - before,
        len(took),
        failed,
        took[len(took) // 2],
        took[int(len(took) * 0.99)],
        more,
        connections,
        sent,
    )


def sign(stub: signing_service_pb2_grpc.SigningServiceStub) -> None:
    """Sign once as the other caller. Raises RpcError."""
    stub.Sign(pb.SignRequest(key="other", signature_base=signature_base(time.time())), timeout=30)


def memory(pid: int) -> float:
    """Return the memory of a process in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def open_files(pid: int) -> int:
    """Return how many files a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def main() -> int:
    """Run every attack, and print what it did. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--only", choices=ATTACKS)
    options = parser.parse_args()
    bad = []
    print(f"files that a process may have open: {resource.getrlimit(resource.RLIMIT_NOFILE)}")
    for transport in TRANSPORTS:
        print(f"\ntransport {transport}\n")
        print(
            "| attack | memory, MiB | afterwards | signatures of another | failed | p50, ms | p99, ms | files left | connections | sent |\n|---|---|---|---|---|---|---|---|---|---|"
        )
        with attacked(transport) as daemon:
            for name in [options.only] if options.only else ATTACKS:
                found = attack(daemon, name, options.seconds)
                bad += [] if found.good else [f"{transport} {name}"]
                print(
                    f"| {name.replace('_', ' ')} | {found.grown:.1f} | {found.kept:.1f} | {found.calls} | {found.failed} "
                    f"| {found.p50 * 1e3:.1f} | {found.p99 * 1e3:.1f} | {found.open_files} | {found.connections} | {found.sent} |",
                    flush=True,
                )
    print(f"\n{len(bad)} attacks that are beyond the bounds: {', '.join(bad) or 'none'}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
