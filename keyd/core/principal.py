"""The principal: the authenticated caller, as the policy and the audit trail see it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Principal:
    """Who calls. Each attribute was proved by the kernel, by TLS, or by the socket that was used; what is None was not.

    A caller on a Unix socket has ``uid`` and what belongs to a process; one on TCP has ``spiffe_id`` or ``dns_names``; one on a
    socket of its own has ``socket``; one on plaintext loopback has nothing.

    Attributes:
        groups: the supplementary groups, without ``gid``.
        pid: as this daemon's PID namespace has it; None when the process is not visible there.
        executable: absolute path of the running program. Only a path that names the same file for the daemon is proved.
        cgroup: path in the unified hierarchy, or in the one of systemd.
        unit: systemd system unit, for example ``shop.service``.
        user_unit: systemd user unit, within the user's own ``user@UID.service``.
        container: id of the container, 64 hexadecimal digits.
        spiffe_id: ``spiffe://trust-domain/path``.
        dns_names: DNS names of the client certificate, lower case.
        socket: name of the ``[sockets.NAME]`` that the call came over.
    """

    uid: int | None = None
    gid: int | None = None
    groups: frozenset[int] = frozenset()
    pid: int | None = None
    executable: str | None = None
    cgroup: str | None = None
    unit: str | None = None
    user_unit: str | None = None
    container: str | None = None
    spiffe_id: str | None = None
    dns_names: tuple[str, ...] = ()
    socket: str | None = None

    @cached_property
    def account(self) -> str:
        """Who answers for the caller, whatever program it runs: what two operators must differ in."""
        if self.socket is not None:
            return f"socket:{self.socket}"
        if self.spiffe_id is not None:
            return self.spiffe_id
        if self.dns_names:
            return f"dns:{self.dns_names[0]}"
        return "loopback" if self.uid is None else f"uid:{self.uid}"

    @cached_property
    def identity(self) -> str:
        """The account and what is proved of its program, without what changes from one process to the next."""
        parts = [
            ("executable", self.executable),
            ("unit", self.unit),
            ("user_unit", self.user_unit),
            ("container", self.container),
        ]
        return " ".join([self.account, *(f"{name}:{value}" for name, value in parts if value is not None)])

    def __str__(self) -> str:
        return self.identity if self.pid is None else f"{self.identity} pid:{self.pid}"
