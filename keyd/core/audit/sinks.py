"""Copies of the trail: datagrams to the system's log, which either takes one at once or does not."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from pathlib import Path
from typing import Protocol

from keyd.core.audit.record import Record, parse

SYSLOG = Path("/dev/log")
JOURNALD = Path("/run/systemd/journal/socket")

_AUTHPRIV = 10 << 3  # the facility (RFC 5424 section 6.2.1)
_INFO, _WARNING = 6, 4
_SEND_BUFFER = 1024 * 1024


class Sink(Protocol):
    """Where a copy of each line goes."""

    name: str

    def send(self, line: bytes) -> None:
        """Hand over one line without its newline. Raises OSError when it was not taken."""
        ...

    def close(self) -> None:
        """Release everything."""
        ...


class _Datagrams:
    """A Unix datagram socket that never waits, and connects anew when the other end was restarted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def send(self, data: bytes) -> None:
        if self._socket is not None:
            try:
                self._socket.send(data)
                return
            except OSError as exc:
                if exc.errno in (errno.EAGAIN, errno.EMSGSIZE, errno.ENOBUFS):
                    raise
                self.close()
        self._socket = self._connected()
        self._socket.send(data)

    def _connected(self) -> socket.socket:
        found = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            found.connect(os.fspath(self._path))
        except BaseException:
            found.close()
            raise
        return found

    def close(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None


class Syslog:
    """The local syslog daemon, in the form of syslog(3), facility authpriv; refusals are warnings."""

    name = "syslog"

    def __init__(self, path: Path = SYSLOG) -> None:
        self._datagrams = _Datagrams(path)

    def send(self, line: bytes) -> None:
        """Hand over one line."""
        now = time.localtime()
        priority = _AUTHPRIV | (_WARNING if _refused(line) else _INFO)
        month = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")[now.tm_mon - 1]
        stamp = f"{month} {now.tm_mday:2} {now.tm_hour:02}:{now.tm_min:02}:{now.tm_sec:02}"
        self._datagrams.send(f"<{priority}>{stamp} keyd-audit[{os.getpid()}]: ".encode() + line)

    def close(self) -> None:
        """Release the socket."""
        self._datagrams.close()


class Journald:
    """systemd-journald, in its native protocol: the line as MESSAGE, and fields to search by."""

    name = "journald"

    def __init__(self, path: Path = JOURNALD) -> None:
        self._datagrams = _Datagrams(path)

    def send(self, line: bytes) -> None:
        """Hand over one line."""
        record = parse(line + b"\n")
        fields = {
            b"MESSAGE": line,
            b"PRIORITY": b"%d" % (_WARNING if _refused(line) else _INFO),
            b"SYSLOG_IDENTIFIER": b"keyd-audit",
            b"SYSLOG_FACILITY": b"10",
        }
        if record is not None:
            fields |= _searchable(record)
        self._datagrams.send(
            b"".join(name + b"\n" + len(value).to_bytes(8, "little") + value + b"\n" for name, value in fields.items())
        )

    def close(self) -> None:
        """Release the socket."""
        self._datagrams.close()


def _searchable(record: Record) -> dict[bytes, bytes]:
    fields = {"SEQ": str(record.seq), "OPERATION": record.operation}
    fields |= {name.upper(): record.text(name) for name in ("decision", "reason", "key", "kid", "authority", "sha256")}
    principal = record.members.get("principal")
    if isinstance(principal, dict) and isinstance(principal.get("identity"), str):
        fields["PRINCIPAL"] = principal["identity"]
    return {b"KEYD_" + name.encode(): value.encode() for name, value in fields.items() if value}


def _refused(line: bytes) -> bool:
    return b'"decision":"deny"' in line or b'"operation":"gap"' in line
