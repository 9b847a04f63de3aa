"""Many agents that are connected and wait: each has a connection of its own and WatchKeys open on it. A process of its own, that takes little CPU.

``python benchmarks/watchers.py SOCKET COUNT KEY TESTS`` says ``ready`` when each has had its first answer, and then, each second, how many messages
came so far and how many connections there are. It reads frames of HTTP/2 and answers what has to be answered, no more.
"""

from __future__ import annotations

import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DATA, _SETTINGS, _PING = 0, 4, 6


@contextmanager
def watching(socket_path: Path, count: int, key: str) -> Iterator[subprocess.Popen[str]]:
    """Have so many agents watch a key."""
    tests = Path(__file__).resolve().parents[1] / "tests"
    command = [sys.executable, __file__, str(socket_path), str(count), key, str(tests)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line == "ready\n", f"the agents could not connect: {line}"
            yield process
        finally:
            process.kill()


class _Agent:
    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.messages = 0
        self._received = b""

    def read(self) -> None:
        """Take what there is. Raises ConnectionError at the end."""
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError(
                f"keyd closed a connection that had {self.messages} messages and {len(self._received)} octets more"
            )
        self._received += data
        while len(self._received) >= 9 and len(self._received) >= 9 + (size := int.from_bytes(self._received[:3])):
            kind, flags, payload = self._received[3], self._received[4], self._received[9 : 9 + size]
            self._received = self._received[9 + size :]
            if kind == _DATA and payload:
                self.messages += 1
            elif kind == _SETTINGS and not flags & 1:
                self.socket.sendall(b"\0\0\0\x04\x01\0\0\0\0")
            elif kind == _PING and not flags & 1:
                self.socket.sendall(b"\0\0\x08\x06\x01\0\0\0\0" + payload)


def _connect(path: str, request: bytes) -> _Agent:
    from raw_grpc import RawChannel

    connected = socket.socket(socket.AF_UNIX)
    connected.connect(path)
    RawChannel(connected).send("/keyd.v1.SigningService/WatchKeys", request)
    return _Agent(connected)


def _work(path: str, count: int, key: str) -> None:
    from keyd.v1 import signing_service_pb2 as pb

    request = pb.WatchKeysRequest(keys=[key]).SerializeToString()
    selector = selectors.DefaultSelector()
    agents: list[_Agent] = []
    ready, said = False, time.monotonic()
    while True:
        if len(agents) < count:  # keyd looks at 50 a second; those that are connected are read meanwhile
            agents.append(_connect(path, request))
            selector.register(agents[-1].socket, selectors.EVENT_READ, agents[-1])
        for event, _ in selector.select(0 if len(agents) < count else 1):
            event.data.read()
        if not ready and len(agents) == count and all(agent.messages for agent in agents):
            print("ready", flush=True)
            ready = True
        if ready and time.monotonic() >= said + 1:
            said = time.monotonic()
            print(sum(agent.messages for agent in agents), len(agents), flush=True)


if __name__ == "__main__":
    sys.path.append(sys.argv[4])
    _work(sys.argv[1], int(sys.argv[2]), sys.argv[3])
