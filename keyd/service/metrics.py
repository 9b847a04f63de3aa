"""Figures for Prometheus: what was decided, how long it took, and how the backends are."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, make_asgi_app
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from keyd.core.decision import Audit, Decision
from keyd.core.directories import Directories
from keyd.core.documents import MAX_REVOKED_SIZE
from keyd.core.keyring import Keyring
from keyd.core.monitor import Monitor
from keyd.core.planner import StepKind
from keyd.core.publication import Publication
from keyd.core.rotator import Rotator
from keyd.core.sessions.book import SessionBook

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Metrics:
    """The registry of one daemon. Label values come from keyd itself, never from a caller, so their number is bounded."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._decisions: dict[str, _Operation] = {}
        self.registry.register(_Decisions(self._decisions))

    def decided(self, decision: Decision) -> None:
        """Count one decision. It is called on the event loop only, and once for each signature: these are plain numbers, without the locks that a
        Prometheus counter takes each time.
        """
        operation = self._decisions.get(decision.operation)
        if operation is None:
            operation = self._decisions[decision.operation] = _Operation()
        reason = decision.reason or ""
        if reason not in operation.counts:
            operation.counts[reason], operation.created[reason] = 0, time.time()
        operation.counts[reason] += 1
        operation.buckets[bisect_left(_SECONDS, decision.latency)] += 1
        operation.seconds += decision.latency

    def application(self) -> Callable[..., Any]:
        """Return the ASGI application that a Prometheus server scrapes, whatever the path."""
        app: Callable[..., Any] = make_asgi_app(self.registry)
        return app

    def watch(self, keyring: Keyring, monitor: Monitor, publication: Publication) -> None:
        """Show, at each scrape, how many keys there are, which backends answer, and how large the JWK Sets are."""
        self.registry.register(_State(keyring, monitor, publication))

    def watch_revoked(self, lists: Callable[[], Mapping[str, tuple[int, int]]]) -> None:
        """Show, at each scrape, how long the lists of revoked tokens are: ``lists`` returns tokens and bytes by issuer."""
        self.registry.register(_Revoked(lists))

    def watch_rotation(self, rotator: Rotator) -> None:
        """Show, at each scrape, how rotation is getting on."""
        self.registry.register(_Rotation(rotator))

    def watch_sessions(self, sessions: SessionBook) -> None:
        """Show, at each scrape, how many sessions there are."""
        self.registry.register(_Sessions(sessions))

    def watch_directories(self, directories: Directories) -> None:
        """Show, at each scrape, how the key directories are."""
        self.registry.register(_Directories(directories))

    def watch_replica(self, figures: Callable[[], Replica]) -> None:
        """Show, at each scrape, what ``figures`` returns."""
        self.registry.register(_Fleet(figures))


@dataclass(frozen=True, slots=True)
class Replica:
    """What is told of a replica. None: it has no database that others use.

    Attributes:
        leads: whether it plans rotations.
        store_up: whether the database answers.
        newest_change: number of the newest change of any key that it has seen.
        refresh_age: seconds since its keys were last known to be as in the database.
        clock_offset: seconds that the clock of its machine is ahead of the database's.
    """

    leads: bool
    store_up: bool | None = None
    newest_change: int | None = None
    refresh_age: float | None = None
    clock_offset: float | None = None


class CountedAudit:
    """An audit trail that counts what is written to it."""

    def __init__(self, audit: Audit, metrics: Metrics) -> None:
        self._audit = audit
        self._metrics = metrics

    @property
    def waits(self) -> bool:
        """As the trail's."""
        return self._audit.waits

    def write(self, decision: Decision) -> Awaitable[None] | None:
        """Record one decision, then count it. Raises as the trail does; what is not on record is not counted."""
        written = self._audit.write(decision)
        self._metrics.decided(decision)
        return written


class _Operation:
    """What was decided about one operation: how often, by reason, since when; how many took up to each bound, and how long in all."""

    __slots__ = ("buckets", "counts", "created", "seconds", "since")

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.created: dict[str, float] = {}
        self.buckets = [0] * (len(_SECONDS) + 1)
        self.seconds = 0.0
        self.since = time.time()


class _Decisions(Collector):
    def __init__(self, operations: Mapping[str, _Operation]) -> None:
        self._operations = operations

    def collect(self) -> Iterable[Metric]:
        decided = CounterMetricFamily(
            "keyd_decisions", "Requests decided, by what was asked and why it was refused", labels=("operation", "reason")
        )
        took = HistogramMetricFamily(
            "keyd_decision_seconds", "Time from a request to the record of what was decided", labels=("operation",)
        )
        bounds = [*map(floatToGoString, _SECONDS), "+Inf"]
        for name, operation in self._operations.items():
            for reason, count in operation.counts.items():
                decided.add_metric((name, reason), count, operation.created[reason])
            took.add_metric((name,), list(zip(bounds, accumulate(operation.buckets), strict=True)), operation.seconds)
            took.add_sample("keyd_decision_seconds_created", {"operation": name}, operation.since)
        yield decided
        yield took


