"""Keys that the store held before: of a keyd whose database was lost, or adopted. None is ever destroyed for another's sake."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from remote_backend import RemoteBackend
from support import FakeClock, intent, keyring, new_key, until

from backends import errors as backend_errors
from backends.api import Algorithm
from keyd.core.errors import AlreadyExistsError, BackendUnavailableError, KeydError, OverloadedError, StoreUnavailableError
from keyd.core.keyring import Keyring
from keyd.core.runner import BackendRunner, Limits
from keyd.core.store import SqlStore

AWAY = backend_errors.BackendUnavailableError("connection refused")
ED = Algorithm.ED25519


class World:
    def __init__(self, path: Path, *, ordered: bool) -> None:
        self.clock = FakeClock()
        self.backend = RemoteBackend(ordered=ordered)
        self.runner = BackendRunner("remote", self.backend)
        self.store = SqlStore(path)
        self.ring: Keyring = keyring(self.store, {"remote": self.runner}, self.clock)

    def earlier(self, *places: tuple[str, int]) -> None:
        """Have the store hold these versions already."""
        for name, version in places:
            self.backend.create(name, version, ED)


@pytest.fixture(params=[False, True], ids=["any order", "in order"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path / "keyd.db", ordered=request.param)
    await world.ring.start()
    yield world
    world.backend.answering.set()
    world.store.close()
    world.runner.close()


KEY = new_key(backend="remote")


@pytest.mark.parametrize("failure", [AWAY, backend_errors.BackendThrottledError("slow down"), backend_errors.BackendError("odd")])
@pytest.mark.parametrize("step", ["find", "create"])
async def test_a_creation_that_fails_takes_nothing_with_it(
    world: World, failure: backend_errors.BackendError, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.earlier(("agent", 1))

    def fail(*_: object) -> None:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(world.backend, step, fail)
        with pytest.raises(KeydError):
            await world.ring.create(KEY)
    await world.ring.mend("remote")
    assert world.backend.held == {"agent.1"}
    assert not world.store.load().intents


async def test_a_place_that_is_taken_is_named_and_burns_no_number(world: World) -> None:
    world.earlier(("agent", 1), ("agent", 2))
    for _ in range(3):
        with pytest.raises(AlreadyExistsError, match=r"handle 'agent\.1'; `keyd key adopt`"):
            await world.ring.create(KEY)
    assert world.backend.held == {"agent.1", "agent.2"}


async def test_versions_pass_over_numbers_that_are_taken(world: World) -> None:
    world.earlier(("agent", 1), ("agent", 2), ("agent", 3))
    await world.ring.adopt(KEY, "agent.3", None)
    change = await world.ring.rotate("agent", at_once=True)
    assert change.version.version == 4
    assert world.backend.held == {"agent.1", "agent.2", "agent.3", "agent.4"}


async def test_a_rotation_that_gets_no_answer_does_not_destroy_the_adopted_key(world: World) -> None:
    world.earlier(("agent", 1), ("agent", 2))
    await world.ring.adopt(KEY, "agent.2", None)
    world.backend.failure = AWAY
    with pytest.raises(BackendUnavailableError):
        await world.ring.rotate("agent")
    world.backend.failure = None
    await world.ring.mend("remote")
    assert world.backend.held == {"agent.1", "agent.2"}


async def test_destroying_one_key_does_not_destroy_one_adopted_under_another_name(world: World) -> None:
    world.earlier(("agent", 1), ("agent", 2))
    await world.ring.adopt(KEY, "agent.1", None)
    await world.ring.adopt(new_key("other", backend="remote"), "agent.2", None)
    await world.ring.compromise("agent", 1, "stolen")
    await world.ring.destroy("agent", 1)
    assert "agent.1" not in world.backend.held
    assert "agent.2" in world.backend.held


async def test_destroying_destroys_nothing_that_is_not_on_record(world: World) -> None:
    world.earlier(("agent", 1), ("agent", 2), ("agent", 3))
    await world.ring.adopt(KEY, "agent.3", None)
    await world.ring.compromise("agent", 1, "stolen")
    await world.ring.destroy("agent", 1)
    assert {"agent.1", "agent.2"} <= world.backend.held


async def test_a_version_whose_record_got_no_answer_is_not_undone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    good = world.store.finish_version

    def lost(*args: object, **kwargs: object) -> None:
        good(*args, **kwargs)  # type: ignore[arg-type]
        raise StoreUnavailableError("the connection was lost after the commit")

    monkeypatch.setattr(world.store, "finish_version", lost)
    with pytest.raises(StoreUnavailableError):
        await world.ring.create(KEY)
    await world.ring.mend("remote")
    assert world.backend.held == {"agent.1"}


async def test_nothing_is_concluded_while_a_creation_may_be_under_way(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    good, gate = world.backend.create, threading.Event()

    def create(name: str, version: int, algorithm: Algorithm) -> str:
        gate.wait()
        return good(name, version, algorithm)

    world.runner.limits = Limits(admin_timeout=0.2)
    monkeypatch.setattr(world.backend, "create", create)
    with pytest.raises(BackendUnavailableError):
        await world.ring.create(KEY)
    world.runner.limits = Limits()
    await world.ring.mend("remote")
    assert world.store.load().intents, "the intent says whose the key pair is that comes yet"
    assert world.runner.mend_wanted
    gate.set()
    await until(lambda: not world.runner.under_way)
    assert world.backend.held == {"agent.1"}
    await world.ring.mend("remote")
    assert world.backend.held == set()


async def test_to_stop_a_key_waits_for_no_backend(world: World) -> None:
    """Another creation hangs. A compromise with a successor in waiting, and a disabling, are done at once all the same."""
    await world.ring.create(KEY)
    await world.ring.rotate("agent")
    world.clock.advance(1)
    world.backend.answering.clear()
    hung = asyncio.create_task(world.ring.create(new_key("other", backend="remote")))
    await asyncio.sleep(0.01)
    start = time.monotonic()
    await world.ring.compromise("agent", 1, "stolen")
    await world.ring.set_enabled("agent", False)
    assert time.monotonic() - start < 5
    assert not hung.done()
    world.backend.answering.set()
    await hung


async def test_a_compromise_during_a_rotation_is_not_overwritten(world: World) -> None:
    await world.ring.create(KEY)
    world.backend.answering.clear()
    rotation = asyncio.create_task(world.ring.rotate("agent"))
    await asyncio.sleep(0.01)
    stop = asyncio.create_task(world.ring.compromise("agent", 1, "stolen"))
    await until(lambda: world.ring.snapshot.get("agent").active(world.clock.time) is None)
    world.backend.answering.set()
    await asyncio.gather(rotation, stop)
    first, second = (v.record for v in world.ring.snapshot.get("agent").versions)
    assert first.compromise_reason == "stolen"
    assert second.timeline.activate_at <= world.clock.time, "the rotation finds no active version, so its own is active at once"


async def test_one_name_in_two_backends_at_once(tmp_path: Path) -> None:
    backends = {name: RemoteBackend() for name in ("a", "b")}
    runners = {name: BackendRunner(name, backend) for name, backend in backends.items()}
    store = SqlStore(tmp_path / "keyd.db")
    ring = keyring(store, runners, FakeClock())
    await ring.start()
    tasks = [asyncio.create_task(ring.create(replace(KEY, backend=name))) for name in backends]
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["AlreadyExistsError", "Change"]
    assert sum(len(backend.held) for backend in backends.values()) == 1
    assert not store.load().intents
    store.close()
    for runner in runners.values():
        runner.close()


async def test_throttling_is_no_reason_to_undo_what_was_there(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.earlier(("agent", 1))

    def throttled(*_: object) -> None:
        raise backend_errors.BackendThrottledError("slow down")

    monkeypatch.setattr(world.backend, "find", throttled)
    with pytest.raises(OverloadedError):
        await world.ring.create(KEY)
    assert world.backend.held == {"agent.1"}


async def test_a_late_key_that_was_adopted_meanwhile_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    good, gate = world.backend.create, threading.Event()

    def create(name: str, version: int, algorithm: Algorithm) -> str:
        handle = good(name, version, algorithm)
        gate.wait()  # made, and the answer does not come
        return handle

    world.runner.limits = Limits(admin_timeout=0.2)
    with monkeypatch.context() as patch:
        patch.setattr(world.backend, "create", create)
        with pytest.raises(BackendUnavailableError):
            await world.ring.create(KEY)
    world.runner.limits = Limits()
    await world.ring.adopt(new_key("mine", backend="remote"), "agent.1", None)
    gate.set()
    await until(lambda: not world.runner.under_way)
    await world.ring.mend("remote")
    assert world.backend.held == {"agent.1"}
    assert not world.store.load().intents


async def test_an_adopted_key_is_known_by_any_of_its_handles(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store may take several handles for one key, an id and an ARN for example; an orphan is told by its public key."""
    noted = intent(world.store, "agent", "remote")
    world.earlier(("agent", noted.version))
    await world.ring.adopt(new_key("mine", backend="remote"), "agent.1", None)
    good = world.backend.public_key
    monkeypatch.setattr(world.backend, "find", lambda *_: "arn:agent.1")
    monkeypatch.setattr(world.backend, "public_key", lambda handle: good(handle.removeprefix("arn:")))
    await world.ring.mend("remote")
    assert world.backend.held == {"agent.1"}
    assert "destroy" not in world.backend.calls


