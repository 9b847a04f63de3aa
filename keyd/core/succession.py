"""Waiting for the version that takes over from a compromised one, so that an emergency costs its callers a moment and no error.

A backend needs some time to make a version, and until then the key has none that is active. Any replica may be making it. So what
is waited for is on record: the compromise, as long as it is fresh.
"""

from __future__ import annotations

import time
from math import inf
from typing import Protocol

from keyd.core.clock import Clock
from keyd.core.snapshot import Snapshot


class Keys(Protocol):
    """The part of the keyring that is looked at."""

    clock: Clock

    @property
    def snapshot(self) -> Snapshot:
        """All keys as they are now."""
        ...

    async def changed(self, within: float | None) -> None:
        """Return at the next change of any key, or after ``within`` seconds."""
        ...


async def wait(keys: Keys, name: str, within: float | None = None) -> bool:
    """Wait while a key lacks an active version because of a fresh compromise: some 2 s at most.

    Who waits only ``within`` seconds for an answer gets a third of them to use it. Returns whether there was something to wait for.
    """
    view = keys.snapshot.keys.get(name)
    patience = 0.0 if view is None else view.succession(keys.clock.now())
    if not patience:
        return False
    end = time.monotonic() + min(patience, inf if within is None else within * 2 / 3)
    while (left := end - time.monotonic()) > 0 and keys.snapshot.get(name).succession(keys.clock.now()):
        await keys.changed(left)
    return True
