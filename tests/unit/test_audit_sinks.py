"""Copies of the trail in the system's log. The other ends are fakes: datagram sockets that read the protocols."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from audit_support import World, decision

from keyd.core.audit.sinks import Journald, Sink, Syslog
from keyd.core.errors import AuditError


class FakeLogDaemon:
    """The socket of a syslog daemon or of journald."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start()

    def start(self) -> None:
        self.path.unlink(missing_ok=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(str(self.path))

    def received(self) -> Iterator[bytes]:
        while True:
            try:
                yield self.socket.recv(1 << 20)
            except BlockingIOError:
                return

    def stop(self) -> None:
        self.socket.close()


@pytest.fixture
def log_daemon(tmp_path: Path) -> Iterator[FakeLogDaemon]:
    fake = FakeLogDaemon(tmp_path / "log")
    yield fake
    fake.stop()


def journal_fields(datagram: bytes) -> dict[str, bytes]:
    """Read the native protocol: a name and a value in a line, or a name, a 64-bit length and so many bytes."""
    fields = {}
    while datagram:
        name, _, rest = datagram.partition(b"\n")
        size = int.from_bytes(rest[:8], "little")
        fields[name.decode()] = rest[8 : 8 + size]
        assert rest[8 + size : 9 + size] == b"\n"
        datagram = rest[9 + size :]
    return fields


async def test_syslog_gets_every_line(tmp_path: Path, log_daemon: FakeLogDaemon) -> None:
    world = World(tmp_path / "audit", sinks=[Syslog(log_daemon.path)])
    await world.start()
    world.trail.write(decision(1))
    world.trail.write(decision(2, reason="GRANT", path='"decision":"allow"\n'))
    messages = [
        re.fullmatch(rb"<(\d+)>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d keyd-audit\[\d+\]: (.*)", each)
        for each in log_daemon.received()
    ]
    assert [message[1] for message in messages if message] == [b"86", b"86", b"84"]
    assert [message[2] + b"\n" for message in messages if message] == world.lines()
    await world.stop()


async def test_journald_gets_every_line_and_fields_to_search_by(tmp_path: Path, log_daemon: FakeLogDaemon) -> None:
    world = World(tmp_path / "audit", sinks=[Journald(log_daemon.path)])
    await world.start()
    world.trail.write(decision(1, reason="GRANT", path="/\nKEYD_KEY=forged"))
    start, denied = map(journal_fields, log_daemon.received())
    assert start["KEYD_OPERATION"] == b"start"
    assert denied["MESSAGE"] + b"\n" == world.lines()[1]
    assert {name: denied[name] for name in ("PRIORITY", "KEYD_SEQ", "KEYD_KEY", "KEYD_DECISION", "KEYD_REASON")} == {
        "PRIORITY": b"4",
        "KEYD_SEQ": b"2",
        "KEYD_KEY": b"agent",
        "KEYD_DECISION": b"deny",
        "KEYD_REASON": b"GRANT",
    }
    assert denied["KEYD_PRINCIPAL"].startswith(b"uid:1000 ")
    await world.stop()


@pytest.mark.parametrize("kind", [Syslog, Journald])
async def test_without_the_log_nothing_is_allowed(kind: type[Sink], tmp_path: Path, log_daemon: FakeLogDaemon) -> None:
    world = World(tmp_path / "audit", sinks=[kind(log_daemon.path)])  # type: ignore[call-arg]
    await world.start()
    world.trail.write(decision(1))
    log_daemon.stop()
    with pytest.raises(AuditError, match="does not take records"):
        world.trail.write(decision(2))
    for number in range(5):
        with pytest.raises(AuditError):
            world.trail.write(decision(number))
    assert len(world.lines()) == 3, "what was refused again does not have the file grow"
    log_daemon.start()
    world.trail.write(decision(3))
    assert [json.loads(line)["operation"] for line in world.lines()] == ["start", "sign", "sign", "gap", "sign"]
    assert len(list(log_daemon.received())) == 2, "the gap, and the record after it"
    await world.stop()
    assert world.verify().sound


async def test_a_log_that_reads_nothing_holds_nobody_up(tmp_path: Path, log_daemon: FakeLogDaemon) -> None:
    world = World(tmp_path / "audit", sinks=[Syslog(log_daemon.path)])
    await world.start()
    with pytest.raises(AuditError, match="Resource temporarily unavailable"):
        for number in range(100_000):
            world.trail.write(decision(number))
    sum(1 for _ in log_daemon.received())
    world.trail.write(decision(1))
    await world.stop()


async def test_the_log_alone(tmp_path: Path, log_daemon: FakeLogDaemon) -> None:
    world = World(tmp_path / "audit", sinks=[Syslog(log_daemon.path)])
    world.fileless = True
    await world.start()
    world.trail.write(decision(1))
    await world.stop()
    lines = [message.partition(b"]: ")[2] for message in log_daemon.received()]
    assert [json.loads(line)["operation"] for line in lines] == ["start", "sign", "stop", "checkpoint"]
    assert not world.directory.exists()
    assert world.store.rows == []
    (tmp_path / "copy.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    world.directory = tmp_path / "copies"
    world.directory.mkdir()
    (tmp_path / "copy.jsonl").rename(world.path)
    assert world.verify().sound
