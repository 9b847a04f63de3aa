"""Where metadata lives: keys, versions, timelines. Private keys never do."""

from keyd.core.store.records import CheckpointRow, Intent, Records
from keyd.core.store.sql import SqlStore

__all__ = ["CheckpointRow", "Intent", "Records", "SqlStore"]
