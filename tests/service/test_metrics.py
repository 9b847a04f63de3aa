"""What Prometheus reads."""

from __future__ import annotations

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from service_conftest import Running

from keyd.core.decision import Decision, NoAudit
from keyd.core.errors import AuditError
from keyd.core.principal import Principal
from keyd.core.publication import Issuer, Rules
from keyd.service.metrics import _SECONDS, CountedAudit, Metrics
from keyd.v1 import key_service_pb2


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def scrape(running: Running) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"http://127.0.0.1:{running.daemon.metrics_port}/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    return samples(answer.text)


async def test_a_scrape_tells_of_keys_and_backends(running: Running):
    found = await scrape(running)
    assert found["keyd_keys", frozenset()] == 0
    assert found["keyd_backend_up", frozenset({("backend", "file")})] == 1


async def test_a_scrape_tells_how_large_the_jwk_sets_are(running: Running):
    running.daemon.publication.rules = Rules(issuers={"a": Issuer("a", frozenset({"a.example"}), ("a-*",), "jose", 60.0)})
    for name in ("a-1", "b-1"):
        await running.keys.CreateKey(key_service_pb2.CreateKeyRequest(spec=key_service_pb2.KeySpec(name=name)))
    found = await scrape(running)
    keys = {issuer: found["keyd_jwks_keys", frozenset({("issuer", issuer)})] for issuer in ("", "a")}
    assert keys == {"": 2, "a": 1}
    assert found["keyd_jwks_bytes", frozenset({("issuer", "")})] == len(running.daemon.publication.document().body)


async def test_the_publication_endpoint_has_no_figures(running: Running):
    async with httpx.AsyncClient() as http:
        assert (await http.get(f"{running.http}/metrics")).status_code == 404


def decision(reason: str | None) -> Decision:
    return Decision(Principal(uid=1), "sign", at=0.0, key="agent", reason=reason, latency=0.0002)


def test_decisions_are_counted_by_what_was_asked_and_the_reason():
    metrics = Metrics()
    audit = CountedAudit(NoAudit(), metrics)
    for reason in (None, "AUTHORITY", None):
        audit.write(decision(reason))
    value = metrics.registry.get_sample_value
    assert value("keyd_decisions_total", {"operation": "sign", "reason": ""}) == 2
    assert value("keyd_decisions_total", {"operation": "sign", "reason": "AUTHORITY"}) == 1
    assert value("keyd_decision_seconds_bucket", {"operation": "sign", "le": "0.0001"}) == 0
    assert value("keyd_decision_seconds_bucket", {"operation": "sign", "le": "0.00025"}) == 3


def test_the_figures_are_those_of_the_librarys_own_counter_and_histogram():
    metrics, registry = Metrics(), CollectorRegistry()
    counter = Counter(
        "keyd_decisions",
        "Requests decided, by what was asked and why it was refused",
        ("operation", "reason"),
        registry=registry,
    )
    seconds = Histogram(
        "keyd_decision_seconds",
        "Time from a request to the record of what was decided",
        ("operation",),
        buckets=_SECONDS,
        registry=registry,
    )
    for operation, reason, latency in (
        ("sign", None, 0.0001),
        ("sign", None, 0.00011),
        ("sign", "RATE", 0.0),
        ("rotate_key", None, 6.0),
        ("sign", None, 5.0),
        ("sign", "", 1.0),
    ):
        metrics.decided(Decision(Principal(uid=1), operation, at=0.0, reason=reason, latency=latency))
        counter.labels(operation, reason or "").inc()
        seconds.labels(operation).observe(latency)
    theirs, ours = (shown(generate_latest(each)) for each in (registry, metrics.registry))
    assert ours == theirs
    assert len(ours) > 40


def shown(text: bytes) -> list[str]:
    """Return the lines, of the moments at which something was first counted without the moment."""
    return [line.split("} ")[0] if "_created{" in line else line for line in text.decode().splitlines()]


def test_what_is_not_on_record_is_not_counted():
    class Full:
        waits = False

        def write(self, decision: Decision) -> None:
            raise AuditError("no room")

    metrics = Metrics()
    with pytest.raises(AuditError):
        CountedAudit(Full(), metrics).write(decision(None))
    assert metrics.registry.get_sample_value("keyd_decisions_total", {"operation": "sign", "reason": ""}) is None
