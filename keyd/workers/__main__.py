"""One worker process, as the supervisor starts it: ``python -m keyd.workers``. Nobody else has the descriptors that it needs."""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import structlog

from keyd import app, log, process
from keyd import config as configuration
from keyd.team.channel import Channel
from keyd.team.handover import LostError, taken
from keyd.team.member import Member

_log = structlog.get_logger("keyd.workers")


class Worker:
    """This process: a daemon whose connections, orders and end come from the supervisor."""

    def __init__(self, member: Member, door: socket.socket, control: socket.socket) -> None:
        self._member = member
        self._door = door
        self._control = control
        self._daemon: app.Daemon | None = None
        self._given: asyncio.Future[dict[str, Any] | None] | None = None
        self._serving = asyncio.Event()
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Serve until told to stop, or until the supervisor has gone."""
        # Before any task is made: each has the context of who made it.
        structlog.contextvars.bind_contextvars(worker=self._member.number)
        loop = asyncio.get_running_loop()
        self._given = loop.create_future()
        channel = await Channel.over(self._control, self._answer)
        self._member.meet(channel)
        listening = asyncio.create_task(channel.run())
        listening.add_done_callback(lambda _: self._end())
        given = await self._given
        if given is None:
            return
        config = self._member.own(configuration.loads(given["config"], _path(given)))
        log.configure(config.log.level, config.log.format)
        async with AsyncExitStack() as stack:
            with process.settling():
                self._daemon = await app.start(config, stack, team=self._member)
            loop.add_reader(self._door, self._take)
            stack.callback(self._close_door)
            self._serving.set()
            channel.tell("ready")
            await self._stop.wait()
            _log.info("worker stops, calls under way are finished first")
        listening.cancel()

    async def _answer(self, what: str, about: dict[str, Any]) -> Any:
        if what == "start":
            assert self._given is not None
            self._given.set_result(about)
        elif what == "refresh":
            await self._member.refresh()
        elif what == "part":
            return await self._member.part(about)
        elif what == "lead":
            self._member.leads = True
            if self._daemon is not None:  # what is due may have waited for long: the one before may have hung
                self._daemon.keyring.wake()
            _log.info("this worker plans rotations now")
        elif what == "reload":
            await self._serving.wait()
            self._reload(about)
        elif what == "stop":
            self._end()
        return None  # to "pulse" too: that there is an answer is all that is asked for

    def _end(self) -> None:
        self._stop.set()
        if self._given is not None and not self._given.done():
            self._given.set_result(None)

    def _reload(self, about: dict[str, Any]) -> None:
        assert self._daemon is not None
        if about["config"] is not None:
            self._daemon.apply(self._member.own(configuration.loads(about["config"], _path(about))))
        if self._daemon.tcp is not None:
            self._daemon.tcp.refresh()

    def _take(self) -> None:
        """Take one connection: others wait for a turn of the event loop."""
        try:
            arrival = taken(self._door)
        except BlockingIOError:
            return
        except OSError as exc:
            _log.warning("a connection was lost on its way to this worker", error=str(exc))
            if isinstance(exc, LostError):
                self._member.left(exc.number)  # else its caller would have one place less for as long as this worker lives
            return
        if arrival is None:
            self._close_door()
            return
        assert self._member.entrance is not None
        self._member.entrance.enter(arrival)

    def _close_door(self) -> None:
        asyncio.get_running_loop().remove_reader(self._door)
        self._door.close()


def _path(about: dict[str, Any]) -> Path | None:
    return None if about["path"] is None else Path(about["path"])


def _listener(descriptor: int | None) -> socket.socket | None:
    return None if descriptor is None else socket.socket(fileno=descriptor)


def main() -> int:
    """Run one worker. Returns its exit code, as :func:`keyd.app.run` does; 8 also for a configuration that this worker cannot read."""
    parser = argparse.ArgumentParser(description="one worker of keyd; `keyd serve` starts it")
    for name in ("parent", "number", "count", "control", "door"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("http", "metrics"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--fresh", action="store_true")
    options = parser.parse_args()
    process.end_with_parent(options.parent)
    # The supervisor says when to stop. Whoever signals the whole group, as terminals and systemd do, must not be faster than it.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    log.configure("info", "auto")
    for shortcoming in process.harden():
        _log.warning("not hardened", what=shortcoming)
    member = Member(options.number, options.count, options.fresh, _listener(options.http), _listener(options.metrics))
    worker = Worker(member, socket.socket(fileno=options.door), socket.socket(fileno=options.control))
    try:
        return app.finish(worker.run())
    except configuration.ConfigError as exc:
        for problem in exc.problems:
            _log.error("cannot start", error=str(problem))
        return 8


if __name__ == "__main__":
    sys.exit(main())
