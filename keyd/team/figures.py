"""The figures of all workers in one answer, each with the label ``worker``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.responses import Response

from keyd.team.member import Member

_PART = "figures"


def figures_of_all(registry: CollectorRegistry, team: Member) -> Callable[..., Any]:
    """Return the ASGI application that a Prometheus server scrapes, whatever the path and whichever worker answers."""

    async def own(_: bytes) -> bytes:
        return generate_latest(registry)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        found = {team.number: generate_latest(registry), **dict(await team.others(_PART))}
        await Response(merged(found), media_type=CONTENT_TYPE_LATEST)(scope, receive, send)

    team.takes_part({_PART: own})
    return application


def merged(found: Mapping[int, bytes]) -> bytes:
    """Return the figures of several workers as one text; ``found`` has the text of each by its number."""
    together = CollectorRegistry()
    together.register(_Merged(found))
    return generate_latest(together)


class _Merged(Collector):
    def __init__(self, found: Mapping[int, bytes]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for number, text in sorted(self._found.items()):
            for family in text_string_to_metric_families(text.decode()):
                together = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    together.samples.append(sample._replace(labels={**sample.labels, "worker": str(number)}))
        return families.values()
