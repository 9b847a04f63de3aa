"""Backups: what is in one, how it is written and read, and whether it is whole."""

from keyd.core.backup.container import BackendPart, Backup, BackupError
from keyd.core.backup.contents import Contents

__all__ = ["Backup", "BackendPart", "BackupError", "Contents"]
