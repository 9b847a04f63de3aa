"""Takes leave of a client in the place of a server that ends no connection by its age.

A GOAWAY with the highest stream there can be (RFC 9113 section 6.8) ends nothing: the client begins its next call on a new connection, and
closes this one when the calls on it have ended. It has to stand between two frames of the server's, so these are followed.
"""

from __future__ import annotations

_HEAD = 9
#: Stream 0, the highest stream, NO_ERROR.
GOAWAY = (8).to_bytes(3) + b"\x07\0" + bytes(4) + (2**31 - 1).to_bytes(4) + bytes(4)


class Frames:
    """Where the server is in its frames."""

    def __init__(self) -> None:
        self._head = b""  # of a frame, as far as it is there
        self._missing = 0  # of its payload

    @property
    def between(self) -> bool:
        """Whether the next byte is the first of a frame."""
        return not self._head and not self._missing

    def follow(self, data: bytes | memoryview) -> None:
        """Note what the server sent next."""
        at = min(self._missing, len(data))
        self._missing -= at
        while at < len(data):
            head = self._head + bytes(data[at : at + _HEAD - len(self._head)])
            at += len(head) - len(self._head)
            if len(head) < _HEAD:
                self._head = head
                return
            self._head = b""
            size = int.from_bytes(head[:3])
            taken = min(size, len(data) - at)
            self._missing = size - taken
            at += taken
