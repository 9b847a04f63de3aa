"""Two replicas, one database, one backend; operators at both, crashes, restarts, a database and a backend that go away, and time.

What a replica does is done to its end before the next rule, except that another replica can come between the steps of a rotation.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine
from math import inf
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import FakeClock, intent, keyring, memory_backend, new_key

from backends.errors import BackendUnavailableError
from keyd.core.errors import KeydError, StoreUnavailableError
from keyd.core.fleet.clock import SteadyClock
from keyd.core.keyring import Change, Keyring
from keyd.core.planner import Rules
from keyd.core.rotator import Rotator
from keyd.core.runner import BackendRunner, Limits
from keyd.core.store import SqlStore
from keyd.core.timeline import KeyState, LifecyclePolicy
from lifecycle import invariants

#: The shortest lead is twice the max-age that is served; see tests/support.py.
POLICIES = (
    LifecyclePolicy(publish_lead=600, sign_grace=60, retention=900),
    LifecyclePolicy(publish_lead=600, sign_grace=0, retention=400),
    LifecyclePolicy(publish_lead=1000, sign_grace=300, retention=3000, rotation_period=4000, destroy_after=500),
    LifecyclePolicy(publish_lead=600, sign_grace=60, retention=900, rotation_period=1200, destroy_after=0),
)
NAMES = st.sampled_from(["a", "b"])
SIDES = st.integers(0, 1)
NEWEST = st.integers(0, 1)  # counted back from the newest version: where the interesting ones are
SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # as fast as a disk can be: nothing here needs to last

#: How often what was done, in all runs of this process: a machine that never gets anywhere finds nothing.
DONE: Counter[str] = Counter()


class Replica:
    """A keyring on the shared database, with a way of its own to the shared backend."""

    def __init__(self, world: Lifecycle) -> None:
        self.store = SqlStore(world.path)
        self.store._living = lambda _: frozenset(each.store.replica for each in world.replicas)  # type: ignore[method-assign]
        self.runner = BackendRunner("mem", world.backend, Limits(threads=1))
        self.ring = keyring(self.store, {"mem": self.runner}, world.clock)
        self.ring.check_clock = world.clock.check
        self.rotator = Rotator(self.ring, Rules(create_ahead=500, per_minute=6000))

    def close(self) -> None:
        self.store.close()
        self.runner.close()


class Lifecycle(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory(dir=SCRATCH)
        self.path = Path(self.directory.name) / "keyd.db"
        self.wall = FakeClock()
        self.clock = SteadyClock(self.wall)
        self.backend = memory_backend()
        self.backend.close = lambda: None  # type: ignore[method-assign]  # one replica that ends does not end the other's
        self.replicas: list[Replica] = []
        self.history = invariants.History()

    def open(self, side: int) -> None:
        replica = Replica(self)
        self.replicas.insert(side, replica)
        self.loop.run(replica.ring.start())

    @initialize()
    def first_keys(self) -> None:
        self.open(0)
        self.open(1)
        self.create(0, "a", POLICIES[2])
        self.create(1, "b", POLICIES[3])

    def teardown(self) -> None:
        for replica in self.replicas:
            replica.close()
        self.loop.close()
        self.directory.cleanup()

    def ring(self, side: int) -> Keyring:
        return self.replicas[side].ring

    def number(self, ring: Keyring, name: str, back: int) -> int:
        view = ring.snapshot.keys.get(name)
        return 0 if view is None else view.versions[max(-1 - back, -len(view.versions))].record.version

    async def do(self, work: Coroutine[Any, Any, Change | object]) -> Change | object | None:
        """Do something that keyd may refuse, and remember what an operator was told."""
        what = work.__qualname__.rpartition(".")[2]
        try:
            result = await work
        except KeydError as exc:
            DONE[f"{what}: {exc.reason}"] += 1
            return None
        DONE[what] += 1
        if isinstance(result, Change):
            active = result.key.active(self.clock.now())
            if active is None:
                self.history.without_active.add(result.key.key.name)
        if isinstance(result, Change) and result.warnings:
            self.history.announced.update({result.version.kid} | ({active.record.kid} if active else set()))
        return result

    def call(self, work: Coroutine[Any, Any, Change | object]) -> Change | object | None:
        return self.loop.run(self.do(work))

    @rule(side=SIDES, name=NAMES, policy=st.sampled_from(POLICIES))
    def create(self, side: int, name: str, policy: LifecyclePolicy) -> None:
        self.call(self.ring(side).create(new_key(name, lifecycle=policy, created_at=self.clock.now())))

    @rule(side=SIDES, name=NAMES, at_once=st.booleans())
    def rotate(self, side: int, name: str, at_once: bool) -> None:
        change = self.call(self.ring(side).rotate(name, at_once=at_once))
        if isinstance(change, Change):
            line = change.version.timeline
            assert bool(change.warnings) == (line.activate_at - line.publish_at < change.key.key.lifecycle.publish_lead), (
                "the caller is told"
            )
            if at_once:
                assert change.key.active(self.clock.now()).record == change.version  # type: ignore[union-attr]

    @rule(side=SIDES, name=NAMES)
    def rotate_as_planned(self, side: int, name: str) -> None:
        self.rotate(side, name, False)

    @rule(side=SIDES)
    def the_planner_runs(self, side: int) -> None:
        async def step() -> None:
            ring, rotator = self.ring(side), self.replicas[side].rotator
            await ring.refresh()
            before, done = ring.snapshot, rotator.done.copy()
            await rotator.step()
            for name, view in before.keys.items():
                if view.active(self.clock.now()) is None:  # what it makes for a key that lacks one is in the log
                    self.history.announced.update(v.record.kid for v in ring.snapshot.get(name).versions[len(view.versions) :])
            for kind, count in (rotator.done - done).items():
                DONE[f"planner: {kind.name}"] += count

        self.loop.run(step())

    @rule(side=SIDES, name=NAMES)
    def roll_back(self, side: int, name: str) -> None:
        change = self.call(self.ring(side).roll_back(name))
        if isinstance(change, Change):
            assert change.key.active(self.clock.now()).record == change.version  # type: ignore[union-attr]

    @rule(side=SIDES, name=NAMES, seconds=st.sampled_from([0.5, 59, 200]))
    def an_emergency_and_back(self, side: int, name: str, seconds: float) -> None:
        self.rotate(side, name, True)
        self.wall.advance(seconds)
        self.roll_back(1 - side, name)

    @rule(side=SIDES, name=NAMES, seconds=st.sampled_from([1, 601]))
    def a_rotation_is_held_for_a_while(self, side: int, name: str, seconds: float) -> None:
        self.rotate(side, name, False)
        self.set_paused(side, name, True)
        self.wall.advance(seconds)
        self.set_paused(1 - side, name, False)

    @rule(side=SIDES, name=NAMES, at_once=st.booleans())
    def the_retention_is_cut_after_something_was_signed(self, side: int, name: str, at_once: bool) -> None:
        self.sign_for_as_long_as_allowed(side, name, None)
        self.set_lifecycle(side, name, POLICIES[1])
        self.rotate(side, name, at_once)

    @rule(side=SIDES, name=NAMES, paused=st.booleans())
    def set_paused(self, side: int, name: str, paused: bool) -> None:
        self.call(self.ring(side).set_paused(name, paused))

    @rule(side=SIDES, name=NAMES, policy=st.sampled_from(POLICIES))
    def set_lifecycle(self, side: int, name: str, policy: LifecyclePolicy) -> None:
        self.call(self.ring(side).set_lifecycle(name, policy))

    @rule(side=SIDES, name=NAMES, enabled=st.booleans())
    def set_enabled(self, side: int, name: str, enabled: bool) -> None:
        self.call(self.ring(side).set_enabled(name, enabled))

    @rule(side=SIDES, name=NAMES, back=NEWEST, away=st.booleans())
    def compromise(self, side: int, name: str, back: int, away: bool) -> None:
        ring = self.ring(side)
        with self.backend_away() if away else contextlib.nullcontext():
            self.call(ring.compromise(name, self.number(ring, name, back), "test"))

    @rule(side=SIDES, name=NAMES, back=NEWEST, force=st.booleans())
    def destroy(self, side: int, name: str, back: int, force: bool) -> None:
        ring = self.ring(side)
        change = self.call(ring.destroy(name, self.number(ring, name, back), force=force))
        if isinstance(change, Change):
            self.history.signed.pop(change.version.kid, None)  # forced or not, the operator knows

    @rule(side=SIDES, name=NAMES, back=st.none() | NEWEST)
    def sign_for_as_long_as_allowed(self, side: int, name: str, back: int | None) -> None:
        ring = self.ring(side)
        # A replica hears of a change within a second. What it signs in that second is not looked at here.
        self.catch_up(side)
        now = self.clock.now()
        try:
            view = ring.snapshot.get(name)
            version = view.signer(None if back is None else view.version(self.number(ring, name, back)).record.kid, now)
        except KeydError:
            return
        DONE["sign"] += 1
        line = version.record.timeline
        assert line.state(now) not in (KeyState.PRE_ACTIVATION, KeyState.COMPROMISED, KeyState.DESTROYED)
        assert view.key.disabled_at is None
        valid_until = line.publication_ends(now, view.key.lifecycle)
        kid = version.record.kid
        self.history.signed[kid] = max(valid_until, self.history.signed.get(kid, 0))

    async def mend_as_if_dead(self, side: int) -> None:
        """Have the other replica give up what this one makes: it was stopped for long, and will go on."""
        replica = self.replicas.pop(side)
        try:
            await self.replicas[0].ring.mend("mem")
        finally:
            self.replicas.insert(side, replica)

    @rule(side=SIDES, name=NAMES, at_once=st.booleans(), what=st.integers(0, 6))
    def rotate_while_the_other_does_something(self, side: int, name: str, at_once: bool, what: int) -> None:
        """The other replica comes between the making of a version and its record."""
        ring, other = self.ring(side), self.ring(1 - side)
        get = ring._maker.get

        async def interrupted(*arguments: Any) -> Any:
            got = await get(*arguments)
            others: list[Callable[[], Coroutine[Any, Any, Change | object]]] = [
                lambda: other.rotate(name, at_once=True),
                lambda: other.rotate(name),
                lambda: other.compromise(name, self.number(other, name, 0), "test"),
                lambda: other.set_paused(name, True),
                lambda: other.set_enabled(name, False),
                lambda: other.roll_back(name),
                lambda: self.mend_as_if_dead(side),
            ]
            await self.do(others[what]())
            return got

        ring._maker.get = interrupted  # type: ignore[method-assign]
        try:
            self.call(ring.rotate(name, at_once=at_once))
        finally:
            ring._maker.get = get  # type: ignore[method-assign]

    @rule(seconds=st.sampled_from([0.5, 59, 60, 61, 599, 600, 601, 1000, 4000, 100_000]))
    def time_passes(self, seconds: float) -> None:
        self.wall.advance(seconds)

    @rule(seconds=st.sampled_from([1, 29, 31, 5000]))
    def the_clock_is_set_back(self, seconds: float) -> None:
        self.wall.advance(-seconds)

    @rule(side=SIDES, name=NAMES, before=st.booleans())
    def time_passes_to_the_next_change(self, side: int, name: str, before: bool) -> None:
        view = self.ring(side).snapshot.keys.get(name)
        change = inf if view is None else view.next_change(self.clock.now())
        if change < inf:
            self.wall.time = max(self.wall.time, change - (0.001 if before else 0))

    @rule(side=SIDES)
    def catch_up(self, side: int) -> None:
        self.loop.run(self.ring(side).refresh())

    @rule(side=SIDES)
    def restart(self, side: int) -> None:
        self.replicas.pop(side).close()
        self.open(side)

    @precondition(lambda self: self.replicas)
    @rule(side=SIDES, name=NAMES, made=st.booleans())
    def crash_while_rotating(self, side: int, name: str, made: bool) -> None:
        """Leave what a kill leaves: an intent, and perhaps a key pair in the backend that nobody recorded. Any replica mends it."""
        crashed = self.replicas.pop(side)
        if name in crashed.ring.snapshot.keys:
            noted = intent(crashed.store, name, "mem")
            if made:
                self.backend.create(name, noted.version, crashed.ring.snapshot.get(name).key.algorithm)
        crashed.close()
        self.loop.run(self.replicas[0].ring.mend("mem"))
        self.open(side)

    @rule(side=SIDES, name=NAMES, at_once=st.booleans(), recorded=st.booleans())
    def the_database_goes_away_at_the_record(self, side: int, name: str, at_once: bool, recorded: bool) -> None:
        """The version is made, and its record fails, or is written and its answer lost."""
        store = self.replicas[side].store
        finish = store.finish_version

        def lost(*arguments: Any) -> Any:
            if recorded:
                finish(*arguments)
            raise StoreUnavailableError("gone")

        store.finish_version = lost  # type: ignore[method-assign]
        view = self.ring(side).snapshot.keys.get(name)
        before = set() if view is None else {v.record.kid for v in view.versions}
        unannounced = at_once or view is None or view.active(self.clock.now()) is None
        try:
            self.call(self.ring(side).rotate(name, at_once=at_once))
        finally:
            store.finish_version = finish  # type: ignore[method-assign]
        self.loop.run(self.ring(side).mend("mem"))
        after = self.ring(side).snapshot.keys.get(name)
        if unannounced and after is not None:  # who asked for it knows what it means, though he was not told that it was done
            self.history.announced.update(v.record.kid for v in after.versions if v.record.kid not in before)

    @contextlib.contextmanager
    def backend_away(self) -> Any:
        def away(*_: object) -> str:
            raise BackendUnavailableError("away")

        create, self.backend.create = self.backend.create, away  # type: ignore[method-assign]
        try:
            yield
        finally:
            self.backend.create = create  # type: ignore[method-assign]

    @rule(side=SIDES)
    def the_planner_runs_while_the_backend_is_away(self, side: int) -> None:
        with self.backend_away():
            self.the_planner_runs(side)

    @invariant()
    def holds(self) -> None:
        if not self.replicas:
            return
        for replica in self.replicas:
            self.history.check_view(replica.ring.snapshot, self.clock.now())
        for side in (0, 1):
            self.catch_up(side)
        first, second = (replica.ring.snapshot for replica in self.replicas)
        self.history.check_agreement(first, second, self.clock.now())
        self.history.check_record(first, self.replicas[0].store.load(), self.path, list(self.backend.list()), self.clock.now())