async def test_a_creation_that_never_began_leaves_no_trace(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.runner.limits = Limits(admin_timeout=0.2)
    monkeypatch.setattr(world.runner, "_submit", lambda work: None)  # no thread is ever free
    world.backend.find = lambda *_: None  # type: ignore[method-assign]
    with pytest.raises(BackendUnavailableError):
        await world.ring.create(KEY)
    monkeypatch.undo()
    world.runner.limits = Limits()
    await world.ring.mend("remote")
    assert not world.store.load().intents


async def test_a_lost_answer_of_the_database_leaves_no_second_active_version(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.ring.create(KEY)
    good = world.store.finish_version

    def lost(*args: object, **kwargs: object) -> None:
        good(*args, **kwargs)  # type: ignore[arg-type]
        raise StoreUnavailableError("the connection was lost after the commit")

    with monkeypatch.context() as patch:
        patch.setattr(world.store, "finish_version", lost)
        with pytest.raises(StoreUnavailableError):
            await world.ring.rotate("agent", at_once=True)
    await world.ring.rotate("agent", at_once=True)
    states = [v.timeline.state(world.clock.time).value for v in world.store.load().versions]
    assert states.count("active") == 1


async def test_adopted_versions_of_one_store_key_go_in_their_order(world: World) -> None:
    world.earlier(("legacy", 1), ("legacy", 2))
    for number, name in ((1, "a"), (2, "b")):
        await world.ring.adopt(new_key(name, backend="remote"), f"legacy.{number}", None)
        await world.ring.compromise(name, 1, "stolen")
    for name in ("b", "a"):
        await world.ring.destroy(name, 1)
    await world.ring.mend("remote")
    assert not world.backend.held & {"legacy.1", "legacy.2"}
