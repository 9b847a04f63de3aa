"""The invariants of the lifecycle, over random histories of operators' calls, crashes, restarts and the passing of time."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import FakeClock, intent, keyring, memory_backend, new_key

from backends.errors import BackendUnavailableError, KeyNotFoundError
from keyd.core.errors import KeydError
from keyd.core.runner import BackendRunner, Limits
from keyd.core.store import SqlStore
from keyd.core.timeline import KeyState, LifecyclePolicy

POLICY = LifecyclePolicy(publish_lead=600, sign_grace=60, retention=900)
NAMES = st.sampled_from(["a", "b"])
NEWEST = st.integers(0, 1)  # counted back from the newest version: where the interesting ones are


class Lifecycle(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory()
        self.clock = FakeClock()
        self.backend = memory_backend()
        self.runner = BackendRunner("mem", self.backend, Limits(threads=1))
        self.kids: dict[str, str] = {}  # kid -> public JWK, for ever
        self.emergencies: set[str] = set()  # kids that were active before their publish lead was over
        self.without_active: set[str] = set()  # keys of which the active version was compromised with the backend away
        self.signed: dict[str, float] = {}  # kid -> until when something that it signed is valid

    def open(self) -> None:
        self.store = SqlStore(Path(self.directory.name) / "keyd.db")
        self.ring = keyring(self.store, {"mem": self.runner}, self.clock)
        self.loop.run(self.ring.start())

    @initialize()
    def first_key(self) -> None:
        self.open()
        self.create("a")
        self.create("b")

    def teardown(self) -> None:
        self.store.close()
        self.runner.close()
        self.loop.close()
        self.directory.cleanup()

    def number(self, name: str, back: int) -> int:
        view = self.ring.snapshot.keys.get(name)
        return 0 if view is None else view.versions[max(-1 - back, -len(view.versions))].record.version

    def call(self, work: Any) -> Any:
        try:
            return self.loop.run(work)
        except KeydError:
            return None

    @rule(name=NAMES)
    def create(self, name: str) -> None:
        self.call(self.ring.create(new_key(name, lifecycle=POLICY, created_at=self.clock.time)))

    @rule(name=NAMES, at_once=st.booleans())
    def rotate(self, name: str, at_once: bool) -> None:
        had_none = name in self.ring.snapshot.keys and self.ring.snapshot.get(name).active(self.clock.time) is None
        change = self.call(self.ring.rotate(name, at_once=at_once))
        if change is None:
            return
        if change.warnings:
            self.emergencies.add(change.version.kid)
        assert bool(change.warnings) == (at_once or had_none)  # the caller is told
        self.without_active.discard(name)

    @rule(name=NAMES, back=NEWEST, away=st.booleans())
    def compromise(self, name: str, back: int, away: bool) -> None:
        create = self.backend.create
        if away:
            self.backend.create = self._away  # type: ignore[method-assign]
        change = self.call(self.ring.compromise(name, self.number(name, back), "test"))
        self.backend.create = create  # type: ignore[method-assign]
        if change is None:
            return
        active = self.ring.snapshot.get(name).active(self.clock.time)
        if active is None:
            self.without_active.add(name)
        else:
            self.emergencies.add(active.record.kid)

    @staticmethod
    def _away(*_: object) -> str:
        raise BackendUnavailableError("away")

    @rule(name=NAMES, back=NEWEST, force=st.booleans())
    def destroy(self, name: str, back: int, force: bool) -> None:
        change = self.call(self.ring.destroy(name, self.number(name, back), force=force))
        if change is not None:
            self.signed.pop(change.version.kid, None)  # forced or not, the operator knows

    @rule(name=NAMES, enabled=st.booleans())
    def set_enabled(self, name: str, enabled: bool) -> None:
        self.call(self.ring.set_enabled(name, enabled))

    @rule(name=NAMES, back=st.none() | NEWEST)
    def sign_for_as_long_as_allowed(self, name: str, back: int | None) -> None:
        now = self.clock.time
        try:
            view = self.ring.snapshot.get(name)
            version = view.signer(None if back is None else view.version(self.number(name, back)).record.kid, now)
        except KeydError:
            return
        line = version.record.timeline
        assert line.state(now) not in (KeyState.PRE_ACTIVATION, KeyState.COMPROMISED, KeyState.DESTROYED)
        assert view.key.disabled_at is None
        valid_until = line.publication_ends(now, view.key.lifecycle)
        self.signed[version.record.kid] = max(valid_until, self.signed.get(version.record.kid, 0))

    @rule(name=NAMES)
    def rotate_as_planned(self, name: str) -> None:
        self.rotate(name, False)

    @rule()
    def the_publish_lead_passes(self) -> None:
        self.clock.advance(POLICY.publish_lead)

    @rule(seconds=st.sampled_from([0.5, 59, 60, 61, 599, 600, 601, 1000, 100_000]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def restart(self) -> None:
        before = {name: [v.record for v in view.versions] for name, view in self.ring.snapshot.keys.items()}
        self.store.close()
        self.open()
        assert {name: [v.record for v in view.versions] for name, view in self.ring.snapshot.keys.items()} == before

    @precondition(lambda self: self.ring.snapshot.keys)
    @rule(made=st.booleans())
    def crash_while_rotating(self, made: bool) -> None:
        """Leave what a kill leaves: an intent, and perhaps a key pair in the backend that nobody recorded."""
        name = next(iter(self.ring.snapshot.keys))
        noted = intent(self.store, name, "mem")
        if made:
            self.backend.create(name, noted.version, self.ring.snapshot.get(name).key.algorithm)
        self.restart()

    @invariant()
    def holds(self) -> None:
        now = self.clock.time
        handles = set()
        for name, view in self.ring.snapshot.keys.items():
            active = [v for v in view.versions if v.record.timeline.state(now) is KeyState.ACTIVE]
            assert len(active) <= 1
            assert active or name in self.without_active, "a key lost its active version"
            assert len({v.record.version for v in view.versions}) == len(view.versions)
            published = {v.record.kid for v in view.published(now)}
            assert {v.record.kid for v in active} <= published
            for version in view.versions:
                record, line = version.record, version.record.timeline
                assert self.kids.setdefault(record.kid, record.public_jwk) == record.public_jwk, "a kid names two keys"
                if record.version > 1 and record.kid not in self.emergencies and line.state(now) is not KeyState.COMPROMISED:
                    assert line.activate_at - line.publish_at >= POLICY.publish_lead
                if self.signed.get(record.kid, 0) > now and line.compromised_at > now:
                    assert record.kid in published, "signatures outlive the publication of their key"
                if record.handle is not None:
                    handles.add(record.handle)
        assert set(self.kids) == {v.record.kid for view in self.ring.snapshot.keys.values() for v in view.versions}
        assert {stored.handle for stored in self.backend.list()} == handles, (
            "the backend holds something unrecorded, or lost something"
        )


Lifecycle.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestLifecycle = Lifecycle.TestCase


def test_a_destroyed_handle_is_gone() -> None:
    """The negative twin of the last invariant: the memory backend does notice."""
    backend = memory_backend()
    handle = backend.create("a", 1, new_key().algorithm)
    backend.destroy(handle)
    try:
        backend.sign(handle, new_key().algorithm, b"x")
    except KeyNotFoundError:
        return
    raise AssertionError("signed with a destroyed key")
