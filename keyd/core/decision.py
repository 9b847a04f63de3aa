"""What keyd decided about one request: what an audit record is made of."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from keyd.core.principal import Principal


@dataclass(slots=True)
class Decision:
    """One decision. It is filled in on the way; what was not reached stays None. Never holds the signed bytes or a signature.

    Attributes:
        at: when the request came, or was taken up after waiting for a successor, in seconds since the epoch.
        operation: ``sign``, or the name of an operator's call, such as ``rotate_key``.
        purpose: of the signature: ``http``, ``jwt``, ``directory`` or ``raw``.
        grant: name of the grant that allowed it.
        method: like ``authority``, ``path`` and ``created`` as the signature base has it.
        typ: like ``issuer`` and ``audience`` as the token has it.
        digest: SHA-256 of the bytes that were to be signed.
        reason: why not; None when it was allowed. One of the stable reasons of :mod:`keyd.core.errors`.
        detail: the message of the error, which quotes nothing of the request's content; or what an operator's call asked for.
        latency: seconds from the request to the record.
    """

    principal: Principal
    operation: str
    at: float
    key: str | None = None
    kid: str | None = None
    version: int | None = None
    purpose: str | None = None
    grant: str | None = None
    method: str | None = None
    authority: str | None = None
    path: str | None = None
    created: int | None = None
    typ: str | None = None
    issuer: str | None = None
    audience: tuple[str, ...] = ()
    digest: bytes | None = None
    reason: str | None = None
    detail: str | None = None
    latency: float = 0.0


class Audit(Protocol):
    """Where decisions are recorded."""

    @property
    def waits(self) -> bool:
        """Whether :meth:`write` returns what is to be awaited."""
        ...

    def write(self, decision: Decision) -> Awaitable[None] | None:
        """Record one decision. When this returns, the record outlives this process.

        Returns what to await until it also outlives the machine, where that is configured; else None.

        Raises:
            AuditError: it is not on record; then nothing that was decided may happen.
        """


class NoAudit:
    """Records nothing: for tests, and for who has turned the audit trail off."""

    waits = False

    def write(self, decision: Decision) -> None:
        """Forget the decision."""
