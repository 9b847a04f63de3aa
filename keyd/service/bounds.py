"""What one connection, and one call on it, may cost, whatever transport serves it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one connection may cost. Sizes in bytes, times in seconds.

    Attributes:
        max_streams: calls at one time.
        max_header_bytes: of all headers of one call, with 32 for each (RFC 9113 section 10.5.1).
        handshake_timeout: until the client has sent its SETTINGS.
        idle_timeout: without a call, until the connection is closed; a stream that is open is one.
        keepalive: without a word, until the other end is asked whether it is there.
        max_age: until a connection gets no new calls, give or take a tenth; it ends with its last one. None: never.
        max_connections: connections at one time, beyond which further ones are closed at once. None: whoever listens in front counts them.
        drain_timeout: when keyd ends, what calls under way have at most.
    """

    max_message_bytes: int = 1024 * 1024
    max_streams: int = 64
    max_header_bytes: int = 16 * 1024
    handshake_timeout: float = 10.0
    idle_timeout: float = 1800.0
    keepalive: float = 60.0
    max_age: float | None = None
    max_connections: int | None = None
    drain_timeout: float = 30.0
