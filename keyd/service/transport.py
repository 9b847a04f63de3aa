"""What serves keyd's services: a transport. One speaks through grpcio, one through an HTTP/2 server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol


class Transport(Protocol):
    """One server on one socket. Use it in this order: :meth:`listen`, :meth:`start`, :meth:`report` as often as needed, :meth:`stop`, :meth:`close`."""

    def listen(self, address: str) -> None:
        """Bind one address, such as ``unix:/run/keyd/keyd.sock``, and listen. Raises RuntimeError or OSError when it cannot be bound."""

    async def start(self) -> None:
        """Serve."""

    async def report(self, backends: Mapping[str, bool]) -> None:
        """Say which backends are sound (grpc.health.v1): each as ``keyd.backend.NAME``; the services are as long as one is."""

    async def stop(self, drain: float) -> None:
        """Take no new calls, give those under way ``drain`` seconds, then cancel them."""

    def close(self) -> None:
        """Let go of what it listens on, whether it was started or not."""


def health(services: Iterable[str], backends: Mapping[str, bool]) -> dict[str, bool]:
    """Return which services of grpc.health.v1 are sound, by name: see :meth:`Transport.report`."""
    return {f"keyd.backend.{name}": sound for name, sound in backends.items()} | dict.fromkeys(
        ("", *services), any(backends.values())
    )