class _State(Collector):
    def __init__(self, keyring: Keyring, monitor: Monitor, publication: Publication) -> None:
        self._keyring = keyring
        self._monitor = monitor
        self._publication = publication

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("keyd_keys", "Keys on record", value=len(self._keyring.snapshot.keys))
        up = GaugeMetricFamily("keyd_backend_up", "Whether the backend answers", labels=("backend",))
        for name in sorted(self._keyring.backends):
            up.add_metric((name,), float(self._monitor.answers(name)))
        yield up
        signatures = CounterMetricFamily(
            "keyd_backend_signatures", "Signatures that the backend was asked for, probes among them", labels=("backend",)
        )
        for name, runner in sorted(self._keyring.backends.items()):
            signatures.add_metric((name,), runner.signatures)
        yield signatures
        keys = GaugeMetricFamily("keyd_jwks_keys", "Keys in the JWK Set of an issuer; without a name, of all", labels=("issuer",))
        octets = GaugeMetricFamily("keyd_jwks_bytes", "Size of the same JWK Set", labels=("issuer",))
        for issuer, (number, size) in self._publication.sizes().items():
            keys.add_metric((issuer,), number)
            octets.add_metric((issuer,), size)
        yield keys
        yield octets


class _Sessions(Collector):
    def __init__(self, sessions: SessionBook) -> None:
        self._sessions = sessions

    def collect(self) -> Iterable[Metric]:
        failing = sum(1 for session in self._sessions.all() if session.renewal_error)
        yield GaugeMetricFamily("keyd_sessions", "Sessions that are open", value=len(self._sessions))
        yield GaugeMetricFamily(
            "keyd_sessions_not_renewed", "Those of them whose token could not be renewed the last time", value=failing
        )


class _Revoked(Collector):
    def __init__(self, lists: Callable[[], Mapping[str, tuple[int, int]]]) -> None:
        self._lists = lists

    def collect(self) -> Iterable[Metric]:
        listed = GaugeMetricFamily("keyd_revoked_tokens", "Revoked tokens of an issuer that are not over", labels=("issuer",))
        published = GaugeMetricFamily(
            "keyd_revoked_tokens_published", "Whether the list of them is short enough to be published", labels=("issuer",)
        )
        for issuer, (number, size) in self._lists().items():
            listed.add_metric((issuer,), number)
            published.add_metric((issuer,), float(size <= MAX_REVOKED_SIZE))
        yield listed
        yield published


class _Rotation(Collector):
    def __init__(self, rotator: Rotator) -> None:
        self._rotator = rotator

    def collect(self) -> Iterable[Metric]:
        figures = self._rotator.figures()
        yield GaugeMetricFamily(
            "keyd_rotation_waiting", "Keys whose next version should have been made and is not yet", value=figures.waiting
        )
        yield GaugeMetricFamily(
            "keyd_rotation_overdue", "Those of them whose next version will sign later than planned", value=figures.overdue
        )
        yield GaugeMetricFamily(
            "keyd_rotation_next_deadline_seconds",
            "Until the first of those that wait is overdue, negative when it is; +Inf: none waits",
            value=figures.next_deadline,
        )
        done = CounterMetricFamily("keyd_rotations", "What keyd did with versions by itself", labels=("kind",))
        for kind in (StepKind.CREATE, StepKind.DESTROY):
            done.add_metric((kind.name.lower(),), self._rotator.done[kind])
        yield done
        failed = CounterMetricFamily("keyd_rotation_failures", "What of that failed", labels=("backend",))
        for backend in self._rotator.backends:
            failed.add_metric((backend,), self._rotator.failed[backend])
        yield failed


class _Directories(Collector):
    def __init__(self, directories: Directories) -> None:
        self._directories = directories

    def collect(self) -> Iterable[Metric]:
        keys = GaugeMetricFamily("keyd_directory_keys", "Keys in the key directory of an issuer", labels=("issuer",))
        unsigned = GaugeMetricFamily("keyd_directory_unsigned", "Those of them that do not sign it", labels=("issuer",))
        ends = GaugeMetricFamily(
            "keyd_directory_signature_ends_seconds",
            "Until the first signature of a key directory is over; +Inf: it has none",
            labels=("issuer",),
        )
        made = CounterMetricFamily("keyd_directory_signatures", "Signatures made for a key directory", labels=("issuer",))
        failed = CounterMetricFamily("keyd_directory_failures", "Those that could not be made", labels=("issuer",))
        for issuer, figures in self._directories.figures().items():
            keys.add_metric((issuer,), figures.listed)
            unsigned.add_metric((issuer,), figures.unsigned)
            ends.add_metric((issuer,), figures.first_end)
            made.add_metric((issuer,), self._directories.made[issuer])
            failed.add_metric((issuer,), self._directories.failed[issuer])
        yield from (keys, unsigned, ends, made, failed)


class _Fleet(Collector):
    def __init__(self, figures: Callable[[], Replica]) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        replica = self._figures()
        for name, help_text, value in (
            ("keyd_replica_leads", "Whether this replica plans rotations", replica.leads),
            ("keyd_store_up", "Whether the database answers", replica.store_up),
            ("keyd_store_newest_change", "Number of the newest change of any key that was seen", replica.newest_change),
            ("keyd_store_refresh_age_seconds", "Since the keys were last known to be as in the database", replica.refresh_age),
            ("keyd_clock_offset_seconds", "How far this machine's clock is ahead of the database's", replica.clock_offset),
        ):
            if value is not None:
                yield GaugeMetricFamily(name, help_text, value=float(value))
