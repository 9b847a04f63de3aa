"""``keyd bench``. What is tested is what it counts, checks and says; no test depends on how fast anything is."""

from __future__ import annotations

import itertools
import json
import threading
from typing import Any

import grpc
import pytest
from cli.fake_daemon import FakeDaemon, Run
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keyd.cli.bench_load import SAMPLE, Tally
from keyd.client import KeydClientError
from keyd.client.model import Signature
from keyd.v1 import signing_service_pb2 as pb

SHORT = ("--key", "agent", "--seconds", "0.3")


def bench(run: Run, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run it for as long as it takes until something has come of it: a machine that does much else may sign nothing in so short a time."""
    for seconds in ("0.3", "1", "4"):
        result = run("bench", *SHORT, "--seconds", seconds, "--json", *arguments)
        found = json.loads(result.stdout)
        if found["signatures"] or found["errors"]:
            break
    return result.exit_code, found


def failing_after(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, good: int, **failure: Any) -> None:
    """Have the daemon sign so many times and then refuse."""
    take, signatures = daemon._take, itertools.count()

    def taking(request: Any, context: Any, name: str | None = None) -> Any:
        if isinstance(request, pb.SignRequest) and next(signatures) == good:
            daemon.fail(**failure)
        elif not isinstance(request, pb.SignRequest):
            daemon.failure = None
        return take(request, context, name)

    monkeypatch.setattr(daemon, "_take", taking)


@pytest.mark.parametrize("way", [(), ("--batch", "5"), ("--stream",)])
def test_bench(way: tuple[str, ...], daemon: FakeDaemon, run: Run) -> None:
    daemon.add("agent")
    code, found = bench(run, "--concurrency", "3", *way)
    assert code == 0
    signed = [request for request in daemon.requests if isinstance(request, pb.SignRequest)]
    assert 0 < found["signatures"] < len(signed)  # the first was a try, and what was under way at the end does not count
    assert len({request.signature_base for request in signed}) == len(signed)
    assert found["verified"] > 0
    assert (found["errors"], found["not_verified"]) == ({}, 0)
    assert 0 < found["latency"]["p50"] <= found["latency"]["p90"] <= found["latency"]["p99"] <= found["seconds"]
    assert found["rate"] == pytest.approx(found["signatures"] / found["seconds"], rel=0.01)
    assert (found["concurrency"], found["batch"], found["stream"]) == (3, 5 if "--batch" in way else None, "--stream" in way)


def test_bench_for_people(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("agent")
    result = run("bench", *SHORT)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].endswith(" signatures a second")
    assert [line.split()[0] for line in lines[2:]] == ["latency", "client", "verified", "limited"]


@pytest.mark.parametrize("way", [(), ("--batch", "2"), ("--stream",)])
def test_signatures_that_do_not_verify_are_a_failure(way: tuple[str, ...], daemon: FakeDaemon, run: Run) -> None:
    daemon.add("agent")
    daemon.private["agent"] = Ed25519PrivateKey.generate()  # another key than is published
    code, found = bench(run, *way)
    assert (code, found["verified"]) == (1, 0)
    assert found["not_verified"] > 0
    result = run("bench", *SHORT, "--seconds", str(found["seconds"]), *way)
    assert result.exit_code == 1
    assert "of the sample do not verify" in result.stderr


def test_the_first_refusal_is_told_as_by_any_command(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("agent")
    failed = run("bench", "--key", "other")
    assert (failed.exit_code, failed.stdout) == (3, "")
    assert "there is no key 'other'" in failed.stderr


def test_errors_are_counted_by_reason(daemon: FakeDaemon, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.add("agent")
    failing_after(daemon, monkeypatch, 4, code=grpc.StatusCode.PERMISSION_DENIED, reason="AUTHORITY", message="no")
    code, found = bench(run)
    assert code == 1
    assert found["signatures"] <= 4
    assert found["errors"].keys() == {"AUTHORITY"}
    assert found["limit"] == "the calls that failed"


def test_errors_for_people(daemon: FakeDaemon, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.add("agent")
    failing_after(daemon, monkeypatch, 4, code=grpc.StatusCode.UNAVAILABLE, reason="", message="no")
    result = run("bench", *SHORT)
    assert result.exit_code == 1
    assert "failed: UNAVAILABLE" in result.stderr


def test_a_rate_is_what_limits(daemon: FakeDaemon, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.add("agent")
    failure = {"code": grpc.StatusCode.RESOURCE_EXHAUSTED, "reason": "RATE", "message": "slow down", "retry_after": "60"}
    failing_after(daemon, monkeypatch, 4, **failure)
    code, found = bench(run, "--concurrency", "2")
    assert code == 1
    assert found["errors"] == {"RATE": 2}  # it waits as long as it is told to
    assert found["limit"].startswith("the rate that you are granted")


def test_it_ends_in_time_whatever_the_daemon_does(daemon: FakeDaemon, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.add("agent")
    take, signatures, over = daemon._take, itertools.count(), threading.Event()

    def taking(request: Any, context: Any, name: str | None = None) -> Any:
        if isinstance(request, pb.SignRequest) and next(signatures) > 0:
            over.wait(20)
        return take(request, context, name)

    monkeypatch.setattr(daemon, "_take", taking)
    try:
        result = run("bench", *SHORT, "--json", "--concurrency", "2")  # as many as would keep the daemon from answering at all
    finally:
        over.set()
    code, found = result.exit_code, json.loads(result.stdout)
    assert (code, found["signatures"], found["errors"]) == (1, 0, {})
    assert found["seconds"] < 5


@pytest.mark.parametrize(
    "arguments",
    [
        ("--batch", "2", "--stream"),
        ("--seconds", "0"),
        ("--seconds", "11m"),
        ("--batch", "0"),
        ("--batch", "257"),
        ("--concurrency", "0"),
        ("--url", "example.com"),
    ],
)
def test_usage(arguments: tuple[str, ...], daemon: FakeDaemon, run: Run) -> None:
    daemon.add("agent")
    result = run("bench", *SHORT, *arguments)
    assert result.exit_code == 2, result.output
    assert not any(isinstance(request, pb.SignRequest) for request in daemon.requests)


def test_a_key_that_signs_no_requests(daemon: FakeDaemon, run: Run) -> None:
    key = daemon.add("agent")
    key.ClearField("purposes")
    assert run("bench", *SHORT).exit_code == 2


def test_the_sample_is_from_the_whole_of_a_run() -> None:
    tally = Tally()
    for number in range(10_000):
        tally.take(b"%d" % number, Signature(b"s", "kid", 1, "ed25519", "Ed25519"))
        tally.take(b"refused", KeydClientError("no", grpc.StatusCode.INTERNAL))
    numbers = [int(data) for data, _ in tally.sample]
    assert tally.signatures == 10_000
    assert tally.errors == {"INTERNAL": 10_000}
    assert SAMPLE <= len(numbers) < 2 * SAMPLE
    assert len({after - before for before, after in itertools.pairwise(numbers)}) == 1
    assert numbers[0] == 0
    assert numbers[-1] > 9_000


def test_latencies_are_nearest_ranks() -> None:
    assert Tally().latency(0.5) == 0
    tally = Tally(latencies=[4.0, 1.0, 3.0, 2.0])
    assert [tally.latency(share) for share in (0.5, 0.75, 0.99)] == [2, 3, 4]
