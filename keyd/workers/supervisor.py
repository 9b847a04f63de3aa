"""The process that accepts connections, hands each to the worker that its caller has, and sees to it that the workers live."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import structlog

from keyd import config as configuration
from keyd.config import Config
from keyd.core.policy import Policy
from keyd.core.principal import Principal
from keyd.service.gate.entrance import TCP, Arrival
from keyd.service.gate.handshakes import network_of
from keyd.service.gate.limits import Quota
from keyd.service.gate.peer import Peer
from keyd.service.gate.tls import longest_stay
from keyd.team.channel import ChannelError
from keyd.team.handover import hand_over
from keyd.workers.assignments import Assignments
from keyd.workers.child import Child, described
from keyd.workers.pulse import HUNG, beat, hangs

#: Seconds in which a worker has to see a change before who made it is told that it is made.
FENCE = 5.0
#: The same for one that starts: it reads every key, and has to have seen the change before it serves.
STARTING_FENCE = 60.0
#: Seconds that a worker has to answer for its part of what is asked of all.
_PART = 3.0
#: Seconds between the end of a worker and the next start: at once, then longer and longer while it does not live for so long.
_FIRST_PAUSE, _LONGEST_PAUSE, _SETTLED = 0.5, 30.0, 60.0
#: Seconds beyond ``server.drain_timeout`` that workers have to end.
_LAST_WORDS = 15.0
#: Stands for everybody who may call what needs two operators: these meet in one worker.
_OPERATORS = "operators"
_log = structlog.get_logger("keyd.workers")


class Supervisor:
    """The workers of one daemon.

    Attributes:
        failed: exit code of a worker that ended before all were ready; None: none did.
    """

    def __init__(
        self,
        config: Config,
        text: str,
        path: str | None,
        shared: dict[str, int],
        lock: int,
        beat: Callable[[], Awaitable[None]] = beat,
    ) -> None:
        """Supervise what runs on a configuration.

        Args:
            config: the configuration.
            text: the same as it was read, which each worker gets: the file may be another by the time that one starts.
            path: where it was read; None: there is no file.
            shared: descriptors of what all workers listen on, by name.
            lock: descriptor of the lock of the state directory.
            beat: waits for the next moment at which workers have to have answered.
        """
        self.failed: int | None = None
        self.connections = Quota(config.connections.max, config.connections.max_per_caller)
        self._config = config
        self._given = {"config": text, "path": path}
        self._shared = shared
        self._lock = lock
        self._beat = beat
        self._policy = self._policy_of(config)
        self._assignments = Assignments()
        self._numbers = itertools.count(1)
        self._children: dict[int, Child] = {}
        self._leader: Child | None = None
        self._keepers: list[asyncio.Task[None]] = []
        self._started = self._stopping = False
        self._changed, self._ending = asyncio.Event(), asyncio.Event()
        #: The first worker has made what there has to be before others can start.
        self._made = asyncio.Event()

    # ---- their lives

    async def start(self) -> bool:
        """Start all workers. The first one makes what is missing, and the others wait for it. Returns whether all serve."""
        numbers = range(1, self._config.server.workers + 1)
        self._keepers = [asyncio.create_task(self._keep(number, fresh=number == 1)) for number in numbers]
        while self.failed is None and not all(self._serves(number) for number in numbers):
            await self._changed.wait()
        self._started = self.failed is None
        return self._started

    def _serves(self, number: int) -> bool:
        child = self._children.get(number)
        return child is not None and child.ready.is_set()

    async def stop(self) -> None:
        """Have every worker finish the calls under way, and end."""
        self._stopping = True
        self._ending.set()
        for child in self._children.values():
            child.tell("stop")
        late = self._config.server.drain_timeout + _LAST_WORDS
        _, waiting = await asyncio.wait(self._keepers, timeout=late) if self._keepers else (set(), set())
        if waiting:
            _log.error("workers did not end in time, they are killed", number=len(waiting), seconds=late)
            await asyncio.gather(*(child.kill() for child in list(self._children.values())))
            await asyncio.wait(waiting)

    async def _keep(self, number: int, *, fresh: bool) -> None:
        """Have a process for the worker of this number, and another one when that has ended."""
        pause = _FIRST_PAUSE
        while True:
            began = time.monotonic()
            how, code = await self._live(number, fresh=fresh)
            fresh = False
            if self._stopping:
                return
            if not self._started:
                _log.error("worker cannot start", worker=number, how=how)
                self.failed = code
                self._notice()
                return
            pause = _FIRST_PAUSE if time.monotonic() - began > _SETTLED else pause
            _log.error("worker ended, another one is started", worker=number, how=how, seconds=pause)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._ending.wait()
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _live(self, number: int, *, fresh: bool) -> tuple[str, int]:
        """Have one process live. Returns how it ended, in words and as an exit code that says so."""
        count = self._config.server.workers
        if self._stopping:
            return "not started", 0
        try:
            child = await Child.start(number, count, self._shared, self._answer, fresh=fresh, inherited=self._lock)
        except OSError as exc:
            return f"no process can be started: {exc.strerror or exc}", 1
        self._children[number] = child
        beginning = asyncio.create_task(self._begin(child, fresh=fresh))
        code = await child.ended()
        beginning.cancel()
        if child.watching is not None:
            child.watching.cancel()
        self._lost(child)
        return described(code), code if code > 0 else 1

    async def _begin(self, child: Child, *, fresh: bool) -> None:
        if self._stopping:  # since before there was a process that could be told
            child.tell("stop")
            return
        if not fresh:
            await self._made.wait()
        child.tell("start", **self._given)

    async def _watch(self, child: Child) -> None:
        """End a worker when it hangs. Its callers wait for nothing, and if it plans rotations, nobody else does."""
        await hangs(partial(child.ask, "pulse"), self._beat)
        if self._stopping:
            return
        _log.error("worker does not answer, so it is ended", worker=child.number, seconds=HUNG)
        self._assignments.remove_worker(child.number)  # now: the kernel may take its time to end it
        await child.kill()

    def _lost(self, child: Child) -> None:
        """Take note of the end of a worker. Its callers come again, to others."""
        del self._children[child.number]
        self._assignments.remove_worker(child.number)
        for account, _ in child.connections.values():
            self.connections.leave(account)
        if child is self._leader:
            self._leader = None
            self._elect()

    def _elect(self) -> None:
        """Have one worker plan. It is never more than one: the one before has ended."""
        ready = [child for child in self._children.values() if child.ready.is_set()]
        if self._leader is None and ready and not self._stopping:
            self._leader = min(ready, key=lambda child: child.number)
            self._leader.tell("lead")

    def _notice(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # ---- their questions

    async def _answer(self, child: Child, what: str, about: dict[str, Any]) -> Any:
        if what == "join":
            child.joined = True
        elif what == "ready":
            self._ready(child)
        elif what == "left":
            self._left(child, about["connection"])
        elif what == "enter":
            return self._entered(child, about["connection"], about["account"])
        elif what == "spread":
            await asyncio.gather(*(self._see(other) for other in self._others(child)))
        elif what == "others":
            answers = await asyncio.gather(*(self._part(other, about) for other in self._others(child)))
            return [answer for answer in answers if answer is not None]
        return None

    def _others(self, child: Child) -> list[Child]:
        return [other for other in self._children.values() if other is not child and other.joined]

    def _ready(self, child: Child) -> None:
        child.ready.set()
        self._made.set()
        self._assignments.add_worker(child.number)
        child.watching = asyncio.create_task(self._watch(child))
        self._elect()
        self._notice()

    async def _see(self, child: Child) -> None:
        """Have a worker see what is on record. One that does not is ended: it could sign under what an operator was told is over."""
        seconds = _fence(child)
        try:
            async with asyncio.timeout(seconds):
                await child.ask("refresh")
        except (ChannelError, TimeoutError) as exc:
            if child.process.returncode is None and not self._stopping:
                why = str(exc) or f"no answer in {seconds:g} s"
                _log.error("worker does not see a change, so it is ended", worker=child.number, error=why)
            await child.kill()

    async def _part(self, child: Child, about: dict[str, Any]) -> tuple[int, str] | None:
        try:
            async with asyncio.timeout(_PART):
                return child.number, await child.ask("part", **about)
        except (ChannelError, TimeoutError) as exc:
            _log.warning("worker does not do its part", worker=child.number, part=about["part"], error=str(exc) or "no answer")
            return None

    # ---- connections

    async def enter(self, way: str, client: socket.socket, peer: Peer, account: str) -> None:
        """Hand a connection over a Unix socket to the worker of its caller. Raises OSError when that does not take it.

        While no worker takes any, it waits: who is refused comes again at once, and keeps the workers from starting.
        """
        handed = False
        try:
            while not self._assignments.workers:
                await self._changed.wait()
            who = self._who(peer.principal)
            child = self._place(who)
            number = next(self._numbers)
            try:
                hand_over(child.door, Arrival(number, way, client, peer))
            except OSError as exc:
                self._assignments.leave(who, child.number)
                raise ConnectionError(f"worker {child.number} does not take connections: {exc.strerror or exc}") from exc
            child.connections[number] = account, who
            handed = True
        finally:
            client.close()
            peer.close()
            if not handed:
                self.connections.leave(account)

    def arrive(self, listener: str, client: socket.socket, address: str) -> None:
        """Hand a connection over TCP to the worker of where it comes from. Raises OSError when that does not take it."""
        who = _OPERATORS if self._policy.dual_control else f"tcp:{network_of(address)}"
        try:
            child = self._place(who)
            # Who it is only the worker finds out, and when it has gone: here it is taken to stay for as long as it may.
            stays = longest_stay(self._config.tcp[listener].max_connection_age)
            self._assignments.leave(who, child.number, stays)
            hand_over(child.door, Arrival(next(self._numbers), TCP + listener, client, address=address))
        finally:
            client.close()

    def _place(self, who: str) -> Child:
        try:
            return self._children[self._assignments.enter(who)]
        except LookupError:
            raise ConnectionError("no worker takes connections now; the log says why") from None

    def _who(self, principal: Principal) -> str:
        """Return what stands for all callers that have to be in one worker: those that use up the same limits."""
        rights = self._policy.rights(principal)
        if self._policy.dual_control and any(rule.grant.operations for rule in rights.rules):
            return _OPERATORS
        return rights.share

    def _left(self, child: Child, number: int) -> None:
        found = child.connections.pop(number, None)
        if found is not None:
            account, who = found
            self.connections.leave(account)
            if who is not None:
                self._assignments.leave(who, child.number)

    def _entered(self, child: Child, number: int, account: str) -> bool:
        """Count a connection over TCP, now that its worker knows whose it is. Returns whether there may be one more."""
        if self._children.get(child.number) is not child or not self.connections.enter(account):
            return False
        child.connections[number] = account, None
        return True

    # ---- the configuration

    async def reload(self, text: str, config: Config) -> None:
        """Have every worker take over a configuration. Raises ConfigError, before anything has changed."""
        problems = configuration.reload_conflicts(self._config, config)
        if problems:
            raise configuration.ConfigError(problems)
        if config.kubernetes is not None:
            config.kubernetes.to_rules(config.jwks.max_age)
        self._policy, self._config = self._policy_of(config), config
        self._given = {**self._given, "config": text}
        await asyncio.gather(*(self._reload(child, self._given) for child in self._children.values()))

    async def look_again(self) -> None:
        """Have every worker look at its certificates."""
        nothing = {**self._given, "config": None}
        await asyncio.gather(*(self._reload(child, nothing) for child in self._children.values()))

    async def _reload(self, child: Child, given: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(_fence(child)):
                await child.ask("reload", **given)
        except (ChannelError, TimeoutError) as exc:
            _log.error("worker does not take the configuration over, so it is ended", worker=child.number, error=str(exc))
            await child.kill()

    @staticmethod
    def _policy_of(config: Config) -> Policy:
        return configuration.policy(config, owners={0, os.geteuid()})


def _fence(child: Child) -> float:
    return FENCE if child.ready.is_set() else STARTING_FENCE
