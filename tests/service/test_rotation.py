"""Rotation by itself, and its plan, in a whole daemon."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest
from google.protobuf.duration_pb2 import Duration
from guarded import House
from prometheus_client.parser import text_string_to_metric_families
from service_conftest import Running, refused
from support import START, until

from backends import errors as backend_errors
from keyd.config.rotation import Rotation
from keyd.core.errors import GrantError
from keyd.core.timeline import LifecyclePolicy
from keyd.v1 import key_service_pb2 as pb
from keyd.v1 import types_pb2

DAY = 86400


async def create(running: Running, name: str = "agent", **fields: object) -> pb.CreateKeyResponse:
    response: pb.CreateKeyResponse = await running.keys.CreateKey(pb.CreateKeyRequest(spec=pb.KeySpec(name=name, **fields)))  # type: ignore[arg-type]
    return response


async def plan(running: Running, **fields: object) -> pb.PlanRotationsResponse:
    response: pb.PlanRotationsResponse = await running.keys.PlanRotations(pb.PlanRotationsRequest(**fields))  # type: ignore[arg-type]
    return response


async def scrape(running: Running) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    async with httpx.AsyncClient() as http:
        text = (await http.get(f"http://127.0.0.1:{running.daemon.metrics_port}/metrics")).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}


async def test_the_daemon_rotates_by_itself_and_the_figures_say_so(running: Running) -> None:
    await create(running)
    running.clock.time = START + 26.9 * DAY
    running.daemon.keyring.wake()
    await until(lambda: len(running.daemon.keyring.snapshot.get("agent").versions) == 2)
    line = running.daemon.keyring.snapshot.get("agent").versions[1].record.timeline
    assert START + 27 * DAY < line.activate_at <= START + 30 * DAY
    await until(lambda: running.daemon.rotator.figures().waiting == 0)
    found = await scrape(running)
    assert found["keyd_rotations_total", frozenset({("kind", "create")})] == 1
    assert found["keyd_rotations_total", frozenset({("kind", "destroy")})] == 0
    assert found["keyd_rotation_failures_total", frozenset({("backend", "file")})] == 0
    assert found["keyd_rotation_overdue", frozenset()] == found["keyd_rotation_waiting", frozenset()] == 0
    assert found["keyd_rotation_next_deadline_seconds", frozenset()] == float("inf")


async def test_figures_and_plan_of_one_that_cannot_be_made(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> str:
        raise backend_errors.BackendAccessError("quota")

    await create(running)
    monkeypatch.setattr(running.daemon.keyring.backends["file"].backend, "create", away)
    running.clock.time = START + 40 * DAY
    running.daemon.keyring.wake()
    await until(lambda: running.daemon.rotator.trouble("agent") is not None)
    found = await scrape(running)
    assert found["keyd_rotation_overdue", frozenset()] == found["keyd_rotation_waiting", frozenset()] == 1
    assert found["keyd_rotation_next_deadline_seconds", frozenset()] < -10 * DAY
    assert found["keyd_rotation_failures_total", frozenset({("backend", "file")})] >= 1
    step = (await plan(running)).steps[0]
    assert (step.kind, step.version) == (pb.STEP_KIND_CREATE, 2)
    assert step.delay.startswith("late: ") and "quota" in step.delay


async def test_a_daemon_that_is_told_not_to_rotates_nothing(running: Running) -> None:
    await create(running)
    running.daemon.apply(replace(running.daemon.config, rotation=Rotation(enabled=False)))
    assert not (await plan(running, horizon=Duration(seconds=365 * DAY))).steps
    running.clock.time = START + 40 * DAY
    await running.daemon.rotator.step()
    assert len(running.daemon.keyring.snapshot.get("agent").versions) == 1


async def test_the_plan_is_in_order_over_all_keys(running: Running) -> None:
    for name in "abc":
        await create(running, name)
    response = await plan(running)
    assert {step.key for step in response.steps} == {"a", "b", "c"}
    times = [step.time.ToNanoseconds() for step in response.steps]
    assert times == sorted(times) and not response.truncated
    assert all(step.HasField("deadline") == (step.kind == pb.STEP_KIND_CREATE) for step in response.steps)
    assert {step.key for step in (await plan(running, name="b")).steps} == {"b"}
    first = await plan(running, limit=2)
    assert list(first.steps) == list(response.steps[:2]) and first.truncated
    assert not (await plan(running, horizon=Duration(seconds=60))).steps


@pytest.mark.parametrize(
    "fields",
    [
        {"limit": 1001},
        {"limit": -1},
        {"horizon": Duration(seconds=3661 * DAY)},
        {"horizon": Duration(seconds=-1)},
    ],
)
async def test_what_cannot_be_asked_for(running: Running, fields: dict[str, object]) -> None:
    refusal = await refused(running.keys.PlanRotations(pb.PlanRotationsRequest(**fields)))  # type: ignore[arg-type]
    assert refusal.reason == "INVALID_ARGUMENT"


async def test_the_plan_is_of_keys_that_the_caller_may_list(house: House) -> None:
    for name in ("shop-1", "other"):
        await house.ring.set_lifecycle(name, LifecyclePolicy(rotation_period=10 * DAY))
    response = await house.operate("plan_rotations", pb.PlanRotationsRequest())
    assert {step.key for step in response.steps} == {"shop-1"}
    with pytest.raises(GrantError):
        await house.operate("plan_rotations", pb.PlanRotationsRequest(name="other"))


async def test_a_plan_of_a_key_that_there_is_not(running: Running) -> None:
    assert (await refused(running.keys.PlanRotations(pb.PlanRotationsRequest(name="nobody")))).reason == "NOT_FOUND"


async def test_the_longest_plan_of_the_busiest_key_is_bounded(running: Running) -> None:
    short = {"publish_lead": 600, "retention": 86400, "rotation_period": 1200}
    await create(running, lifecycle=types_pb2.LifecyclePolicy(**{k: Duration(seconds=v) for k, v in short.items()}))
    response = await plan(running, horizon=Duration(seconds=3650 * DAY))
    assert len(response.steps) == 1000 and response.truncated


async def test_periods_that_some_verifier_is_not_up_to_are_warned_of(running: Running) -> None:
    short = types_pb2.LifecyclePolicy(publish_lead=Duration(seconds=700))
    assert "regent-httpsig" in (await create(running, "short", lifecycle=short)).warnings[-1]
    await create(running)
    updated = await running.keys.UpdateKey(pb.UpdateKeyRequest(name="agent", lifecycle=short))
    assert "regent-httpsig" in updated.warnings[0]
    long = types_pb2.LifecyclePolicy(publish_lead=Duration(seconds=DAY))
    assert not (await running.keys.UpdateKey(pb.UpdateKeyRequest(name="agent", lifecycle=long))).warnings


async def test_emergencies_say_who_fails_and_who_trusts(running: Running) -> None:
    await create(running)
    rotated = await running.keys.RotateKey(pb.RotateKeyRequest(name="agent", now=True))
    assert "wbauth-sdk up to 5 min" in rotated.warnings[0]
    stopped = await running.keys.CompromiseVersion(pb.CompromiseVersionRequest(name="agent", version=2, reason="leak"))
    assert "AAuth by its draft up to 24 h" in stopped.warnings[0]
