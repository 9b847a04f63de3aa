"""Backups as people and programs see them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from keyd.cli import output
from keyd.cli.audit_view import one_line
from keyd.cli.errors import printable

if TYPE_CHECKING:
    from keyd.backup import Restored
    from keyd.core.backup import Backup, Contents

#: What a restore means, in one sentence.
LOST = "Versions made since then are unknown again, and versions stopped since then sign again unless the audit trail says so."


def not_in_it(backup: Backup) -> list[str]:
    """Return what has to be backed up elsewhere."""
    lines = []
    for name, part in backup.backends.items():
        if part.private_keys:
            lines.append(f"backend {name}: the key that its files are encrypted under is not in it; without that they are lost")
        elif part.type:
            lines.append(f"backend {name}: its private keys are not in it; back up the {part.type} store by its own means")
        else:
            lines.append(f"backend {name}: it is not configured, so whether its private keys can be backed up is not known")
    return lines


def document(contents: Contents, now: float) -> dict[str, Any]:
    """Return what is in a backup as JSON-ready values; states are those of ``now``, in seconds since the epoch."""
    from keyd.core.snapshot import Snapshot

    backup, snapshot = contents.backup, Snapshot.of(contents.records.keys, contents.records.versions)
    keys = [
        {
            "name": view.key.name,
            "algorithm": view.key.algorithm.value,
            "backend": view.key.backend,
            "disabled": view.key.disabled_at is not None,
            "versions": [
                {
                    "version": version.record.version,
                    "kid": version.record.kid,
                    "state": version.record.timeline.state(now).value,
                    "private_key": version.record.handle in contents.files(view.key.backend),
                }
                for version in view.versions
            ],
        }
        for view in snapshot.keys.values()
    ]
    return {
        "time": backup.time,
        "keyd": backup.keyd,
        "schema": backup.schema,
        "backends": {name: part.model_dump() for name, part in backup.backends.items()},
        "keys": keys,
        "interrupted": [{"key": key, "version": version} for key, version in contents.interrupted],
    }


def show(document: dict[str, Any]) -> None:
    """Print what :func:`document` returned."""
    from rich.text import Text

    rows = [
        [
            Text(printable(key["name"]), "bold"),
            Text(key["algorithm"]),
            Text(printable(key["backend"])),
            Text(str(version["version"])),
            Text(version["state"]),
            Text("in the backup" if version["private_key"] else "not in it"),
            Text(printable(version["kid"])),
        ]
        for key in document["keys"]
        for version in key["versions"]
    ]
    output.print_rows(("KEY", "ALGORITHM", "BACKEND", "VERSION", "STATE", "PRIVATE KEY", "KID"), rows)
    count = f"{len(document['keys'])} keys, {len(rows)} versions"
    click.echo(printable(f"whole: {count}, of {document['time']}, schema {document['schema']}, made by keyd {document['keyd']}"))


def restored_document(done: Restored, now: float) -> dict[str, Any]:
    """Return what a restore did as JSON-ready values."""
    memory = done.memory
    return {
        **document(done.contents, now),
        "proved": done.proved,
        "unproved_backends": list(done.unproved),
        "audit_trail": memory is not None,
        "changes_since": [dict(record.members) for record in memory.changes] if memory is not None else [],
    }


def show_restored(done: Restored) -> None:
    """Print what a restore did, and what is left to do."""
    backup, memory = done.contents.backup, done.memory
    records = done.contents.records
    click.echo(f"restored: {len(records.keys)} keys, {len(records.versions)} versions, as of {backup.time}")
    click.echo(f"{done.proved} private keys are those on record")
    for name in done.unproved:
        click.echo(printable(f"backend {name}: its private keys are in no backup; the daemon compares them when it starts"))
    for key, version in done.contents.interrupted:
        click.echo(printable(f"version {version} of {key} was being made: if its store has it, it is left alone"))
    if memory is None:
        output.warn([f"there is no audit trail to tell what was done since {backup.time}. {LOST}"])
        return
    for record in memory.changes:
        click.echo(one_line(record))
    click.echo(
        f"{len(memory.changes)} changes since ten minutes before, as the audit trail has them: {len(memory.compromised)} versions marked compromised, "
        f"{len(memory.destroyed)} destroyed and {len(memory.disabled) + len(memory.enabled)} keys disabled or enabled were taken over; the others were not"
    )
