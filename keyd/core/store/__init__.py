"""Where metadata lives: keys, versions, timelines. Private keys never do."""

from keyd.core.store.records import Intent, Records
from keyd.core.store.sql import SqlStore

__all__ = ["Intent", "Records", "SqlStore"]
