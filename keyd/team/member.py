"""A worker process as a member of its team: what it asks of the others, and what they ask of it, through the supervisor."""

from __future__ import annotations

import asyncio
import base64
import itertools
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

from keyd.config import Config
from keyd.config.workers import of_worker, trail_owner
from keyd.core.keyring import Keyring
from keyd.core.sessions.revocations import Revocations
from keyd.core.store import SqlStore
from keyd.core.store.database import Sqlite
from keyd.service.gate.entrance import Entrance
from keyd.team.channel import Channel, ChannelError

#: Does what another worker asks for, and returns the answer, in bytes.
Part = Callable[[bytes], Awaitable[bytes]]


@dataclass
class Member:
    """This process among the workers of one daemon.

    Attributes:
        number: from 1.
        count: how many workers there are.
        fresh: it is the first process of this daemon: whatever earlier ones had begun is not under way any more.
        http: listens for who fetches public keys, for all workers; None: nobody does.
        metrics: the same for figures.
        leads: whether it is this worker that plans.
        entrance: takes the connections that the supervisor accepts; None: it serves not yet.
    """

    number: int
    count: int
    fresh: bool
    http: socket.socket | None
    metrics: socket.socket | None
    leads: bool = False
    entrance: Entrance | None = None
    _channel: Channel | None = None
    #: Of connections that this worker counts; those that the supervisor accepts have positive ones.
    _numbers: Iterator[int] = field(default_factory=partial(itertools.count, -1, -1))
    _parts: dict[str, Part] = field(default_factory=dict)
    _refresh: Callable[[], Awaitable[None]] | None = None

    @property
    def name(self) -> str:
        """What the database calls this worker."""
        return f"worker-{self.number}"

    def own(self, config: Config) -> Config:
        """Return the configuration as it is for this worker: what only one process can have is this one's."""
        return of_worker(config, self.number)

    def share_of(self, names: Iterable[str]) -> list[str]:
        """Return those that this worker serves, of what one worker each serves."""
        return [name for place, name in enumerate(sorted(names)) if place % self.count == self.number - 1]

    def plans(self) -> bool:
        """Say whether this worker plans rotations."""
        return self.leads

    def open_store(self, path: Path) -> SqlStore:
        """Open the SQLite database that all workers share. Blocks. Raises StoreUnavailableError."""
        store = SqlStore(Sqlite(path, shared=True), replica_name=trail_owner(self.number))
        # The supervisor knows who lives: nobody is taken for dead that it has not seen end.
        store.alive_for = inf
        try:
            store.forget(None if self.fresh else self.name)
            store.register(self.name)
        except BaseException:
            store.close()
            raise
        return store

    # ---- towards the others

    def meet(self, channel: Channel) -> None:
        """Talk over this channel to the supervisor."""
        self._channel = channel

    def takes_part(self, parts: Mapping[str, Part]) -> None:
        """Say what other workers may ask for, by name."""
        self._parts.update(parts)

    async def join(self, keyring: Keyring, revocations: Revocations) -> None:
        """See every change of the others from here on, and have them see those of this worker. What was before is to be read after this."""

        async def refresh() -> None:
            await keyring.refresh()
            await revocations.refresh()

        self._refresh = refresh
        keyring.spread = revocations.spread = self.spread
        await self._ask("join")

    async def spread(self) -> None:
        """Return when every other worker has read what is on record now, or has ended.

        The supervisor ends one that does not in time: so nothing goes on under what an operator was told is over.
        """
        try:
            await self._ask("spread")
        except ChannelError:  # without the supervisor this process ends, and nobody is told anything any more
            await asyncio.get_running_loop().create_future()

    async def others(self, part: str, payload: bytes = b"") -> list[tuple[int, bytes]]:
        """Ask every other worker, and return the number and the answer of each that gave one."""
        found = await self._ask("others", part=part, payload=base64.b64encode(payload).decode())
        return [(number, base64.b64decode(answer)) for number, answer in found]

    async def take(self, account: str) -> Callable[[], None] | None:
        """Have the supervisor count one more connection of an account, as :class:`keyd.service.gate.limits.Places` says."""
        number = next(self._numbers)
        try:
            taken = await self._ask("enter", connection=number, account=account)
        except ChannelError:  # without the supervisor this process ends
            return None
        except BaseException:  # it may have been counted all the same
            self.left(number)
            raise
        return partial(self.left, number) if taken else None

    def left(self, number: int) -> None:
        """Tell the supervisor that a connection is over."""
        assert self._channel is not None
        self._channel.tell("left", connection=number)

    async def _ask(self, what: str, **about: Any) -> Any:
        assert self._channel is not None
        return await self._channel.ask(what, **about)

    # ---- for the others

    async def refresh(self) -> None:
        """See what is on record. Raises StoreUnavailableError."""
        if self._refresh is not None:
            await self._refresh()

    async def part(self, about: Mapping[str, Any]) -> str:
        """Do what another worker asks for."""
        answer = await self._parts[about["part"]](base64.b64decode(about["payload"]))
        return base64.b64encode(answer).decode()
