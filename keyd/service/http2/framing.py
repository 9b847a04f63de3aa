"""gRPC over HTTP/2 as an ASGI application sees it (grpc.io, PROTOCOL-HTTP2): messages, timeouts, statuses."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import quote

import grpc
from google.rpc import status_pb2

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

CONTENT_TYPE = (b"content-type", b"application/grpc")
_PREFIX = 5  # whether it is compressed, and four bytes of length
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_TIMEOUT_DIGITS = 8
_PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


class RpcError(Exception):
    """What the transport itself answers a call with; keyd's own refusals are of :mod:`keyd.core.errors`."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.status = status_pb2.Status(code=code.value[0], message=message)


#: What calls under way are answered when keyd ends. Not an exception: one that is raised again and again keeps every frame that it went through.
STOPS = status_pb2.Status(code=grpc.StatusCode.UNAVAILABLE.value[0], message="keyd stops; connect again")


def parse_timeout(value: bytes) -> float:
    """Return the seconds of a ``grpc-timeout``. Raises RpcError: it is none."""
    digits = value[:-1]
    if value[-1:] not in _UNITS or not digits.isdigit() or len(digits) > _TIMEOUT_DIGITS:
        raise RpcError(grpc.StatusCode.INTERNAL, "grpc-timeout is not one to eight digits and a unit")
    return int(digits) * _UNITS[value[-1:]]


async def read_message(receive: Receive, limit: int) -> bytes:
    """Return the message of a call that has one; what is behind it is not looked at.

    Raises:
        RpcError: there is none, or it is compressed, or it is longer than ``limit``.
    """
    event = await receive()
    body = event.get("body", b"")
    length = _length(body, limit)
    if length is not None and len(body) >= length:  # the most frequent case: one frame
        return bytes(body[_PREFIX:length])
    buffer = bytearray(body)
    while event.get("more_body", False):
        event = await receive()
        buffer += event.get("body", b"")
        length = _length(buffer, limit)
        if length is not None and len(buffer) >= length:
            return bytes(buffer[_PREFIX:length])
    raise RpcError(grpc.StatusCode.INTERNAL, "the call ended before its message did")


async def read_messages(receive: Receive, limit: int) -> AsyncIterator[bytes]:
    """Return the messages of a stream one by one; see :func:`read_message`."""
    buffer = bytearray()
    more = True
    while more:
        event = await receive()
        more = event.get("more_body", False)
        buffer += event.get("body", b"")
        at = 0
        while (length := _length(buffer, limit, at)) is not None and len(buffer) - at >= length:
            yield bytes(buffer[at + _PREFIX : at + length])
            at += length
        del buffer[:at]
    if buffer:
        raise RpcError(grpc.StatusCode.INTERNAL, "the stream ended within a message")


def _length(data: bytes | bytearray, limit: int, at: int = 0) -> int | None:
    """Return the length of the message at ``at`` with its prefix; None: that is not there yet."""
    if len(data) - at < _PREFIX:
        return None
    if data[at]:
        raise RpcError(grpc.StatusCode.UNIMPLEMENTED, "keyd takes no compressed messages; send them with grpc-encoding identity")
    size = int.from_bytes(data[at + 1 : at + _PREFIX])
    if size > limit:
        raise RpcError(
            grpc.StatusCode.RESOURCE_EXHAUSTED, f"the message has {size} bytes, and may have {limit}; see max_message_bytes"
        )
    return size + _PREFIX


def frame(message: bytes) -> bytes:
    """Return a message as it is sent."""
    return b"\0" + len(message).to_bytes(4) + message


def status_fields(status: status_pb2.Status) -> Headers:
    """Return a status as trailers, with its details (``grpc-status-details-bin``) if it has any."""
    fields = [
        (b"grpc-status", b"%d" % status.code),
        (b"grpc-message", quote(status.message, safe=_PRINTABLE).encode()),
    ]
    if status.details:
        fields.append((b"grpc-status-details-bin", base64.b64encode(status.SerializeToString()).rstrip(b"=")))
    return fields


_START = {"type": "http.response.start", "status": 200, "headers": [CONTENT_TYPE], "trailers": True}
_OK = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}


class Gone(Exception):  # noqa: N818 - it is no error
    """The client has left, or does not want the answer any more."""


class Answer:
    """The answer to one call: messages, and at the end a status. Nothing is sent before the first of them. All raise Gone."""

    __slots__ = ("_begun", "_ended", "_server_send")

    def __init__(self, send: Send) -> None:
        self._server_send = send
        self._begun = self._ended = False

    async def only(self, message: bytes) -> None:
        """Send the one message of a call that has one, and that it succeeded."""
        self._begun = self._ended = True
        send = self._server_send
        try:
            await send(_START)
            await send({"type": "http.response.body", "body": frame(message), "more_body": False})
            await send(_OK)
        except OSError:
            raise Gone from None

    async def message(self, message: bytes) -> None:
        """Send one of several."""
        if not self._begun:
            self._begun = True
            await self._send(_START)
        await self._send({"type": "http.response.body", "body": frame(message), "more_body": True})

    async def finish(self, fields: Iterable[tuple[bytes, bytes]] = ((b"grpc-status", b"0"),)) -> None:
        """Send the status. Before any message it takes the place of the headers ("Trailers-Only"); behind the end it is nothing."""
        if self._ended:
            return
        self._ended = True
        if not self._begun:
            await self._send({"type": "http.response.start", "status": 200, "headers": [CONTENT_TYPE, *fields]})
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        await self._send({"type": "http.response.trailers", "headers": [*fields]})

    async def _send(self, event: MutableMapping[str, Any]) -> None:
        try:
            await self._server_send(event)
        except OSError:
            raise Gone from None
