"""A daemon as one of a fleet: without its database, and with a clock that is wrong."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import httpx
import pytest
from components import postgres
from grpc_health.v1 import health_pb2, health_pb2_grpc
from service_conftest import CONFIG, Running, refused
from support import FakeClock, signature_base

from keyd import app, config
from keyd.core.errors import ClockError, StoreUnavailableError
from keyd.core.fleet.clock import FleetClock
from keyd.v1 import backend_service_pb2_grpc, key_service_pb2, key_service_pb2_grpc, signing_service_pb2
from keyd.v1 import signing_service_pb2_grpc as signing_grpc


@pytest.fixture
def database() -> AsyncIterator[postgres.Database]:
    with postgres.fresh_database() as database:
        yield database


@pytest.fixture
def directory() -> AsyncIterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="keyd-t-"))
    (directory / "kek").write_bytes(os.urandom(32))
    (directory / "kek").chmod(0o400)
    yield directory
    shutil.rmtree(directory)


@asynccontextmanager
async def daemon(directory: Path, clock: FakeClock | None, url: str | None) -> AsyncIterator[Running]:
    path = directory / "keyd.toml"
    path.write_text(CONFIG.format(directory=directory) + (f'[store]\nurl = "{url}"\nreplica = "one"\n' if url else ""))
    async with AsyncExitStack() as stack:
        started = await app.start(config.load(path), stack, clock)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"unix:{directory}/run/keyd.sock"))
        yield Running(
            directory,
            clock or FakeClock(),
            started,
            signing_grpc.SigningServiceStub(channel),  # type: ignore[arg-type]
            key_service_pb2_grpc.KeyServiceStub(channel),  # type: ignore[arg-type]
            backend_service_pb2_grpc.BackendServiceStub(channel),  # type: ignore[arg-type]
        )


async def figure(running: Running, name: str) -> float | None:
    async with httpx.AsyncClient() as http:
        text = (await http.get(f"http://127.0.0.1:{running.daemon.metrics_port}/metrics")).text
    return next((float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} ")), None)


async def serving(running: Running) -> bool:
    """Say whether the probes send callers here. They agree, if not in the moment in which it changes."""
    end = time.monotonic() + 10
    async with httpx.AsyncClient() as http, grpc.aio.insecure_channel(running.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while True:
            ready = (await http.get(f"{running.http}/readyz")).status_code == 200
            answer = await health.Check(health_pb2.HealthCheckRequest(service="keyd.v1.SigningService"))
            if ready is (answer.status == health_pb2.HealthCheckResponse.SERVING):
                return ready
            assert time.monotonic() < end, f"readyz: {ready}, health: {answer}"


def create() -> key_service_pb2.CreateKeyRequest:
    spec = key_service_pb2.KeySpec(name="agent")
    spec.lifecycle.publish_lead.FromSeconds(1800)
    return key_service_pb2.CreateKeyRequest(spec=spec)


def sign(now: float) -> signing_service_pb2.SignRequest:
    return signing_service_pb2.SignRequest(key="agent", signature_base=signature_base(now))


async def eventually(call: Callable[[], object], seconds: float = 20) -> None:
    """Make a call until it is answered."""
    end = time.monotonic() + seconds
    while True:
        try:
            await call()  # type: ignore[misc]
            return
        except grpc.aio.AioRpcError:
            assert time.monotonic() < end


async def test_without_its_database_for_an_hour_only_administration_stops(directory: Path, database: postgres.Database) -> None:
    clock = FakeClock()
    async with daemon(directory, clock, database.url) as running:
        await running.keys.CreateKey(create())
        await running.keys.RotateKey(key_service_pb2.RotateKeyRequest(name="agent"))
        watching = running.signing.WatchKeys(signing_service_pb2.WatchKeysRequest(keys=["agent"]))
        assert (await watching.read()).key.active.version == 1
        with database.server.away():
            await until_figure(running, "keyd_store_up", 0)
            clock.advance(3600)
            running.daemon.keyring.wake()  # the time that passes by itself does that otherwise
            assert (await watching.read()).key.active.version == 2, "who watches hears of it"
            signed = await running.signing.Sign(sign(clock.now()))
            assert signed.version == 2, "the clock made it active"
            async with httpx.AsyncClient() as http:
                document = (await http.get(f"{running.http}/.well-known/jwks.json")).json()
            assert document["keys"][0]["kid"] == signed.kid
            assert len(document["keys"]) == 2
            assert await serving(running)
            for call in (
                running.keys.RotateKey(key_service_pb2.RotateKeyRequest(name="agent", now=True)),
                running.keys.CompromiseVersion(key_service_pb2.CompromiseVersionRequest(name="agent", version=1, reason="test")),
                running.keys.DisableKey(key_service_pb2.DisableKeyRequest(name="agent")),
            ):
                refusal = await refused(call)
                assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
            assert await figure(running, "keyd_replica_leads") in (0, 1)
        await eventually(lambda: running.keys.RotateKey(key_service_pb2.RotateKeyRequest(name="agent", now=True)))
        assert (await running.signing.Sign(sign(clock.now()))).version == 3
        await until_figure(running, "keyd_store_up", 1)
        age = await figure(running, "keyd_store_refresh_age_seconds")
        assert age is not None
        assert age < 20
        assert await figure(running, "keyd_store_newest_change")
        watching.cancel()


async def until_figure(running: Running, name: str, wanted: float) -> None:
    end = time.monotonic() + 30
    while await figure(running, name) != wanted:
        assert time.monotonic() < end, f"{name} does not become {wanted}"


async def test_it_does_not_start_without_its_database(directory: Path, database: postgres.Database) -> None:
    with database.server.away(), pytest.raises(StoreUnavailableError):
        async with daemon(directory, None, database.url):
            pass


class Wall(FakeClock):
    """The clock of a machine, which is set while it runs."""

    def now(self) -> float:
        return time.time() + self.time


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    wall = Wall(0)
    monkeypatch.setattr("keyd.fleet.FleetClock", lambda: FleetClock(wall=wall))
    monkeypatch.setattr("keyd.core.fleet.heartbeat.INTERVAL", 0.05)
    return wall


@pytest.mark.parametrize("seconds", [-100, 100])
async def test_it_does_not_start_with_a_wrong_clock(
    directory: Path, database: postgres.Database, wall: Wall, seconds: float
) -> None:
    wall.advance(seconds)
    with pytest.raises(ClockError, match=r"100 s .* the database's"):
        async with daemon(directory, None, database.url):
            pass


async def test_it_neither_signs_nor_changes_while_its_clock_is_wrong(
    directory: Path, database: postgres.Database, wall: Wall
) -> None:
    async with daemon(directory, None, database.url) as running:
        await running.keys.CreateKey(create())
        assert await serving(running)
        wall.advance(-29)
        await running.signing.Sign(sign(time.time()))
        wall.advance(-11)
        await eventually_not(running)
        for call in (
            running.signing.Sign(sign(time.time())),
            running.keys.RotateKey(key_service_pb2.RotateKeyRequest(name="agent", now=True)),
        ):
            refusal = await refused(call)
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "CLOCK")
            assert "40 s behind" in refusal.message
        assert (await figure(running, "keyd_clock_offset_seconds") or 0) == pytest.approx(-40, abs=1)
        await running.keys.DisableKey(key_service_pb2.DisableKeyRequest(name="agent"))
        wall.advance(40)
        await eventually(lambda: running.keys.EnableKey(key_service_pb2.EnableKeyRequest(name="agent")))
        await running.signing.Sign(sign(time.time()))
        end = time.monotonic() + 10
        while not await serving(running):
            assert time.monotonic() < end


async def eventually_not(running: Running) -> None:
    end = time.monotonic() + 10
    while await serving(running):
        assert time.monotonic() < end, "it goes on serving"


async def test_alone_its_clock_must_not_go_back_behind_what_is_on_record(directory: Path) -> None:
    clock = FakeClock()
    async with daemon(directory, clock, None) as running:
        await running.keys.CreateKey(create())
        assert await figure(running, "keyd_replica_leads") == 1
        assert await figure(running, "keyd_store_up") is None
    clock.advance(-60)
    async with daemon(directory, clock, None) as running:
        assert (await running.signing.Sign(sign(clock.now() + 60))).version == 1, "it did not become pending again"
        refusal = await refused(running.keys.RotateKey(key_service_pb2.RotateKeyRequest(name="agent", now=True)))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "CLOCK")
        clock.advance(31)
        await running.keys.RotateKey(key_service_pb2.RotateKeyRequest(name="agent", now=True))
        assert running.daemon.keyring.clock.now() == clock.now() + 29, "time stands still until the clock has caught up"
