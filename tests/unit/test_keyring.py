"""Changes to keys: what they do, and what they leave when they fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support import FakeClock, intent, keyring, memory_backend, new_key

from backends import errors as backend_errors
from backends.api import Algorithm
from keyd.core import jwks
from keyd.core.errors import (
    AlreadyExistsError,
    BackendFailedError,
    BackendUnavailableError,
    InvalidArgumentError,
    KeyStateError,
    NotFoundError,
    StoreUnavailableError,
)
from keyd.core.keyring import Keyring
from keyd.core.model import KidFormat, Purpose
from keyd.core.runner import BackendRunner
from keyd.core.snapshot import KeyView, Snapshot
from keyd.core.store import SqlStore
from keyd.core.timeline import LifecyclePolicy


class World:
    """A keyring with everything under it, and a way to restart it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = FakeClock()
        self.backend = memory_backend()
        self.runners = {"mem": BackendRunner("mem", self.backend)}
        self.store = SqlStore(path)
        self.ring = keyring(self.store, self.runners, self.clock)

    async def restart(self) -> Keyring:
        self.store.close()
        self.store = SqlStore(self.path)
        self.ring = keyring(self.store, self.runners, self.clock)
        await self.ring.start()
        return self.ring

    def states(self, name: str = "agent") -> list[str]:
        return [v.record.timeline.state(self.clock.time).value for v in self.ring.snapshot.get(name).versions]

    def held(self) -> int:
        return len(list(self.backend.list()))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path / "keyd.db")
    await world.ring.start()
    yield world
    world.store.close()
    for runner in world.runners.values():
        runner.close()


async def test_create_makes_an_active_published_version_that_survives_a_restart(world: World) -> None:
    change = await world.ring.create(new_key())
    assert change.version.kid == change.version.thumbprint
    before = world.ring.snapshot.get("agent")
    assert [v.record for v in (await world.restart()).snapshot.get("agent").versions] == [v.record for v in before.versions]
    assert world.ring.snapshot.get("agent").key == before.key
    assert world.states() == ["active"]


async def test_name_version_kids(world: World) -> None:
    await world.ring.create(new_key(kid_format=KidFormat.NAME_VERSION))
    await world.ring.rotate("agent", at_once=True)
    assert [v.record.kid for v in world.ring.snapshot.get("agent").versions] == ["agent-1", "agent-2"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"name": "../etc"}, "a key name is"),
        ({"name": ""}, "a key name is"),
        ({"name": "a" * 64}, "a key name is"),
        ({"purposes": frozenset()}, "at least one purpose"),
        ({"purposes": frozenset({Purpose.RAW, Purpose.HTTP})}, "no other purpose"),
        ({"profile": "nope"}, "no profile 'nope'"),
        ({"backend": "nope"}, "not configured"),
        ({"lifecycle": LifecyclePolicy(publish_lead=599)}, "at least 600 s"),
        ({"lifecycle": LifecyclePolicy(retention=299)}, "retention is at least"),
        ({"lifecycle": LifecyclePolicy(sign_grace=-1)}, "sign_grace"),
        ({"keyid_aliases": ("",)}, "alias"),
    ],
)
async def test_a_key_that_cannot_be_is_refused_and_leaves_nothing(
    world: World, changes: dict[str, object], complaint: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=complaint):
        await world.ring.create(new_key(**changes))  # type: ignore[arg-type]
    assert world.held() == 0
    assert not world.store.load().intents


async def test_a_name_is_taken_once(world: World) -> None:
    await world.ring.create(new_key())
    with pytest.raises(AlreadyExistsError, match="exists already"):
        await world.ring.create(new_key())
    assert world.held() == 1


async def test_planned_rotation_publishes_first_and_signs_later(world: World) -> None:
    await world.ring.create(new_key())
    change = await world.ring.rotate("agent")
    assert (world.states(), change.warnings) == (["active", "pre-activation"], ())
    assert len(world.ring.snapshot.get("agent").published(world.clock.time)) == 2
    world.clock.advance(24 * 3600)
    assert world.states() == ["deactivated", "active"]  # and nothing ran in between
    with pytest.raises(KeyStateError, match="waiting already"):
        await world.ring.rotate("agent")
        await world.ring.rotate("agent")


