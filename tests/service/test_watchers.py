"""WatchKeys reaches every client within a second of a change, whether a call or the clock makes it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from math import inf

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from service_conftest import Running
from support import START, FakeClock, new_key, until

from keyd.core.errors import NotFoundError
from keyd.core.model import KeyVersion
from keyd.core.snapshot import KeyView, Snapshot, VersionView
from keyd.core.timeline import Timeline, first
from keyd.service import convert
from keyd.service.watching import KeyStates, Watch
from keyd.v1 import key_service_pb2 as keys_pb
from keyd.v1 import signing_service_pb2 as pb
from keyd.v1 import signing_service_pb2_grpc, types_pb2

WATCHERS = 200
CONNECTIONS = 5


@dataclass
class Watcher:
    """What one client was told, with the moment."""

    stub: signing_service_pb2_grpc.SigningServiceAsyncStub
    told: list[tuple[float, pb.GetKeyResponse]] = field(default_factory=list)

    async def run(self, clock: RealClock, *names: str) -> None:
        async for answer in self.stub.WatchKeys(pb.WatchKeysRequest(keys=names)):
            self.told.append((clock.now(), answer.key))

    def when(self, number: int, state: types_pb2.KeyState.ValueType | None) -> float | None:
        """Return when it learned that a version is in a state; None for the state: that it is not published."""
        for at, key in self.told:
            published = {version.version: version for version in key.versions if version.published}
            if published[number].state == state if number in published else state is None and at > self.told[0][0]:
                return at
        return None


class RealClock:
    """A clock that goes."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def now(self) -> float:
        return START + time.monotonic() - self._start

    def set_forward(self, seconds: float) -> None:
        self._start -= seconds


@pytest.fixture
def clock(running: Running, monkeypatch: pytest.MonkeyPatch) -> RealClock:
    clock = RealClock()
    monkeypatch.setattr(running.clock, "now", clock.now)
    return clock


@pytest.fixture
async def watchers(running: Running, clock: RealClock) -> AsyncIterator[list[Watcher]]:
    """Clients that watch a key which can rotate within seconds."""
    running.daemon.keyring.served_max_age = 0.25
    spec = keys_pb.KeySpec(
        name="agent",
        purposes=[types_pb2.PURPOSE_RAW],
        lifecycle=types_pb2.LifecyclePolicy(
            publish_lead=Duration(nanos=500_000_000),
            sign_grace=Duration(nanos=200_000_000),
            retention=Duration(nanos=300_000_000),
        ),
    )
    await running.keys.CreateKey(keys_pb.CreateKeyRequest(spec=spec))
    async with AsyncExitStack() as stack:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(running.address, options=options))
            for _ in range(CONNECTIONS)
        ]
        made = [Watcher(signing_service_pb2_grpc.SigningServiceStub(channels[n % CONNECTIONS])) for n in range(WATCHERS)]  # type: ignore[arg-type]
        tasks = [asyncio.create_task(watcher.run(clock, "agent")) for watcher in made]
        await until(lambda: all(watcher.told for watcher in made))
        yield made
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def latest(watchers: list[Watcher], at: float, number: int, state: types_pb2.KeyState.ValueType | None) -> float:
    """Wait until every watcher knows of a state; return after how many seconds the last one did."""
    await until(lambda: all(watcher.when(number, state) is not None for watcher in watchers))
    moments = [watcher.when(number, state) or 0.0 for watcher in watchers]
    assert min(moments) >= at - 0.001  # nobody is told before it is so
    return max(moments) - at


async def test_what_an_operator_does(watchers: list[Watcher], running: Running, clock: RealClock) -> None:
    before = clock.now()
    await running.keys.RotateKey(keys_pb.RotateKeyRequest(name="agent", now=True))
    assert await latest(watchers, before, 2, types_pb2.KEY_STATE_ACTIVE) < 1
    before = clock.now()
    await running.keys.CompromiseVersion(keys_pb.CompromiseVersionRequest(name="agent", version=2, reason="a test"))
    assert await latest(watchers, before, 3, types_pb2.KEY_STATE_ACTIVE) < 1
    before = clock.now()
    await running.keys.DisableKey(keys_pb.DisableKeyRequest(name="agent"))
    await until(lambda: not any(watcher.told[-1][1].HasField("active") for watcher in watchers))
    assert max(watcher.told[-1][0] for watcher in watchers) - before < 1


async def test_what_the_clock_does(watchers: list[Watcher], running: Running, clock: RealClock) -> None:
    """A version made ahead of time is published, becomes active, and the one before it stops and leaves, with nobody's call."""
    line = (await running.daemon.keyring.prepare("agent", clock.now() + 1.2, newest=1)).version.timeline
    old = running.daemon.keyring.snapshot.get("agent").version(1).record.timeline
    assert line.publish_at > clock.now()
    delays = {
        "published": await latest(watchers, line.publish_at, 2, types_pb2.KEY_STATE_PRE_ACTIVATION),
        "active": await latest(watchers, line.activate_at, 2, types_pb2.KEY_STATE_ACTIVE),
        "deactivated": await latest(watchers, old.deactivate_at, 1, types_pb2.KEY_STATE_DEACTIVATED),
        "left": await latest(watchers, old.unpublish_at, 1, None),
    }
    assert max(delays.values()) < 1, delays


