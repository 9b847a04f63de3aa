"""Puts the audit trail of the daemon together, from its configuration."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from math import inf

import structlog

from keyd import __version__, process
from keyd.config import Audit, Config
from keyd.core.audit.checkpoints import Checkpointer
from keyd.core.audit.key import AuditKey
from keyd.core.audit.sinks import Journald, Sink, Syslog
from keyd.core.audit.trail import AuditTrail, Head, Rules
from keyd.core.audit.trail_file import TrailFile
from keyd.core.clock import Clock
from keyd.core.keyring import Keyring
from keyd.core.store import SqlStore

_STOP = 5.0  # seconds that the last checkpoint may take
_log = structlog.get_logger("keyd.audit")


@dataclass(frozen=True, slots=True)
class Kept:
    """A trail that is kept, and what belongs to it."""

    trail: AuditTrail
    key: AuditKey
    store: SqlStore
    checkpointer: Checkpointer

    def apply(self, rules: Rules, checkpoint_interval: float, checkpoint_records: int) -> None:
        """Take over the reloadable part of a configuration, and see whether log rotation moved the file."""
        self.trail.rules = rules
        self.trail.checkpoint_records = checkpoint_records
        self.checkpointer.interval = checkpoint_interval
        self.trail.look()


async def start(config: Config, keyring: Keyring, store: SqlStore, clock: Clock, stack: AsyncExitStack) -> Kept | None:
    """Begin to record; ``stack`` ends it after everything that was put on the stack later. None when no trail is configured.

    Raises:
        KeydError: the rules have the start refused, or the audit key is another's.
        ProcessError: another process writes the trail.
    """
    section = config.audit
    if not section.enabled:
        _log.warning("no audit trail is kept (audit.enabled = false): nothing will show who had what signed")
        return None
    assert section.path is not None and section.backend is not None
    lifecycle = replace(config.defaults.lifecycle, rotation_period=inf, destroy_after=inf)
    key = AuditKey(keyring, section.key, section.backend, config.defaults.profile, lifecycle)
    key.check()
    file = None
    if "file" in section.to:
        stack.enter_context(process.lock_file(section.path / "lock"))
        file = TrailFile(section.path)
    row = await asyncio.to_thread(store.newest_checkpoint)
    trail = AuditTrail(file, _sinks(section), section.to_rules(), clock)
    await trail.start(__version__, Head(row.seq, row.head) if row is not None and file is not None else None)
    stack.push_async_callback(trail.stop)
    checkpointer = Checkpointer(trail, key, store, clock, section.checkpoint_interval)
    checkpointer.start()
    stack.push_async_callback(checkpointer.stop, _STOP)
    return Kept(trail, key, store, checkpointer)


def _sinks(section: Audit) -> list[Sink]:
    sinks: list[Sink] = []
    if "syslog" in section.to:
        sinks.append(Syslog(section.syslog_socket))
    if "journald" in section.to:
        sinks.append(Journald(section.journald_socket))
    return sinks
