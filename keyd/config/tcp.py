"""The section about callers on other machines."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from keyd.config.addresses import AbsolutePath, Listen, Listener, is_loopback
from keyd.config.durations import Duration
from keyd.core.spiffe import is_trust_domain


def _trust_domain(value: str) -> str:
    if not is_trust_domain(value):
        raise ValueError('not the name of a trust domain; write for example "example.org", in lower case and without spiffe://')
    return value


def _workload_api(value: str) -> str:
    path = value.removeprefix("unix:")
    if path == value or not path.startswith("/") or "\0" in path:
        raise ValueError('not a Unix socket; write for example "unix:/run/spire/agent.sock"')
    return value


class Tcp(Listener):
    """``[tcp.NAME]``: a listener for callers on other machines. Durations in seconds."""

    listen: Listen
    certificate: AbsolutePath | None = None
    private_key: AbsolutePath | None = None
    client_ca: AbsolutePath | None = None
    workload_api: Annotated[str, AfterValidator(_workload_api)] | None = None
    trust_domain: Annotated[str, AfterValidator(_trust_domain)] | None = None
    dns: bool = False
    plaintext: bool = False
    max_connection_age: Annotated[Duration, Field(ge=1)] = 3600.0
    max_handshakes: Annotated[int, Field(ge=2, le=10_000)] = 32
    handshake_timeout: Annotated[Duration, Field(ge=0.1, le=60)] = 5.0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        files = {"certificate": self.certificate, "private_key": self.private_key, "client_ca": self.client_ca}
        given = [name for name, path in files.items() if path is not None]
        if self.plaintext:
            self._check_plaintext(given)
        elif self.workload_api is not None:
            if given:
                raise ValueError(f"give {given[0]} or workload_api, not both")
            if self.trust_domain is None:
                raise ValueError("workload_api needs a trust_domain, whose callers are let in")
        elif len(given) < len(files):
            missing = ", ".join(name for name in files if name not in given)
            raise ValueError(f"without {missing} there is no TLS; give certificate, private_key and client_ca, or workload_api")
        if not self.plaintext and (self.trust_domain is not None) == self.dns:
            raise ValueError('say who is let in: either trust_domain = "example.org", or dns = true for callers with DNS names')
        return self

    def _check_plaintext(self, given: list[str]) -> None:
        if given or self.workload_api is not None or self.trust_domain is not None or self.dns:
            raise ValueError("plaintext is without certificates, so that nobody can be known by one; leave one or the other out")
        if not is_loopback(self.host):
            raise ValueError('plaintext is for this machine alone; listen on "127.0.0.1:PORT" or "[::1]:PORT"')
