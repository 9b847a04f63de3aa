"""``keyd audit``: reads the audit trail and checks it."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keyd.cli import output
from keyd.cli.audit_known import Known, ask, number_of, read_json
from keyd.cli.audit_trails import followed, merged
from keyd.cli.audit_view import one_line, report_lines
from keyd.cli.command import Group
from keyd.cli.errors import printable
from keyd.cli.options import DURATION, Connection, config_option, daemon_options, json_option

if TYPE_CHECKING:
    from keyd.config import Config
    from keyd.core.audit.record import Record
    from keyd.core.audit.verify import Report
    from keyd.core.store.offline import AuditFacts

_BIG = 32 * 1024 * 1024
_DIGEST = re.compile(r"\s*([0-9a-fA-F]{64})(?:\s.*)?", re.DOTALL)


@click.group(
    cls=Group,
    examples="""
    keyd audit verify                       is the trail whole?
    keyd audit tail -f                      what is being signed now
    keyd audit grep --key agent --decision deny --since 1h
    """,
)
def audit() -> None:
    """Read and check the audit trail: who had what signed."""


@audit.command(
    examples="""
    keyd audit verify --live                with the running daemon's word for where the trail ends
    keyd audit verify --key audit-key.json /mnt/backup/audit
    """
)
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path), metavar="[PATH]...")
@click.option(
    "--key",
    "key_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="JWK or JWK Set of the audit key. Default: what the database or the daemon has.",
)
@click.option(
    "--database",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Metadata database whose checkpoints the trail must have. Default: the daemon's, unless a PATH is given.",
)
@click.option("--from", "begins", type=click.IntRange(1), metavar="SEQ", help="Records before this one were removed on purpose.")
@click.option("--live", is_flag=True, help="Ask the running daemon for the newest record, its checkpoints and the key.")
@config_option
@json_option
@daemon_options
@click.pass_context
def verify(
    ctx: click.Context,
    connection: Connection,
    paths: tuple[Path, ...],
    key_file: Path | None,
    database: Path | None,
    begins: int | None,
    live: bool,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Check the trail, and name the first record that was removed, altered or moved. Exit code 1 if there is one.

    PATH is a directory or files of a trail, copies too. Default: the directory that the configuration names, with the trail of every worker.
    """
    given = read_json(key_file) if key_file is not None else None
    heads, public_jwks = ask(connection) if live else ({}, "")
    config = None if paths else _config(config_path)
    trails = {number_of(paths[0]): paths} if config is None else _trails(config)
    reports = {}
    for number, trail in trails.items():
        known = Known(given)
        if number in heads:
            known.take_head(heads[number], public_jwks)
        elif config is not None and database is None:
            known.read(partial(_configured_facts, config, number), needed=key_file is None)
        if database is not None:
            known.read(partial(_facts_in, database, number), needed=True)
        first = begins or (1 if any(path.is_dir() for path in trail) else None)
        reports[number] = _verified(trail, known, first, progress=not as_json), known.notes
    sound = all(report.sound for report, _ in reports.values())
    if as_json:
        documents = {number: _document(report) for number, (report, _) in reports.items()}
        several = {"sound": sound, "trails": [{"worker": number, **each} for number, each in documents.items()]}
        output.print_json(next(iter(documents.values())) if len(documents) == 1 else several)
    else:
        for number, (report, notes) in reports.items():
            for line in report_lines(report, notes):
                click.echo(line if len(reports) == 1 else f"worker {number}: {line}")
    ctx.exit(0 if sound else 1)


