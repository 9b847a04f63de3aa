"""One worker process, as the supervisor has it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from keyd.team.channel import Channel
from keyd.team.handover import pair

#: What the service manager tells the process that it started, and nobody else.
_NOT_FOR_WORKERS = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID")


@dataclass
class Child:
    """A process, and the ways to it.

    Attributes:
        number: of the worker, from 1; the process that comes after this one has the same.
        door: hands connections over to it.
        joined: it is told of changes.
        ready: it takes connections.
        watching: sees whether it hangs, from when it is ready.
        connections: those that it has, by number: whose account each counts for, and, over Unix sockets, whose share.
    """

    number: int
    process: asyncio.subprocess.Process
    door: socket.socket
    joined: bool = False
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    watching: asyncio.Task[None] | None = None
    connections: dict[int, tuple[str, str | None]] = field(default_factory=dict)
    _channel: Channel | None = None
    _listening: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls,
        number: int,
        count: int,
        shared: Mapping[str, int],
        answer: Callable[[Child, str, dict[str, Any]], Awaitable[Any]],
        *,
        fresh: bool,
        inherited: int,
    ) -> Child:
        """Start a process anew, not as a copy of this one: a copy of a process with threads is not to be trusted.

        Args:
            number: of the worker.
            count: how many workers there are.
            shared: descriptors of what all of them listen on, by name.
            answer: answers what it asks.
            fresh: it is the first process of this daemon.
            inherited: descriptor of the lock of the state directory: no other daemon gets it while a worker lives.
        """
        door, its_door = pair()
        control, its_control = socket.socketpair()
        passed = {**shared, "door": its_door.fileno(), "control": its_control.fileno()}
        options = {**passed, "parent": os.getpid(), "number": number, "count": count}
        arguments = [f"--{name}={value}" for name, value in options.items()] + (["--fresh"] if fresh else [])
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # what is in the working directory is no part of keyd
                "-m",
                "keyd.workers",
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[*passed.values(), inherited],
                env={name: value for name, value in os.environ.items() if name not in _NOT_FOR_WORKERS},
            )
        except BaseException:
            door.close()
            control.close()
            raise
        finally:
            its_door.close()
            its_control.close()
        child = cls(number, process, door)

        async def answered(what: str, about: dict[str, Any]) -> Any:
            return await answer(child, what, about)

        child._channel = await Channel.over(control, answered)
        child._listening = asyncio.create_task(child._channel.run())
        return child

    async def ask(self, what: str, **about: Any) -> Any:
        """Ask it something. Raises ChannelError."""
        assert self._channel is not None
        return await self._channel.ask(what, **about)

    def tell(self, what: str, **about: Any) -> None:
        """Tell it something that needs no answer."""
        assert self._channel is not None
        self._channel.tell(what, **about)

    async def kill(self) -> None:
        """End it at once, and return when it has."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def ended(self) -> int:
        """Return how it ended, and let go of the ways to it: an exit code, or the negative number of a signal."""
        code = await self.process.wait()
        self.door.close()
        assert self._listening is not None
        await self._listening
        return code


def described(code: int) -> str:
    """Say how a process ended."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
