"""Makes backups of a daemon's state and restores them, from its configuration and without the daemon's help."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from backends.api import Backend, Exportable
from keyd import __version__, plugins, process
from keyd.config import BackendConfig, Config
from keyd.config.workers import trail_directories
from keyd.core import jwk
from keyd.core.audit import files
from keyd.core.audit.record import timestamp
from keyd.core.backup import BackendPart, Backup, BackupError, Contents
from keyd.core.backup.contents import handles, needed, table_member, to_lines
from keyd.core.backup.trail import Memory, remembered
from keyd.core.store import Records
from keyd.core.store import dump as dumps
from keyd.core.store.database import Database, Sqlite
from keyd.core.store.dump import Since

#: Version numbers of each key that a restore leaves out: they may have been used after the backup was made.
SKIP = 1000
_ATTEMPTS = 20
_LONGEST_CALL = 600.0  # seconds


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did.

    Attributes:
        contents: what it put back.
        memory: what the audit trail knows of the time since the backup was made; None when there is no trail to ask.
        proved: how many private keys were compared with their public keys.
        unproved: backends that were not asked, because their private keys are in no backup.
    """

    contents: Contents
    memory: Memory | None
    proved: int
    unproved: tuple[str, ...]


def create(config: Config, clock: Callable[[], float] = time.time) -> Backup:
    """Return a backup of everything that keyd has on record, and of the private keys that are in encrypted files. The daemon may run.

    Args:
        config: the daemon's.
        clock: returns the time in seconds since the epoch.

    Raises:
        BackupError: a private key that is needed is not there, or this is not the daemon's user.
        BackendError: a store is damaged or too open.
        DumpError: the database is empty, or of a newer keyd.
        StoreUnavailableError: the database cannot be read.
        PluginError: a backend type is not installed.
    """
    _need_owner(config.server.state_dir)
    with closing(_database(config)) as database:
        # What is destroyed between the look at the database and that at a store is missing there, and seen by the next look.
        for _ in range(_ATTEMPTS):
            at = timestamp(clock())
            dump = dumps.dump(database)
            wanted = handles(dump)
            parts, found = {}, {}
            for name in wanted:
                parts[name], found[name] = _backed_up(config, name, wanted[name])
            missing = sorted(h for name in wanted if parts[name].private_keys for h in wanted[name] - set(found[name]))
            if not missing:
                break
        else:
            other = "if another replica has it, give that backend another name there; " if config.store.url is not None else ""
            raise BackupError(
                f"the private key {missing[0]} is on record and not in its store; {other}restore it, or mark its version "
                "compromised and destroy it"
            )
    members = {table_member(name): to_lines(rows) for name, rows in dump.tables.items()}
    members |= {f"backends/{name}/{file}": content for name, files in found.items() for file, content in files.items()}
    backup = Backup(__version__, dump.schema, at, parts, members)
    Contents.of(backup)  # what cannot be restored is no backup
    return backup


def _backed_up(config: Config, name: str, wanted: Collection[str]) -> tuple[BackendPart, Mapping[str, bytes]]:
    section = config.backends.get(name)
    if section is None:
        return BackendPart(type="", private_keys=False), {}
    exportable = _exportable(section)
    if exportable is None:
        return BackendPart(type=section.type, private_keys=False), {}
    found = exportable.backup(section.options, config.backend_context(name), wanted)
    return BackendPart(type=section.type, private_keys=True), found


def restore(
    config: Config, contents: Contents, *, skip: int = SKIP, disabled_at: float | None = None, trails: Collection[Path] = ()
) -> Restored:
    """Put a backup back into an empty database and into the stores of private keys. No daemon may run on it.

    Everything is looked at before anything is written. Then come the private keys, each of which is compared with the record, and
    the database last and as a whole: where something fails on the way, nothing signs, and it can be done again.

    Args:
        config: the daemon's.
        contents: the backup.
        skip: how many version numbers of each key to leave out. 0 only where nothing was made since the backup.
        disabled_at: when given, every key is disabled as of this time, in seconds since the epoch.
        trails: directories with the audit trails of other replicas. Each has only what was done at its own.

    Raises:
        AlreadyRunningError: the daemon runs.
        BackupError: the configuration does not have the backends, or a private key is another than the one on record.
        BackendError: a store does not take the keys, or does not open.
        DumpError: the database is not empty.
        StoreUnavailableError: the database does not take the rows.
        PluginError: a backend type is not installed.
    """
    state_dir = config.server.state_dir
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    _need_owner(state_dir)
    with process.lock_file(state_dir / "lock"), closing(_database(config, new=True)) as database:
        dumps.need_empty(database)
        exportable = _stores(config, contents)
        memory = _memory(config, contents.backup.time, trails)
        for dry_run in (True, False):
            for name, store in exportable.items():
                options = config.backends[name].options
                store.restore(options, config.backend_context(name), contents.files(name), dry_run=dry_run)
        proved = sum(_prove(config, name, contents.records) for name in exportable)
        dumps.restore(database, contents.dump, _since(config, contents, memory, skip, disabled_at))
    return Restored(contents, memory, proved, tuple(sorted(set(contents.backup.backends) - set(exportable))))