@audit.command(
    examples="""
    keyd audit tail -n 100
    keyd audit tail -f --json | jq -r 'select(.decision == "deny") | .reason'
    """
)
@click.option("--follow", "-f", is_flag=True, help="Go on with records as they are written, across rotations.")
@click.option("--lines", "-n", type=click.IntRange(0, 1_000_000), default=10, show_default=True, help="How many records.")
@click.option("--path", type=click.Path(exists=True, path_type=Path), metavar="PATH", help="A directory or file of a trail.")
@config_option
@json_option
def tail(follow: bool, lines: int, path: Path | None, config_path: Path | None, as_json: bool) -> None:
    """Show the last records, one line each."""
    from keyd.core.audit import search

    trails = _trails_at(path, config_path)
    with _readable():
        newest = {number: search.last(_files([root]), max(lines, 1)) for number, root in trails.items()}
        _show(list(merged(newest))[-lines:] if lines else [], as_json, several=len(trails) > 1)
        if follow:
            ends = {number: records[-1].seq if records else 0 for number, records in newest.items()}
            directories = {number: root if root.is_dir() else root.parent for number, root in trails.items()}
            _show(followed(directories, ends), as_json, several=len(trails) > 1)


@audit.command(
    examples="""
    keyd audit grep --sha256 "$(sha256sum < base.txt)"
    keyd audit grep --principal uid:1000 --authority '*.example' --since 24h
    keyd audit grep --operation gap --json
    """
)
@click.option("--key", metavar="PATTERN", help="Name of the key; may have *, like the other patterns.")
@click.option("--kid", metavar="PATTERN", help="Kid that signed.")
@click.option("--principal", metavar="PATTERN", help="Whole identity of the caller, or a word of it, such as uid:1000.")
@click.option("--operation", metavar="PATTERN", help="sign, or an operator's call, or start, stop, gap, rotate, checkpoint.")
@click.option("--decision", type=click.Choice(["allow", "deny"]), help="What was decided.")
@click.option("--reason", metavar="PATTERN", help="Reason of a refusal, such as GRANT.")
@click.option("--authority", metavar="PATTERN", help="@authority of the request.")
@click.option("--sha256", metavar="DIGEST", help="SHA-256 of the signed bytes; what sha256sum prints will do.")
@click.option("--since", metavar="TIME", help="Not before this time: RFC 3339, or how long ago, such as 2h.")
@click.option("--until", metavar="TIME", help="Not after this time.")
@click.option("--path", type=click.Path(exists=True, path_type=Path), metavar="PATH", help="A directory or file of a trail.")
@config_option
@json_option
@click.pass_context
def grep(
    ctx: click.Context,
    /,
    principal: str | None,
    sha256: str | None,
    since: str | None,
    until: str | None,
    path: Path | None,
    config_path: Path | None,
    as_json: bool,
    **texts: str | None,
) -> None:
    """Show the records that match every option. Exit code 1 if there is none."""
    from keyd.core.audit import search

    texts["sha256"] = _digest(sha256) if sha256 is not None else None
    wanted = search.Filter(
        tuple((name, value) for name, value in texts.items() if value is not None),
        principal,
        _moment(since) if since else None,
        _moment(until) if until else None,
    )
    with _readable():
        trails = _trails_at(path, config_path)
        found = merged({number: search.matching(_files([root]), wanted) for number, root in trails.items()})
        ctx.exit(0 if _show(found, as_json, several=len(trails) > 1) else 1)


def _verified(paths: tuple[Path, ...], known: Known, begins: int | None, *, progress: bool) -> Report:
    from keyd.core.audit.verify import Verifier

    with _readable():
        for _ in range(5):
            found = _files(paths)
            before = _identities(found)
            with _progress(sum(path.stat().st_size for path in found), wanted=progress) as advance:
                report = Verifier(keys=known.keys, compromised=known.compromised, expected=known.expected, begins=begins).run(
                    found, advance
                )
            if report.sound or _identities(_files(paths)) == before:
                return report  # else the daemon rotated the trail meanwhile
    return report


@contextlib.contextmanager
def _progress(size: int, *, wanted: bool) -> Iterator[Callable[[int], object]]:
    if not wanted or size < _BIG or not output.on_terminal():
        yield lambda _: None
        return
    from rich.progress import Progress

    with Progress(console=output.console(), transient=True) as bar:
        task = bar.add_task("checking", total=size)
        seen = 0

        def advance(count: int) -> None:
            nonlocal seen
            seen += count
            if seen >= 1 << 20:
                bar.advance(task, seen)
                seen = 0

        yield advance


