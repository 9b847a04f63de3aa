"""Several keyrings on one SQLite database, as workers have them: who changes something is answered when the others know."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from math import inf
from pathlib import Path

import pytest
from support import FakeClock, keyring, memory_backend, new_key, until

from keyd.core.errors import KeyStateError
from keyd.core.keyring import Keyring
from keyd.core.runner import BackendRunner
from keyd.core.sessions.revocations import Revocations, Revoked
from keyd.core.store import SqlStore
from keyd.core.store.database import Sqlite


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[list[Keyring]]:
    clock, backend = FakeClock(), memory_backend()
    stores = [SqlStore(Sqlite(tmp_path / "keyd.db", shared=True)) for _ in range(2)]
    rings = [keyring(store, {"mem": BackendRunner("mem", backend)}, clock) for store in stores]
    for store, ring, name in zip(stores, rings, ("worker-1", "worker-2"), strict=True):
        store.alive_for = inf
        store.register(name)
        await ring.start()
    rings[0].spread, rings[1].spread = rings[1].refresh, rings[0].refresh
    yield rings
    for store in stores:
        store.close()


def kid(ring: Keyring) -> str:
    active = ring.snapshot.get("agent").active(ring.clock.now())
    assert active is not None
    return active.record.kid


async def test_what_is_done_at_one_is_known_to_the_other_when_it_is_answered(two: list[Keyring]) -> None:
    one, other = two
    await one.create(new_key())
    first = kid(other)
    await other.rotate("agent", at_once=True)
    assert kid(one) == kid(other) != first
    await one.set_enabled("agent", False)
    with pytest.raises(KeyStateError):
        other.snapshot.get("agent").signer(None, other.clock.now())


async def test_a_compromise_is_known_before_it_is_answered(two: list[Keyring]) -> None:
    one, other = two
    await one.create(new_key())
    stopped = kid(one)
    waits, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        waits.set()
        await go_on.wait()
        await other.refresh()

    one.spread = slow
    answer = asyncio.create_task(one.compromise("agent", 1, "leaked"))
    await waits.wait()
    assert kid(other) == stopped
    assert not answer.done()
    go_on.set()
    await answer
    with pytest.raises(KeyStateError):
        other.snapshot.get("agent").signer(stopped, other.clock.now())


async def test_what_was_stopped_already_is_answered_only_when_the_other_knows(two: list[Keyring]) -> None:
    one, other = two
    await one.create(new_key())
    one.spread = asyncio.Event().wait  # type: ignore[assignment]  # a worker that has ended before it could tell
    ended = asyncio.create_task(one.set_enabled("agent", False))
    await until(lambda: one.snapshot.get("agent").key.disabled_at is not None)
    seen: list[None] = []

    async def told() -> None:
        seen.append(None)

    other.spread = told
    await other.set_enabled("agent", False)
    assert seen
    ended.cancel()


async def test_two_that_change_at_once_do_not_wait_for_each_other_for_ever(two: list[Keyring]) -> None:
    one, other = two
    await one.create(new_key())
    await one.create(new_key("second"))
    async with asyncio.timeout(10):
        await asyncio.gather(
            *(one.set_paused("agent", paused) for paused in (True, False) * 5),
            *(other.set_paused("second", paused) for paused in (True, False) * 5),
        )
    assert one.snapshot.keys == other.snapshot.keys


async def test_a_revoked_token_is_on_the_other_s_list_when_that_is_answered(tmp_path: Path) -> None:
    store, clock = SqlStore(tmp_path / "keyd.db"), FakeClock()
    one, other = Revocations(clock, store), Revocations(clock, store)
    one.spread = other.refresh
    await one.revoke([Revoked("https://a.example", "id", clock.time + 60, clock.time)])
    assert [token.token_id for token in other.listed()] == ["id"]
    store.close()
