"""The keys as they are on record: held in memory, followed in the store, and shown to all at once.

Each change is written to the store first and then becomes visible at once, by swapping the snapshot; one at a time, and never
while a backend is waited for. What others write to the same store is read, and every change wakes who waits for one. What a change
is, its caller says (:mod:`keyd.core.moves`); where another replica changed the key meanwhile, it is decided again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace

import structlog

from keyd.core import failover, moves
from keyd.core.bells import Bell, Bells
from keyd.core.clock import Clock
from keyd.core.errors import ConflictError
from keyd.core.model import Key, KeyVersion
from keyd.core.snapshot import KeyView, Snapshot, VersionView
from keyd.core.store import Intent, Records, SqlStore

_ATTEMPTS = 5  # at a change that others interfere with
_log = structlog.get_logger("keyd.keyring")


class KeysOnRecord:
    """All keys and versions that the store has. ``snapshot`` is how they are; it never waits for the store."""

    def __init__(self, store: SqlStore, clock: Clock) -> None:
        self.snapshot = Snapshot()
        self.clock = clock
        self._store = store
        self._recording = asyncio.Lock()
        self._changed = asyncio.Event()
        self._bells = Bells()
        #: The newest change of any replica that was read.
        self._read = 0

    @property
    def newest_change(self) -> int:
        """The number of the newest change of any replica that was read."""
        return self._read

    async def load(self) -> Records:
        """Read everything that is stored, at the start, and return it. Raises StoreUnavailableError."""
        records = await asyncio.to_thread(self._store.load)
        self._take(records)
        return records

    async def refresh(self) -> None:
        """See what other replicas changed. Raises StoreUnavailableError."""
        async with self._recording:
            await self._refresh()

    async def reload(self) -> None:
        """See everything as the database has it, after it was away; what was stopped and is no longer is stopped again.

        Raises:
            StoreUnavailableError: it is away again. What was stopped stays so here; to reload again writes it down.
            ConflictError: others change the same keys all the time.
        """
        async with self._recording:
            for _ in range(_ATTEMPTS):
                before, records = self.snapshot, await asyncio.to_thread(self._store.load)
                found = Snapshot.of(records.keys, records.versions)
                self._read = records.change
                if found == before:
                    return
                stopped = failover.again(before, found, self.clock.now())
                # Before anything is written: what was compromised must not sign meanwhile.
                self._swap(found.with_keys(*(each.view for each in stopped)).sharing(before))
                self._tell_lost(before, stopped)
                try:
                    for each in stopped:
                        written = await asyncio.to_thread(self._store.update, each.view.key, each.changed)
                        self._show(written, each.changed)
                    return
                except ConflictError:
                    continue  # another replica does the same
        raise _conflict("of a fleet")

    async def records(self) -> Records:
        """Return everything that is stored. All but what changed is in memory. Raises StoreUnavailableError."""
        async with self._recording:
            found = await asyncio.to_thread(self._store.load, self._read)
            self._take(found)
        views = self.snapshot.keys.values()
        versions = tuple(version.record for view in views for version in view.versions)
        return Records(tuple(view.key for view in views), versions, found.intents, self._read)

    async def move(self, name: str, move: moves.Move) -> moves.Moved:
        """Make a move on what is on record, show it, and return what it changed.

        Raises:
            NotFoundError: there is no such key.
            StoreUnavailableError: nothing is shown. Where only the answer was lost, the next look at the store shows it.
            ConflictError: other replicas change the key all the time; nothing was done.
            KeydError: the move cannot be made.
        """
        for _ in range(_ATTEMPTS):
            async with self._recording:
                await self._refresh()
                view = self.snapshot.get(name)
                moved = move(view, self.clock.now())
                if not moved.changed and moved.key is None:
                    return moved
                try:
                    written = await asyncio.to_thread(self._store.update, moved.key or view.key, moved.changed)
                except ConflictError:
                    continue
                self._show(written, moved.changed)
                return moved
        raise _conflict(name)

    async def add(self, key: Key, intent: Intent, draft: KeyVersion, addition: moves.Addition) -> KeyVersion:
        """Record a version that was made, and its key where it is the first, with the timelines of this moment; return it as shown.

        Args:
            key: its key, as it is where nothing is on record of it.
            intent: under which it was made; it ends with this.
            draft: the version but for its timeline.
            addition: gives that, and the versions that change with it.

        Raises:
            StoreUnavailableError: it is not shown. It may be recorded all the same, with only the answer lost.
            ConflictError: other replicas change the key all the time; nothing was done.
            KeydError: the version cannot be added to the key as it is now.
        """
        for _ in range(_ATTEMPTS):
            async with self._recording:
                view = self.snapshot.keys.get(key.name) or KeyView(key, ())
                timeline, changed = addition(view, self.clock.now())
                record = replace(draft, timeline=timeline)
                try:
                    written = await asyncio.to_thread(self._store.finish_version, intent, record, view.key, changed)
                except ConflictError:
                    await self._refresh()
                    continue
                self._show(written, [*changed, record])
                return record
        raise _conflict(key.name)

    def show_gone(self, version: KeyVersion) -> None:
        """Show a version without its handle; whatever else changed of it since it was read stays."""
        view = self.snapshot.get(version.key)
        self._show(view.key, [replace(view.version(version.version).record, handle=None)])

    async def changed(self, within: float | None) -> None:
        """Return at the next change of any key, or after ``within`` seconds."""
        event = self._changed
        try:
            async with asyncio.timeout(within):
                await event.wait()
        except TimeoutError:
            pass

    def bell(self, names: Collection[str]) -> Bell:
        """Return what rings when one of these keys changes, or all keys have to be looked at again; to be used in ``with``."""
        return Bell(self._bells, names)

    def wake(self) -> None:
        """Let those who wait for a change look again, for something else has changed that they depend on."""
        self._tell()
        self._bells.ring_all()

    async def _refresh(self) -> None:
        """See what others changed, or what of our own was recorded although its answer was lost. Needs the lock for recording."""
        self._take(await asyncio.to_thread(self._store.load, self._read))

    def _take(self, records: Records) -> None:
        keys, loaded = self.snapshot.keys, Snapshot.of(records.keys, records.versions)
        self._read = max(self._read, records.change)
        if not keys:
            self._swap(loaded)
            return
        newer = [view for name, view in loaded.keys.items() if name not in keys or view.key.change > keys[name].key.change]
        if newer:
            self._swap(self.snapshot.with_keys(*newer))

    def _tell_lost(self, before: Snapshot, stopped: Sequence[failover.Again]) -> None:
        kids = failover.lost(before, self.snapshot)
        if kids:
            _log.error(
                "the database has lost versions that it had confirmed; signatures under their kids verify no more", kids=kids
            )
        for each in stopped:
            _log.error("the database has lost what was stopped; it is stopped again", key=each.view.key.name, what=each.what)

    def _show(self, key: Key, changed: Sequence[KeyVersion]) -> None:
        if key.change == self._read + 1:
            self._read = key.change  # our own, and nobody's came before
        view = self.snapshot.keys.get(key.name) or KeyView(key, ())
        versions = {v.record.version: v for v in view.versions} | {record.version: VersionView(record) for record in changed}
        self._swap(self.snapshot.with_keys(KeyView(key, tuple(versions[number] for number in sorted(versions)))))

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _swap(self, snapshot: Snapshot) -> None:
        old, self.snapshot = self.snapshot, snapshot
        self._tell()
        if self._bells:  # at the start nobody waits for any of all the keys
            lost_too = old.keys.differing(snapshot.keys)
            self._bells.ring({*snapshot.keys.differing(old.keys), *lost_too})


def _conflict(name: str) -> ConflictError:
    return ConflictError(f"key {name!r} is changed by other replicas all the time; nothing was done, try again")
