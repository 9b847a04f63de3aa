"""Many agents that are connected and wait: each has a connection of its own and WatchKeys open on it. A process of its own, that takes little CPU.

``python benchmarks/watchers.py SOCKET TESTS`` reads the keys of each agent from stdin, one line of JSON, and says ``ready`` when each has had its first
answer; and then, for each line more, how many messages came so far. It reads frames of HTTP/2 and answers what has to be answered, no more.
"""

from __future__ import annotations

import json
import selectors
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_DATA, _SETTINGS, _PING = 0, 4, 6


class Watching:
    """The agents."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def tell(self, line: str) -> str:
        """Send the process a line and return its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(line, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, "the agents were disconnected"
        return answer.strip()

    def messages(self) -> int:
        """Return how many messages all of them together had so far."""
        return int(self.tell(""))


@contextmanager
def watching(socket_path: Path, count: int, key: str, own: Callable[[int], str] | None = None) -> Iterator[Watching]:
    """Have so many agents watch a key, and each its own too."""
    tests = Path(__file__).resolve().parents[1] / "tests"
    command = [sys.executable, __file__, str(socket_path), str(tests)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            agents = Watching(process)
            answer = agents.tell(json.dumps([[key, own(number)] if own else [key] for number in range(count)]))
            assert answer == "ready", f"the agents could not connect: {answer}"
            yield agents
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


def _work(path: str, watched: list[list[str]]) -> None:
    from keyd.v1 import signing_service_pb2 as pb

    count = len(watched)
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    agents: list[_Agent] = []
    ready = False
    while True:
        if len(agents) < count:  # keyd looks at 50 a second; those that are connected are read meanwhile
            request = pb.WatchKeysRequest(keys=watched[len(agents)])
            agents.append(_connect(path, request.SerializeToString()))
            selector.register(agents[-1].socket, selectors.EVENT_READ, agents[-1])
        for event, _ in selector.select(0 if len(agents) < count else 1):
            if event.data is not None:
                event.data.read()
            elif sys.stdin.readline():
                print(sum(agent.messages for agent in agents), flush=True)
        if not ready and len(agents) == count and all(agent.messages for agent in agents):
            print("ready", flush=True)
            ready = True


if __name__ == "__main__":
    sys.path.append(sys.argv[2])
    _work(sys.argv[1], json.loads(sys.stdin.readline()))
