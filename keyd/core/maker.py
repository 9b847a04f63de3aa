"""Has backends make key pairs: never in the place of another, and so that nothing stays of one that is not recorded."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from keyd.core import repair
from keyd.core.errors import AlreadyExistsError, BackendUnavailableError, StoreUnavailableError
from keyd.core.model import Key
from keyd.core.runner import BackendRunner
from keyd.core.snapshot import Snapshot
from keyd.core.store import Intent, Records, SqlStore

#: Where a version comes from: a function that has the backend make it, or the handle of what the backend holds already.
Source = Callable[[int], str] | str

_MOST_TAKEN = 1000


class Maker:
    """Gets the key pairs of new versions. Its callers hold the lock of the backend."""

    def __init__(
        self, store: SqlStore, snapshot: Callable[[], Snapshot], records: Callable[[], Coroutine[Any, Any, Records]]
    ) -> None:
        """``records`` returns everything that is stored, as it is then; raises StoreUnavailableError."""
        self._records = records
        self._store = store
        self._snapshot = snapshot
        #: What threads of backends are making, also those that nobody waits for any more.
        self.under_way: set[Intent] = set()

    async def get(self, key: Key, runner: BackendRunner, source: Source) -> tuple[Intent, str]:
        """Give out the next version number of a key, and return it with the handle of the key pair that is made for it.

        Raises:
            AlreadyExistsError: the backend holds a version of this number, which belongs to nobody on record.
            KeydError: the backend or the store failed; nothing is left of the attempt, or will be when the backend is back.
        """
        if isinstance(source, str):
            return await self._number(key, ""), source
        intent = await self._free_place(key, runner)
        gap = await self._gap(key, runner, intent.version)
        handle = await self._made(runner, source, intent)
        for missing in gap:
            if await runner.call(runner.backend.find, key.name, missing.version) is not None:
                await asyncio.to_thread(self._store.note, missing)
        return intent, handle

    async def _number(self, key: Key, backend: str) -> Intent:
        """Give out the next version number."""
        number = await asyncio.to_thread(self._store.next_version, key.name)
        intent = Intent(key.name, number, backend, self._store.replica)
        await asyncio.to_thread(self._store.begin_version, intent)
        return intent

    async def _free_place(self, key: Key, runner: BackendRunner) -> Intent:
        """Note the intent to make the next version. What the backend holds already is never taken for it.

        Raises:
            AlreadyExistsError: a new key's place is taken. Those of later versions are passed over.
            KeydError: the backend cannot tell, or the store failed; nothing was noted.
        """
        for _ in range(_MOST_TAKEN):
            number = await asyncio.to_thread(self._store.next_version, key.name)
            taken = await runner.call(runner.backend.find, key.name, number)
            if taken is None:
                return await self._number(key, key.backend)
            if key.name not in self._snapshot().keys:
                raise AlreadyExistsError(
                    f"backend {runner.name!r} holds a key pair made for version {number} of {key.name!r} already, under handle "
                    f"{taken!r}; `keyd key adopt` takes it over, another name leaves it alone"
                )
            await self._number(key, "")
        raise AlreadyExistsError(
            f"backend {runner.name!r} holds more than {_MOST_TAKEN} versions of {key.name!r} that are not on record"
        )

    async def _made(self, runner: BackendRunner, make: Callable[[int], str], intent: Intent) -> str:
        """Have the backend make a key pair and return its handle. Nothing is left of it on failure, sooner or later."""
        given_up, started = threading.Event(), threading.Event()

        def make_noted() -> str:
            started.set()
            self.under_way.add(intent)
            try:
                return make(intent.version)
            finally:
                self.under_way.discard(intent)
                if given_up.is_set():  # nobody waits any more; repair sees whether there is something to undo
                    runner.mend_wanted = True

        self.under_way.add(intent)
        try:
            return await runner.call(make_noted)
        except AlreadyExistsError:
            # Somebody else made it since its place was free.
            await asyncio.to_thread(self._store.abandon_version, intent)
            raise
        except Exception as exc:
            given_up.set()
            runner.mend_wanted = True
            away = isinstance(exc, BackendUnavailableError) and not runner.backend.capabilities.in_process
            if intent not in self.under_way and not away:  # else it may be made yet, or looking would only wait again
                await self.undo(intent, runner)
            raise
        finally:
            if not started.is_set():
                self.under_way.discard(intent)

    async def undo(self, intent: Intent, runner: BackendRunner) -> bool:
        """Remove what was got, if it was made; now, or as soon as the backend answers. What was adopted stays.

        Returns True when it is on record after all, and only the answer of the database was lost.
        """
        if not intent.backend:
            return False
        try:
            if not await asyncio.to_thread(self._store.holds, intent) and await asyncio.to_thread(self._store.recorded, intent):
                return True
            holdings = repair.Holdings.of(await self._records(), runner.name)
        except StoreUnavailableError:
            runner.mend_wanted = True
            return False
        if not await repair.remove_orphan(intent, self._store, runner, holdings):
            runner.mend_wanted = True
        return False

    async def _gap(self, key: Key, runner: BackendRunner, number: int) -> list[Intent]:
        """Return the numbers before this one that were given out, are not on record, and of which the backend holds nothing.

        A store that counts versions itself makes these on its way. Then they are ours, and to be destroyed in their turn.
        """
        view = self._snapshot().keys.get(key.name)
        if view is None or not runner.backend.capabilities.ordered_destruction:
            return []
        last = max(version.record.version for version in view.versions)
        gap = [Intent(key.name, missing, key.backend, self._store.replica) for missing in range(last + 1, number)]
        return [intent for intent in gap if await runner.call(runner.backend.find, key.name, intent.version) is None]