async def test_a_change_is_made_into_an_answer_once_for_all_who_watch(
    watchers: list[Watcher], running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a change costs does not grow with those who watch the key, and they who watch others do not notice."""
    made: list[str] = []
    original = convert.agents_key
    monkeypatch.setattr(convert, "agents_key", lambda *args: made.append(args[0].key.name) or original(*args))
    for number in range(3):
        await running.keys.CreateKey(keys_pb.CreateKeyRequest(spec=keys_pb.KeySpec(name=f"other-{number}")))
    await running.keys.DisableKey(keys_pb.DisableKeyRequest(name="agent"))
    await until(lambda: all(len(watcher.told) == 2 for watcher in watchers))
    assert made == ["agent"]


async def test_a_clock_that_is_set_forward_tells_those_who_watch(
    watchers: list[Watcher], running: Running, clock: RealClock
) -> None:
    """So it is after the machine slept: timers of the system stand still meanwhile."""
    await running.daemon.keyring.prepare("agent", clock.now() + 3600, newest=1)
    await until(lambda: all(watcher.told[-1][1].versions[0].timeline.HasField("deactivate_time") for watcher in watchers))
    set_at = time.monotonic()
    clock.set_forward(3601)
    await until(lambda: all(watcher.told[-1][1].active.version == 2 for watcher in watchers))
    assert time.monotonic() - set_at < 1


class TestWatch:
    """One caller's watch, with a clock that stands still."""

    def view(self, name: str, *lines: Timeline) -> KeyView:
        jwk = json.dumps({"kty": "OKP", "crv": "Ed25519", "x": "x"})
        versions = [KeyVersion(name, n, f"{name}-{n}", "t", jwk, "h", line) for n, line in enumerate(lines, 1)]
        return KeyView(new_key(name), tuple(VersionView(version) for version in versions))

    def told(self, watch: Watch, snapshot: Snapshot) -> list[str]:
        return [answer.key for answer in watch.news(snapshot)]

    def test_what_is_new_is_told_once(self) -> None:
        clock = FakeClock()
        keys = Snapshot({name: self.view(name, first(START)) for name in ("a", "b", "c")})
        watch = Watch(KeyStates(), ["b", "a"], clock.now)
        assert self.told(watch, keys) == ["b", "a"]
        assert self.told(watch, keys) == []
        keys = keys.with_keys(self.view("c", first(START - 1)), self.view("a", first(START - 1)))
        assert self.told(watch, keys) == ["a"]
        keys = keys.with_keys(self.view("a", first(START - 1)))  # another object that says the same
        assert self.told(watch, keys) == []
        assert watch.until == inf

    def test_changes_by_the_clock_come_at_their_time_forward_and_back(self) -> None:
        clock = FakeClock()
        lines = {"a": replace(first(START), deactivate_at=START + 10, sign_until=START + 20), "b": first(START)}
        keys = Snapshot({name: self.view(name, line) for name, line in lines.items()})
        watch = Watch(KeyStates(), lines, clock.now)
        assert (self.told(watch, keys), watch.until) == (["a", "b"], START + 10)
        clock.advance(9.9)
        assert self.told(watch, keys) == []
        clock.advance(0.1)
        assert (self.told(watch, keys), watch.until) == (["a"], START + 20)
        clock.advance(-5)
        assert (self.told(watch, keys), watch.until) == (["a"], START + 10)

    def test_a_change_that_is_overtaken_is_not_told(self) -> None:
        clock = FakeClock()
        keys = Snapshot({"a": self.view("a", replace(first(START), deactivate_at=START + 10))})
        watch = Watch(KeyStates(), ["a"], clock.now)
        self.told(watch, keys)
        keys = keys.with_keys(self.view("a", first(START)))
        assert self.told(watch, keys) == ["a"]
        clock.advance(10)
        assert (self.told(watch, keys), watch.until) == ([], inf)

    def test_changes_without_end_are_not_piled_up(self) -> None:
        clock = FakeClock()
        keys = Snapshot({name: self.view(name, first(START)) for name in ("a", "b")})
        watch = Watch(KeyStates(), keys.keys, clock.now)
        for number in range(50):
            keys = keys.with_keys(self.view("a", replace(first(START), deactivate_at=START + 1000 - number)))
            assert (self.told(watch, keys), watch.until) == (["a"] if number else ["a", "b"], START + 1000 - number)
            assert len(watch._due) <= 4
        clock.advance(951)
        assert self.told(watch, keys) == ["a"]
        clock.advance(100)
        assert (self.told(watch, keys), watch.until) == ([], inf)

    def test_what_was_never_there(self) -> None:
        with pytest.raises(NotFoundError):
            self.told(Watch(KeyStates(), ["x"], FakeClock().now), Snapshot({}))
