"""Questions and answers between the supervisor and one worker, both ways over one socket pair.

A message is four bytes of length, big endian, and so much JSON. Both ends are keyd: what is wrong on the way ends the channel.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import structlog

_LONGEST = 64 * 1024 * 1024
_log = structlog.get_logger("keyd.workers")

#: Answers a question: what is asked for, and what belongs to it. Returns what JSON has.
Answer = Callable[[str, dict[str, Any]], Awaitable[Any]]


class ChannelError(Exception):
    """The other end is gone, or could not do what it was asked for."""


class Channel:
    """One end of it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer) -> None:
        """Use :meth:`over`."""
        self._reader = reader
        self._writer = writer
        self._answer = answer
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._open = True

    @classmethod
    async def over(cls, end: socket.socket, answer: Answer) -> Channel:
        """Return the channel over a connected stream socket, which it owns; :meth:`run` has to be running for anything to arrive."""
        end.setblocking(False)
        return cls(*await asyncio.open_connection(sock=end), answer)

    async def run(self) -> None:
        """Serve until the other end is gone."""
        try:
            while True:
                length = int.from_bytes(await self._reader.readexactly(4))
                if length > _LONGEST:
                    raise ChannelError("a message is too long")
                self._take(orjson.loads(await self._reader.readexactly(length)))
        except (asyncio.IncompleteReadError, OSError):
            pass
        except (ChannelError, ValueError, KeyError, TypeError) as exc:
            _log.error("what came from another process of this daemon is no message", error=str(exc))
        finally:
            self.close()

    async def ask(self, what: str, **about: Any) -> Any:
        """Ask the other end, and return its answer. Raises ChannelError."""
        if not self._open:
            raise ChannelError("the other end is gone")
        number = next(self._numbers)
        asked = self._asked[number] = asyncio.get_running_loop().create_future()
        self._send({"ask": what, "number": number, "about": about})
        try:
            return await asked
        finally:
            self._asked.pop(number, None)

    def tell(self, what: str, **about: Any) -> None:
        """Tell the other end what needs no answer. To one that is gone nothing is told."""
        if self._open:
            self._send({"ask": what, "about": about})

    def close(self) -> None:
        """End it; who waits for an answer gets ChannelError."""
        self._open = False
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(ChannelError("the other end is gone"))
        self._writer.close()

    def _send(self, message: dict[str, Any]) -> None:
        data = orjson.dumps(message)
        self._writer.write(len(data).to_bytes(4) + data)

    def _take(self, message: dict[str, Any]) -> None:
        if "ask" in message:
            task = asyncio.create_task(self._reply(message))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
            return
        asked = self._asked.get(message["number"])
        if asked is None or asked.done():
            return  # who asked does not wait any more
        if "failed" in message:
            asked.set_exception(ChannelError(message["failed"]))
        else:
            asked.set_result(message["answer"])

    async def _reply(self, message: dict[str, Any]) -> None:
        reply: dict[str, Any]
        try:
            reply = {"answer": await self._answer(message["ask"], message["about"])}
        except Exception as exc:  # noqa: BLE001 - the other end must not wait for ever
            _log.exception("a question between workers could not be answered", question=message["ask"])
            reply = {"failed": str(exc) or type(exc).__name__}
        if "number" in message and self._open:
            self._send({"number": message["number"], **reply})
