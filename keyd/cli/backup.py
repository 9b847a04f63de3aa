"""``keyd backup``: makes backups, looks into them, and restores them."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keyd.cli import backup_view, output, prompts
from keyd.cli.command import Group
from keyd.cli.errors import printable
from keyd.cli.options import config_option, json_option, yes_option

if TYPE_CHECKING:
    from keyd.config import Config
    from keyd.core.backup import Contents


@click.group(
    cls=Group,
    examples="""
    keyd backup create keyd.backup          metadata, and key files as they are: encrypted
    keyd backup verify keyd.backup          is it whole, and what is in it?
    keyd backup restore keyd.backup         into an empty database, with the daemon stopped
    """,
)
def backup() -> None:
    """Back up keyd's metadata, and private keys in encrypted files; never the key that they are encrypted under."""


_file_argument = click.argument("file", type=click.Path(path_type=Path, allow_dash=True))


@backup.command(
    examples="""
    keyd backup create /mnt/backup/keyd-$(date +%F)
    keyd backup create - | ssh store.example 'cat > keyd.backup'
    """
)
@_file_argument
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@config_option
def create(file: Path, config_path: Path | None, force: bool) -> None:
    """Write a backup to FILE, or to stdout if that is -. The daemon may run meanwhile; use its user.

    What the backup does not have is said on stderr: private keys outside of files, and the key that files are encrypted under.
    """
    from keyd import backup as backups
    from keyd.core.backup.place import pour, save

    if str(file) == "-" and output.on_terminal():
        raise click.UsageError("a backup is no text; name a FILE, or send stdout somewhere else")
    with _told():
        _harden()
        made = backups.create(_config(config_path))
        if str(file) == "-":
            pour(made, sys.stdout.buffer)
        else:
            save(made, file, replace=force)
    output.warn(backup_view.not_in_it(made))


@backup.command(
    examples="""
    keyd backup verify keyd.backup
    keyd backup verify keyd.backup --json | jq '.keys[] | {name, state}'
    """
)
@_file_argument
@json_option
def verify(file: Path, as_json: bool) -> None:
    """Check that a backup is whole and can be restored by this keyd, and show what is in it. Needs neither daemon nor configuration."""
    with _told():
        contents = _contents(file)
    document = backup_view.document(contents, time.time())
    if as_json:
        output.print_json(document)
    else:
        backup_view.show(document)
        output.warn(backup_view.not_in_it(contents.backup))


@backup.command(
    examples="""
    keyd backup restore keyd.backup
    keyd backup restore keyd.backup --disabled          and let keys sign one by one: keyd key enable NAME
    """
)
@_file_argument
@click.option(
    "--skip-numbers",
    "skip",
    type=click.IntRange(0, 1_000_000),
    metavar="N",
    help="Version numbers of each key to leave out, because they may have been used since. Default: 1000.",
)
@click.option(
    "--trail",
    "trails",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Audit trail of another replica, to read besides one's own. Can be given more than once.",
)
@click.option("--disabled", is_flag=True, help="Disable every key: nothing is signed before you enabled it.")
@yes_option
@config_option
@json_option
def restore(
    file: Path, skip: int | None, trails: tuple[Path, ...], config_path: Path | None, disabled: bool, yes: bool, as_json: bool
) -> None:
    """Put a backup back, with the daemon stopped and into an empty database. Nothing that is there is replaced.

    What was done after the backup was made is unknown again, as far as the audit trail does not remember it.
    """
    from keyd import backup as backups

    with _told():
        _harden()
        config = _config(config_path)
        contents = _contents(file)
        prompts.confirm(f"Restore the state of {contents.backup.time}? {backup_view.LOST}", yes=yes)
        now = time.time()
        done = backups.restore(
            config,
            contents,
            skip=backups.SKIP if skip is None else skip,
            disabled_at=now if disabled else None,
            trails=trails,
        )
        if config.store.url is not None and not trails:
            output.warn(["what was stopped at other replicas since the backup is in their audit trails only; see --trail"])
    if as_json:
        output.print_json(backup_view.restored_document(done, now))
    else:
        backup_view.show_restored(done)


def _contents(file: Path) -> Contents:
    from keyd.core.backup import Backup, Contents
    from keyd.core.backup.place import load

    return Contents.of(Backup.read(sys.stdin.buffer) if str(file) == "-" else load(file))


def _config(path: Path | None) -> Config:
    from keyd.config import find, load

    return load(find(path))


def _harden() -> None:
    """Keep what is made from others, and what a backend decrypts from a core dump."""
    from keyd import process

    for shortcoming in process.harden():
        output.warn([shortcoming])


@contextlib.contextmanager
def _told() -> Iterator[None]:
    from backends.errors import BackendError
    from keyd.core.backup import BackupError
    from keyd.core.errors import KeydError
    from keyd.core.store.dump import DumpError
    from keyd.process import ProcessError

    try:
        yield
    except (BackupError, DumpError, BackendError, KeydError, ProcessError) as exc:
        raise click.ClickException(printable(str(exc))) from None
