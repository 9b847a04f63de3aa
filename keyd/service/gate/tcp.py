"""The listeners of ``[tcp.NAME]``, from their settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from keyd.service.call import Caller
from keyd.service.gate.certificates import by_dns_names, by_spiffe_id
from keyd.service.gate.credentials import CredentialsError, FileCredentials
from keyd.service.gate.limits import Places
from keyd.service.gate.private import Link
from keyd.service.gate.tls import Limits, TcpListener, Tls
from keyd.service.gate.workload_api import WorkloadApiCredentials


class Settings(Protocol):
    """The fields of one ``[tcp.NAME]``, consistent with each other, as docs/configuration.md has them."""

    @property
    def host(self) -> str: ...  # noqa: D102
    @property
    def port(self) -> int: ...  # noqa: D102
    @property
    def certificate(self) -> Path | None: ...  # noqa: D102
    @property
    def private_key(self) -> Path | None: ...  # noqa: D102
    @property
    def client_ca(self) -> Path | None: ...  # noqa: D102
    @property
    def workload_api(self) -> str | None: ...  # noqa: D102
    @property
    def trust_domain(self) -> str | None: ...  # noqa: D102
    @property
    def plaintext(self) -> bool: ...  # noqa: D102
    @property
    def handshake_timeout(self) -> float: ...  # noqa: D102
    @property
    def max_handshakes(self) -> int: ...  # noqa: D102
    @property
    def max_connection_age(self) -> float: ...  # noqa: D102


class TcpListeners:
    """All of them.

    Use it in this order: :meth:`open`, :meth:`start` once the server serves, :meth:`stop_accepting` before it stops, :meth:`close`
    afterwards.

    Attributes:
        connections: counts those of listeners that are opened from here on.
    """

    def __init__(self, connect: Callable[[Caller], Link], connections: Places) -> None:
        """``connect`` opens a connection to the server on behalf of a caller; ``connections`` counts those of all gates."""
        self._connect = connect
        self.connections = connections
        self._listeners: dict[str, TcpListener] = {}
        self._agents: list[WorkloadApiCredentials] = []

    def __getitem__(self, name: str) -> TcpListener:
        return self._listeners[name]

    def open(self, sections: Mapping[str, Settings], *, bind: bool = True) -> None:
        """Load the credentials and bind the addresses; without ``bind``, another process accepts.

        Raises:
            ProcessError: a file cannot be used, or an address is taken.
        """
        for name, section in sections.items():
            limits = Limits(
                section.handshake_timeout,
                section.max_handshakes,
                section.max_connection_age,
            )
            try:
                tls = self._tls(name, section)
            except CredentialsError as exc:
                raise CredentialsError(f"tcp.{name}: {exc}") from exc
            listener = TcpListener(name, self._connect, tls, self.connections, limits)
            self._listeners[name] = listener
            if bind:
                listener.bind(section.host, section.port)

    def start(self) -> None:
        """Let callers in."""
        for agent in self._agents:
            agent.start()
        for listener in self._listeners.values():
            listener.start()

    def refresh(self) -> None:
        """Look for new certificates and bundles now."""
        for listener in self._listeners.values():
            listener.refresh()

    async def stop_accepting(self) -> None:
        """Let nobody else in; who is connected stays."""
        for listener in self._listeners.values():
            await listener.stop_accepting()
        for agent in self._agents:
            await agent.stop()

    async def close(self) -> None:
        """Close every connection."""
        await self.stop_accepting()
        for listener in self._listeners.values():
            await listener.close()

    def _tls(self, name: str, section: Settings) -> Tls | None:
        if section.plaintext:
            return None
        identify = by_dns_names if section.trust_domain is None else by_spiffe_id(section.trust_domain)
        if section.workload_api is not None:
            # One trust domain for each listener, so that no authority can vouch for the members of another domain.
            assert section.trust_domain is not None
            agent = WorkloadApiCredentials(name, section.workload_api, section.trust_domain)
            self._agents.append(agent)
            return Tls(agent, identify)
        assert section.certificate is not None
        assert section.private_key is not None
        assert section.client_ca is not None
        return Tls(FileCredentials(name, section.certificate, section.private_key, section.client_ca), identify)
