"""The daemon's side of the publisher: starts it, starts it again, answers what it asks, and tells it what changed."""

from __future__ import annotations

import asyncio
import contextlib
import operator
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from keyd.service.http_ready import Ready
from keyd.service.pages import Headers, Page, text
from keyd.service.publisher import wire

#: How often it is looked whether anything changed of which nobody tells, in seconds.
_LOOK = 0.25
#: Seconds until the publisher is started again, doubled each time that it ends soon.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
#: Questions that are answered in one turn; then it is the others' turn.
_A_TURN = 4
#: Questions whose answers are waited for at one time.
_WAITING = 32
#: Octets that wait for it, beyond which it is told nothing.
_UNREAD = 1024 * 1024
#: Seconds that it may take to end.
_LAST_ANSWERS = 6.0
# The environment may hold secrets of the daemon: only what the interpreter needs goes on.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")
_log = structlog.get_logger("keyd.publisher")


class Publisher:
    """The publisher of one address.

    Attributes:
        pid: of the process that serves now; None between two.
    """

    def __init__(
        self,
        listener: socket.socket,
        app: Callable[..., Any],
        ready: Ready,
        state: Callable[[], tuple[object, ...]],
        changed: Callable[[float], Awaitable[None]],
        logging: tuple[str, str],
    ) -> None:
        """Take what the publisher is to serve.

        Args:
            listener: of :func:`keyd.service.http_server.bound`.
            app: answers what ``ready`` has no page for.
            state: as :class:`Ready` has it.
            changed: returns at the next change, or after so many seconds.
            logging: level and format of its log.
        """
        self._listener = listener
        self._app = app
        self._ready = ready
        self._look = state
        self._changed = changed
        self._logging = logging
        self._state: tuple[object, ...] = state()
        self._number = 1
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.pid: int | None = None

    @property
    def port(self) -> int:
        """The port that is bound; differs from the one asked for when that was 0."""
        port: int = self._listener.getsockname()[1]
        return port

    async def start(self) -> None:
        """Serve."""
        self._tasks = [asyncio.create_task(self._keep_running()), asyncio.create_task(self._keep_telling())]

    async def stop(self) -> None:
        """Have answers under way finished, then stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listener.close()

    async def _keep_running(self) -> None:
        pause, loop = _FIRST_PAUSE, asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                code = await self._run()
                _log.error("the process that publishes ended, and is started again", exit_code=code, within_seconds=pause)
            except OSError as error:
                _log.error("the process that publishes cannot be started", error=error.strerror, within_seconds=pause)
            await asyncio.sleep(pause)
            pause = _FIRST_PAUSE if loop.time() - began > _LONGEST_PAUSE else min(2 * pause, _LONGEST_PAUSE)

    async def _run(self) -> int:
        ours, theirs = socket.socketpair()
        with theirs:
            passed = self._listener.fileno(), theirs.fileno()
            # -P: nothing is imported from the directory that the daemon was started in.
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-P", "-m", "keyd.service.publisher", *map(str, passed), *self._logging, *self._ready.paths),
                pass_fds=passed,
                stdin=asyncio.subprocess.DEVNULL,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            )
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=wire.LONGEST_ASK)
        self.pid = process.pid
        self._tell()
        try:
            await self._answer_all(reader)
            with contextlib.suppress(ProcessLookupError):
                process.kill()  # it closed the pipe, or said what is no question
        finally:
            self._writer.close()
            self.pid = self._writer = None
            await _ended(process)
        return process.returncode or 0

    async def _answer_all(self, reader: asyncio.StreamReader) -> None:
        answered, waiting = 0, set[asyncio.Task[None]]()
        try:
            while line := await reader.readline():
                question = wire.asked(line)
                page = self._ready.page(*question[1:])
                if page is not None:
                    await self._answer(question[0], page)
                else:
                    if len(waiting) >= _WAITING:
                        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    task = asyncio.create_task(self._answer_later(*question))
                    waiting.add(task)
                    task.add_done_callback(waiting.discard)
                answered += 1
                if answered % _A_TURN == 0:
                    await asyncio.sleep(0)
        except (wire.WireError, ConnectionError, ValueError) as exc:  # ValueError: a line without end
            _log.error("the process that publishes said what it should not, and is ended", error=str(exc))
        finally:
            for task in waiting:
                task.cancel()

    async def _answer_later(self, number: int, path: str, headers: Headers) -> None:
        with contextlib.suppress(ConnectionError):
            await self._answer(number, await self._of_application(path, headers))

    async def _answer(self, number: int, page: Page) -> None:
        self._notice()
        if self._writer is not None:
            self._writer.write(wire.answer(number, self._number, page))
            await self._writer.drain()

    async def _of_application(self, path: str, headers: Headers) -> Page:
        said: dict[str, Any] = {}

        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            said.update(message)

        scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "query_string": b"", "headers": list(headers)}
        try:
            await self._app(scope, receive, send)
        except Exception:  # noqa: BLE001 - the last line of defence
            _log.exception("unexpected error")
            return text(500, "unexpected error")
        fields = {name.decode("latin-1"): value.decode("latin-1") for name, value in said["headers"]}
        fields.pop("content-length", None)
        return Page(said["status"], fields, said["body"], fields.pop("content-type", ""))

    async def _keep_telling(self) -> None:
        loop = asyncio.get_running_loop()
        told = loop.time()
        while True:
            await self._changed(_LOOK)
            if self._notice() or loop.time() - told >= wire.PULSE:
                self._tell()
                told = loop.time()

    def _notice(self) -> bool:
        """Say whether it is another state than before; pages of that are no good any more."""
        state = self._look()
        if all(map(operator.is_, state, self._state)):
            return False
        self._state = state
        self._number += 1
        return True

    def _tell(self) -> None:
        # One that takes nothing is not to fill the daemon's memory; it finds out by itself that nothing comes.
        if self._writer is not None and self._writer.transport.get_write_buffer_size() < _UNREAD:
            self._writer.write(wire.pulse(self._number))


async def _ended(process: asyncio.subprocess.Process) -> None:
    try:
        await asyncio.wait_for(process.wait(), _LAST_ANSWERS)
    except TimeoutError:
        process.kill()
        await process.wait()