async def test_emergency_rotation_promotes_the_waiting_version(world: World) -> None:
    await world.ring.create(new_key())
    await world.ring.rotate("agent")
    change = await world.ring.rotate("agent", at_once=True)
    assert (change.version.version, world.states()) == (2, ["deactivated", "active"])
    assert "verifiers that cached" in change.warnings[0]
    await world.restart()
    assert world.states() == ["deactivated", "active"]


async def test_the_replaced_version_signs_when_named_until_its_grace_ends(world: World) -> None:
    old = (await world.ring.create(new_key())).version
    new = (await world.ring.rotate("agent", at_once=True)).version
    view = world.ring.snapshot.get("agent")
    assert view.signer(None, world.clock.time).record.kid == new.kid
    assert view.signer(old.kid, world.clock.time + 299).record.kid == old.kid
    with pytest.raises(KeyStateError) as caught:
        view.signer(old.kid, world.clock.time + 300)
    assert caught.value.metadata == {"active_kid": new.kid}


async def test_compromise_of_the_active_version_brings_a_successor(world: World) -> None:
    old = (await world.ring.create(new_key())).version
    change = await world.ring.compromise("agent", 1, "laptop stolen")
    assert world.states() == ["compromised", "active"]
    assert change.version.compromise_reason == "laptop stolen"
    document = jwks.render(world.ring.snapshot, world.clock.time, max_age=300)
    assert old.kid.encode() not in document.body
    with pytest.raises(KeyStateError, match="compromised already"):
        await world.ring.compromise("agent", 1, "again")


async def test_compromise_promotes_the_waiting_version(world: World) -> None:
    await world.ring.create(new_key())
    await world.ring.rotate("agent")
    await world.ring.compromise("agent", 1, "leak")
    assert world.states() == ["compromised", "active"]


async def test_compromise_of_the_waiting_version_keeps_the_active_one(world: World) -> None:
    await world.ring.create(new_key())
    await world.ring.rotate("agent")
    world.clock.advance(1)
    change = await world.ring.compromise("agent", 2, "leak")
    assert len(change.warnings) == 1
    world.clock.advance(30 * 86400)
    assert world.states() == ["active", "compromised"]


async def test_compromise_says_for_how_long_its_successor_is_not_known_everywhere(world: World) -> None:
    await world.ring.create(new_key())
    trusted, unknown = (await world.ring.compromise("agent", 1, "leak")).warnings
    assert trusted.startswith("verifiers trust kid")
    assert unknown.startswith("verifiers that cached the JWK Set fail until they fetch it again")


async def test_compromise_says_nothing_of_a_successor_that_was_published_for_its_lead(world: World) -> None:
    await world.ring.create(new_key())
    await world.ring.rotate("agent")
    await world.ring.set_paused("agent", True)
    world.clock.advance(86400)
    (trusted,) = (await world.ring.compromise("agent", 1, "leak")).warnings
    assert trusted.startswith("verifiers trust kid")


