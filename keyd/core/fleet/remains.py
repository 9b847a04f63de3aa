"""Finds what replicas that died left half made or half destroyed, and has it mended.

Each replica mends at its start what nobody alive is making. But a replica that was killed counts as alive for a while, also when
its successor starts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import isinf

from keyd.core.errors import KeydError
from keyd.core.keyring import Keyring
from keyd.core.store import SqlStore

INTERVAL = 10.0  # seconds between two looks
#: Seconds after which a destruction that the backend did not confirm is not under way any more.
_UNCONFIRMED = 60.0


class Remains:
    """Wakes the monitor of a backend in which something is to be mended."""

    def __init__(self, keyring: Keyring, store: SqlStore, leads: Callable[[], bool]) -> None:
        """``leads`` says whether this replica looks: one is enough."""
        self._keyring = keyring
        self._store = store
        self._leads = leads
        self._known: set[str] = set()

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(INTERVAL)
            if self._leads():
                try:
                    await self.look()
                except KeydError:  # the database is away
                    continue

    async def look(self) -> None:
        """Look once. Raises StoreUnavailableError."""
        wanted = await asyncio.to_thread(self._abandoned)
        for name in wanted | self._unconfirmed():
            runner = self._keyring.backends.get(name)
            if runner is not None:
                runner.mend_wanted = True
                runner.troubled.set()

    def _abandoned(self) -> set[str]:
        """Return the backends in which replicas that died were making something."""
        intents = self._store.load(self._keyring.newest_change).intents
        if not intents:
            return set()
        living = self._store.living()
        return {intent.backend for intent in intents if intent.owner not in living}

    def _unconfirmed(self) -> set[str]:
        """Return the backends in which something was to be destroyed long ago. Each is named once: some have to wait for older ones."""
        before = self._keyring.clock.now() - _UNCONFIRMED
        found = {
            version.record.thumbprint: view.key.backend
            for view in self._keyring.snapshot.keys.values()
            for version in view.versions
            if version.record.handle is not None
            and not isinf(version.record.timeline.destroyed_at)
            and version.record.timeline.destroyed_at < before
        }
        new = found.keys() - self._known
        self._known = set(found)
        return {found[thumbprint] for thumbprint in new}