def _show(records: Iterable[tuple[int, Record]], as_json: bool, *, several: bool) -> int:
    """Show records, each with the number of the worker that wrote it where there are ``several``. Returns how many there were."""
    count = 0
    for worker, record in records:
        count += 1
        if as_json:
            click.echo(json.dumps({"worker": worker, **record.members} if several else record.members))
        else:
            click.echo(f"{worker} {one_line(record)}" if several else one_line(record))
    return count


def _document(report: Report) -> dict[str, Any]:
    findings = [
        {
            "file": str(each.place.file) if each.place else "",
            "line": each.place.line if each.place else 0,
            "message": each.message,
        }
        for each in report.findings
    ]
    return {
        "sound": report.sound,
        "records": report.records,
        "first": report.first,
        "last": report.last,
        "signed": report.signed,
        "findings": findings,
        "notes": report.notes,
    }


def _config(path: Path | None) -> Config:
    from keyd.config import find, load

    return load(find(path))


def _configured_facts(config: Config, worker: int) -> AuditFacts:
    """Ask the database of the configuration about the trail of a worker. Raises StoreUnavailableError."""
    from backends.errors import BackendConfigError
    from keyd.config.workers import replica_name
    from keyd.core.store.offline import shared_audit_facts

    if config.store.url is None:
        return _facts_in(config.server.state_dir / "keyd.db", worker)
    try:
        return shared_audit_facts(config.store.conninfo(), replica_name(config.store.replica, worker))
    except BackendConfigError as exc:
        raise click.ClickException(printable(str(exc))) from None


def _facts_in(database: Path, worker: int) -> AuditFacts:
    from keyd.config.workers import trail_owner
    from keyd.core.store.offline import audit_facts

    return audit_facts(database, trail_owner(worker))


def _trails(config: Config) -> dict[int, tuple[Path, ...]]:
    """Return the directory of each worker's trail; that of the first also where there is nothing in it."""
    from keyd.config.workers import trail_directories
    from keyd.core.audit import files

    with _readable():
        found = trail_directories(_directory(config))
        return {number: (path,) for number, path in found.items() if number == 1 or files.in_directory(path)}


def _trails_at(path: Path | None, config_path: Path | None) -> dict[int, Path]:
    """Return where the trails are that are to be read, by the number of their worker."""
    if path is not None:
        return {number_of(path): path}
    return {number: directory for number, (directory,) in _trails(_config(config_path)).items()}


def _directory(config: Config) -> Path:
    if not config.audit.enabled or "file" not in config.audit.to:
        raise click.ClickException("the configuration keeps no audit trail in files; name a PATH")
    assert config.audit.path is not None
    return config.audit.path


def _files(paths: Iterable[Path]) -> list[Path]:
    from keyd.core.audit import files

    found: list[Path] = []
    with _readable():
        for path in paths:
            found += files.in_directory(path) if path.is_dir() else [path]
    if not found:
        raise click.ClickException("there are no files of an audit trail there")
    return found


def _identities(paths: Iterable[Path]) -> list[tuple[str, int]]:
    return [(path.name, path.stat().st_ino) for path in paths]


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError) as exc:
        if isinstance(exc, BrokenPipeError):
            raise
        name = getattr(exc, "filename", None)
        raise click.ClickException(
            printable(f"cannot read {name or 'the trail'}: {getattr(exc, 'strerror', None) or exc}")
        ) from None


def _digest(text: str) -> str:
    match = _DIGEST.fullmatch(text)
    if match is None:
        raise click.UsageError("--sha256 takes 64 hexadecimal digits, such as sha256sum prints")
    return match[1].lower()


def _moment(text: str) -> str:
    from datetime import UTC, datetime

    from keyd.core.audit.record import timestamp

    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return timestamp(time.time() - DURATION.convert(text, None, None))
    return timestamp((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())
