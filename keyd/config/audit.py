"""The section about the audit trail."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from keyd.config.addresses import AbsolutePath
from keyd.config.durations import Duration, OptionalDuration
from keyd.config.section import Section
from keyd.core.audit.sinks import JOURNALD, SYSLOG
from keyd.core.audit.trail import Rules
from keyd.core.model import NAME

#: Where the audit trail goes.
AuditSink = Literal["file", "syslog", "journald"]


def _key_name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError("a key name is 1 to 63 of A-Z a-z 0-9 . _ - and starts with a letter or digit")
    return value


def _places_once(names: tuple[AuditSink, ...]) -> tuple[AuditSink, ...]:
    if not names or len(set(names)) != len(names):
        raise ValueError('name each place once, for example ["file", "syslog"]; with enabled = false there is no trail')
    return names


class Audit(Section):
    """``[audit]``: the audit trail. Periods in seconds, sizes in bytes."""

    enabled: bool = True
    #: None where [server] is wrong; else filled in by the loader.
    path: AbsolutePath | None = None
    to: Annotated[tuple[AuditSink, ...], AfterValidator(_places_once)] = ("file",)
    sync_interval: Annotated[Duration, Field(le=10)] = 0.01
    wait_for_sync: bool = False
    on_failure: Literal["refuse", "continue"] = "refuse"
    on_gap: Literal["refuse", "continue"] = "continue"
    max_file_size: Annotated[int, Field(ge=64 * 1024, le=1024**4)] = 128 * 1024 * 1024
    max_file_age: OptionalDuration = None
    keep: Annotated[int, Field(ge=1, le=1_000_000)] | Literal["all"] = "all"
    checkpoint_interval: Annotated[Duration, Field(ge=0.1, le=86400)] = 10.0
    checkpoint_records: Annotated[int, Field(ge=1, le=10_000)] = 10_000
    key: Annotated[str, AfterValidator(_key_name)] = "keyd-audit"
    backend: str | None = None
    syslog_socket: AbsolutePath = SYSLOG
    journald_socket: AbsolutePath = JOURNALD

    def to_rules(self) -> Rules:
        """Return what of it the core has."""
        return Rules(
            sync_interval=self.sync_interval,
            wait_for_sync=self.wait_for_sync,
            on_failure=self.on_failure,
            on_gap=self.on_gap,
            max_file_size=self.max_file_size,
            max_file_age=self.max_file_age,
            keep=None if self.keep == "all" else self.keep,
        )