def _stores(config: Config, contents: Contents) -> dict[str, type[Exportable]]:
    """Return the backends that take private keys from the backup. Raises BackupError where the configuration has others."""
    found = {}
    for name, part in contents.backup.backends.items():
        section = config.backends.get(name)
        if section is None and not part.type:
            continue  # was not configured either when the backup was made
        if section is None or section.type != part.type:
            there = "none" if section is None else f"one of type {section.type!r}"
            raise BackupError(f"the backup has keys of backend {name!r}, of type {part.type!r}; the configuration has {there}")
        if part.private_keys:
            exportable = _exportable(section)
            if exportable is None:
                raise BackupError(f"backend {name!r} of type {part.type!r} does not take private keys from a backup any more")
            found[name] = exportable
    return found


def _prove(config: Config, name: str, records: Records) -> int:
    """Compare the private keys of a backend with those on record, and return how many there are."""
    section = config.backends[name]
    versions = needed(records, name)
    with closing(plugins.load(section.type).open(section.options, config.backend_context(name))) as backend:
        for handle, version in versions.items():
            if jwk.from_public_key(backend.public_key(handle))[1] != version.thumbprint:
                raise BackupError(
                    f"the private key {handle} of backend {name!r} is not that of kid {version.kid!r}; the backup was altered"
                )
    return len(versions)


def _memory(config: Config, since: str, trails: Collection[Path]) -> Memory | None:
    own = config.audit.path
    # The record of a call has the time at which it began. One that went on while the backup was made is not in it.
    begin = timestamp(datetime.fromisoformat(since).timestamp() - _LONGEST_CALL)
    try:
        found: list[Path] = []
        for mine in trail_directories(own).values() if own is not None and own.exists() else ():
            found += files.in_directory(mine)
        for directory in trails:
            others = files.in_directory(directory)
            if not others:
                raise BackupError(f"there is no audit trail in {directory}")
            found += others
        return remembered(found, begin) if found else None
    except OSError as exc:
        cause = f"{exc.filename}: {os.strerror(exc.errno)}" if exc.errno else str(exc)
        raise BackupError(
            f"cannot read the audit trail: {cause}; mend it, or move the damaged file away: what it says was stopped is then unknown"
        ) from exc


def _since(config: Config, contents: Contents, memory: Memory | None, skip: int, disabled_at: float | None) -> Since:
    counting = {name for name in {key.backend for key in contents.records.keys} if _counts(config.backends.get(name))}
    counted = {key.name for key in contents.records.keys if key.backend in counting}
    disabled = dict(memory.disabled) if memory is not None else {}
    if disabled_at is not None:
        disabled |= {key.name: disabled_at for key in contents.records.keys}
    if memory is None:
        return Since(skip=skip, counted=counted, disabled=disabled)
    return Since(memory.numbers, skip, counted, memory.compromised, memory.destroyed, disabled, memory.enabled)


def _counts(section: BackendConfig | None) -> bool:
    """Say whether a backend has a store that counts versions itself, and so gives none out twice. To it, gaps are expensive."""
    capabilities = getattr(plugins.load(section.type), "capabilities", None) if section is not None else None
    return capabilities is not None and bool(capabilities.ordered_destruction)


def _exportable(section: BackendConfig) -> type[Exportable] | None:
    backend: type[Backend] = plugins.load(section.type)
    return backend if issubclass(backend, Exportable) else None


def _database(config: Config, *, new: bool = False) -> Database:
    if config.store.url is not None:
        from keyd.core.store.postgres import Postgres

        return Postgres(config.store.conninfo())
    path = config.server.state_dir / "keyd.db"
    if not new and not path.exists():
        raise BackupError(f"there is no database {path}; name the daemon's configuration with --config")
    return Sqlite(path)


def _need_owner(state_dir: Path) -> None:
    """What others than the daemon's user make in its directory could keep the daemon from its own files."""
    try:
        owner = state_dir.stat().st_uid
    except OSError as exc:
        raise BackupError(f"cannot look at {state_dir}: {os.strerror(exc.errno or 0)}; run this as the daemon's user") from exc
    if owner != os.geteuid():
        raise BackupError(f"{state_dir} belongs to uid {owner}; run this as that user")
