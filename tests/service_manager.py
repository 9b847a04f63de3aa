"""Listens as a service manager does (sd_notify(3)), with the kernel's word on who said something."""

from __future__ import annotations

import shutil
import socket
import struct
import tempfile
from pathlib import Path
from typing import Self

_CREDENTIALS = struct.Struct("3i")  # struct ucred, unix(7)


class ServiceManager:
    """What a daemon is to be started with is in :attr:`env`. A context manager."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="keyd-n-"))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(str(self._directory / "n"))
        self.env = {"NOTIFY_SOCKET": str(self._directory / "n")}

    def told(self, seconds: float = 60) -> tuple[int, list[str]]:
        """Wait for the next message. Returns which process it is from, and its lines."""
        self._socket.settimeout(seconds)
        message, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(_CREDENTIALS.size))
        pid, _, _ = _CREDENTIALS.unpack(ancillary[0][2])
        return pid, message.decode().splitlines()

    def hears_nothing(self) -> bool:
        """Say whether there is no further message."""
        try:
            self.told(0)
        except BlockingIOError:
            return True
        return False

    def forget(self) -> None:
        """Take no note of what was said so far."""
        while not self.hears_nothing():
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        shutil.rmtree(self._directory)