async def test_compromise_counts_even_when_no_successor_can_be_made(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.ring.create(new_key())
    monkeypatch.setattr(world.backend, "create", _raising(backend_errors.BackendUnavailableError("gone")))
    change = await world.ring.compromise("agent", 1, "leak")
    assert "no successor could be made" in change.warnings[-1]
    assert world.states() == ["compromised"]
    with pytest.raises(KeyStateError, match="no active version"):
        world.ring.snapshot.get("agent").signer(None, world.clock.time)
    with pytest.raises(KeyStateError, match="no published version"):
        jwks.render(world.ring.snapshot, world.clock.time, max_age=300, name="agent")
    monkeypatch.undo()
    await world.ring.rotate("agent")  # without an active version even a planned rotation is at once
    assert world.states() == ["compromised", "active"]


async def test_compromise_wants_a_reason(world: World) -> None:
    await world.ring.create(new_key())
    with pytest.raises(InvalidArgumentError, match="reason"):
        await world.ring.compromise("agent", 1, "  ")


async def test_disabled_keys_do_not_sign_and_stay_published(world: World) -> None:
    await world.ring.create(new_key())
    await world.ring.set_enabled("agent", False)
    view = (await world.restart()).snapshot.get("agent")
    with pytest.raises(KeyStateError, match="disabled"):
        view.signer(None, world.clock.time)
    with pytest.raises(KeyStateError, match="disabled"):
        await world.ring.rotate("agent")
    assert view.published(world.clock.time)
    assert (await world.ring.set_enabled("agent", True)).signer(None, world.clock.time)


async def test_destroy_keeps_the_record_and_removes_the_material(world: World) -> None:
    await world.ring.create(new_key())
    for wanted in ("active", "replace it first"):
        with pytest.raises(KeyStateError, match=wanted):
            await world.ring.destroy("agent", 1, force=True)
    await world.ring.rotate("agent", at_once=True)
    with pytest.raises(KeyStateError, match="still published"):
        await world.ring.destroy("agent", 1)
    world.clock.advance(300 + 48 * 3600)
    await world.ring.destroy("agent", 1)
    assert (world.states(), world.held()) == (["destroyed", "active"], 1)
    record = (await world.restart()).snapshot.get("agent").version(1).record
    assert (record.handle, bool(record.public_jwk)) == (None, True)
    with pytest.raises(KeyStateError, match="destroyed already"):
        await world.ring.destroy("agent", 1)


async def test_force_destroys_what_is_still_published(world: World) -> None:
    await world.ring.create(new_key())
    await world.ring.rotate("agent", at_once=True)
    await world.ring.destroy("agent", 1, force=True)
    assert (world.states(), world.held()) == (["destroyed", "active"], 1)


async def test_a_destruction_that_the_backend_does_not_confirm_is_finished_at_the_next_start(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.ring.create(new_key())
    await world.ring.rotate("agent", at_once=True)
    monkeypatch.setattr(world.backend, "destroy", _raising(backend_errors.BackendUnavailableError("gone")))
    change = await world.ring.destroy("agent", 1, force=True)
    assert "did not confirm" in change.warnings[0]
    assert (world.states()[0], world.held()) == ("destroyed", 2)
    monkeypatch.undo()
    await world.restart()
    assert world.held() == 1


@pytest.mark.parametrize("step", ["create", "public_key", "sign"])
async def test_a_backend_that_fails_at_any_step_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    monkeypatch.setattr(world.backend, step, _raising(backend_errors.BackendUnavailableError("gone")))
    with pytest.raises(BackendUnavailableError, match="backend 'mem': gone"):
        await world.ring.create(new_key())
    monkeypatch.undo()
    assert (world.held(), world.store.load().intents, dict(world.ring.snapshot.keys)) == (0, (), {})
    assert (await world.ring.create(new_key())).version.version == 2  # version numbers are never reused


async def test_a_store_that_fails_leaves_nothing_in_the_backend(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.store, "finish_version", _raising(StoreUnavailableError("down")))
    with pytest.raises(StoreUnavailableError):
        await world.ring.create(new_key())
    assert (world.held(), dict(world.ring.snapshot.keys)) == (0, {})


async def test_a_backend_whose_signature_is_wrong_gets_no_key_recorded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.backend, "sign", lambda *_: b"\0" * 64)
    with pytest.raises(BackendFailedError, match="does not verify"):
        await world.ring.create(new_key())
    assert world.held() == 0


async def test_signatures_from_outside_the_process_are_verified(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    await world.ring.create(new_key())
    version = world.ring.snapshot.get("agent").versions[0]
    outside = replace(world.backend.capabilities, in_process=False, inline=frozenset())
    monkeypatch.setattr(world.backend, "capabilities", outside)
    assert await world.runners["mem"].sign(version, Algorithm.ED25519, b"m")
    monkeypatch.setattr(world.backend, "sign", lambda *_: b"\1" * 64)
    with pytest.raises(BackendFailedError, match="does not verify"):
        await world.runners["mem"].sign(version, Algorithm.ED25519, b"m")


async def test_a_recorded_key_that_the_store_lost_is_a_failure_of_the_store(world: World) -> None:
    await world.ring.create(new_key())
    version = world.ring.snapshot.get("agent").versions[0]
    world.backend.destroy(str(version.record.handle))
    with pytest.raises(BackendFailedError, match="cannot sign until it is back"):
        await world.runners["mem"].sign(version, Algorithm.ED25519, b"m")
    assert (await world.restart()).snapshot.get("agent").active(world.clock.time)  # and it stays on record


async def test_an_intent_whose_backend_is_away_waits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    intent(world.store, "agent", "mem")
    world.backend.create("agent", 1, Algorithm.ED25519)
    monkeypatch.setattr(world.backend, "find", _raising(backend_errors.BackendUnavailableError("gone")))
    await world.restart()
    monkeypatch.undo()
    assert (world.held(), len(world.store.load().intents)) == (1, 1)
    await world.restart()
    assert (world.held(), len(world.store.load().intents)) == (0, 0)


async def test_who_watches_a_key_that_the_database_lost_is_told_although_another_came(world: World) -> None:
    await world.ring.create(new_key("gone"))
    other = KeyView(new_key("other"), ())
    with world.ring.bell(["gone"]) as bell, world.ring.bell(["same"]) as same:
        world.ring._on_record._swap(Snapshot({"other": other}))
        async with asyncio.timeout(5):
            await bell.rung(None)
        assert bell.news() == {"gone"}
        assert same.news() == set()


async def test_orphans_of_others_are_left_alone(world: World) -> None:
    world.backend.create("someone-elses", 1, Algorithm.ED25519)
    intent(world.store, "agent", "mem")
    await world.restart()
    assert world.held() == 1


async def test_one_public_key_is_on_record_once(world: World) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    await world.ring.import_key(new_key("one"), private, None)
    with pytest.raises(AlreadyExistsError, match="never reused"):
        await world.ring.import_key(new_key("two"), private, "other-kid")
    assert world.held() == 1
    with pytest.raises(NotFoundError):
        world.ring.snapshot.get("two")


async def test_jwks_max_age_shrinks_towards_the_next_change(world: World) -> None:
    await world.ring.create(new_key())
    await world.ring.rotate("agent")
    ages = []
    for step in (0, 24 * 3600 - 100, 90.5):
        world.clock.advance(step)
        ages.append(jwks.render(world.ring.snapshot, world.clock.time, max_age=300).max_age)
    assert ages == [300, 100, 9]


async def test_no_names_no_keys(world: World) -> None:
    for call in (
        world.ring.rotate("x"),
        world.ring.set_enabled("x", True),
        world.ring.compromise("x", 1, "r"),
        world.ring.destroy("x", 1),
    ):
        with pytest.raises(NotFoundError, match="no key 'x'"):
            await call


def _raising(error: Exception) -> object:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


async def test_what_was_there_before_is_neither_taken_nor_destroyed(world: World) -> None:
    """A keyd whose database was lost finds its old keys in the backend: they may be all that is left of an identity."""
    handle = world.backend.create("agent", 1, Algorithm.ED25519)
    public = world.backend.public_key(handle)
    with pytest.raises(AlreadyExistsError, match="keyd key adopt"):
        await world.ring.create(new_key())
    assert world.backend.public_key(handle) == public
    assert not world.store.load().intents
    await world.restart()
    assert world.backend.public_key(handle) == public


async def test_an_adoption_that_fails_or_is_cut_short_destroys_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = world.backend.create("agent", 1, Algorithm.ED25519)

    def full(*args: object, **kwargs: object) -> None:
        raise StoreUnavailableError("no")

    with monkeypatch.context() as patch:
        patch.setattr(world.store, "finish_version", full)
        with pytest.raises(StoreUnavailableError):
            await world.ring.adopt(new_key(), handle, None)
    assert world.held() == 1
    intent(world.store, "agent", "")  # as a kill between two steps leaves it
    await world.restart()
    assert world.held() == 1
    assert not world.store.load().intents
    assert (await world.ring.adopt(new_key(), handle, None)).version.handle == handle
