"""What several test modules need."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from backends.api import Algorithm, BackendContext
from backends.memory import MemoryBackend
from keyd.core.clock import Clock
from keyd.core.keyring import Keyring
from keyd.core.model import Key, KidFormat, Purpose
from keyd.core.profile import BUILT_IN
from keyd.core.runner import BackendRunner
from keyd.core.store import Intent, SqlStore
from keyd.core.timeline import LifecyclePolicy

START = 1_800_000_000.0


class FakeClock:
    """A clock that stands still until it is told to move."""

    def __init__(self, now: float = START) -> None:
        self.time = now

    def now(self) -> float:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += seconds


def fill_disk(filler: Path) -> None:
    """Write a file until there is no room for more."""
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 512)


def memory_backend() -> MemoryBackend:
    return MemoryBackend.open(MemoryBackend.Config(), BackendContext("mem", Path("/nonexistent")))


def new_key(name: str = "agent", **changes: object) -> Key:
    key = Key(
        name=name,
        algorithm=Algorithm.ED25519,
        backend="mem",
        purposes=frozenset({Purpose.HTTP}),
        profile="rfc9421",
        kid_format=KidFormat.THUMBPRINT,
        keyid_aliases=(),
        publish=True,
        lifecycle=LifecyclePolicy(),
        created_at=START,
    )
    return replace(key, **changes)  # type: ignore[arg-type]


def keyring(store: SqlStore, runners: Mapping[str, BackendRunner], clock: Clock) -> Keyring:
    ring = Keyring(store, runners, clock, served_max_age=300)
    ring.profiles = BUILT_IN
    return ring


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread or task is about to do."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - threads set no event of this loop
            await asyncio.sleep(0.001)


def intent(store: SqlStore, name: str, backend: str) -> Intent:
    """Give out the next version number of a key and note the intent to make it, as a kill right after that leaves it."""
    noted = Intent(name, store.next_version(name), backend)
    store.begin_version(noted)
    return noted


def signature_base(now: float, *, keyid: str | None = None, authority: str = "example.com", extra: str = "") -> bytes:
    """Return a small valid signature base."""
    named = f';keyid="{keyid}"' if keyid else ""
    return (
        f'"@method": GET\n"@authority": {authority}\n"@path": /\n'
        f'"@signature-params": ("@method" "@authority" "@path");created={int(now)}{named}{extra}'
    ).encode()
