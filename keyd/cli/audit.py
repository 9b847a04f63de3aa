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
from keyd.cli.audit_view import one_line, report_lines
from keyd.cli.command import Group
from keyd.cli.errors import printable
from keyd.cli.options import DURATION, Connection, config_option, daemon_options, json_option

if TYPE_CHECKING:
    from keyd.config import Config
    from keyd.core.audit.record import Record
    from keyd.core.audit.verify import Expected, Keys, Report
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

    PATH is a directory or files of a trail, copies too. Default: the directory that the configuration names.
    """
    known = _Known(_json(key_file) if key_file is not None else None)
    if live:
        known.ask(connection)
    if not paths:
        config = _config(config_path)
        paths = (_directory(config),)
        if database is None and not live:
            known.read(partial(_configured_facts, config), needed=key_file is None)
    if database is not None:
        from keyd.core.store.offline import audit_facts

        known.read(partial(audit_facts, database), needed=True)
    begins = begins or (1 if any(path.is_dir() for path in paths) else None)
    report = _verified(paths, known, begins, progress=not as_json)
    if as_json:
        output.print_json(_document(report))
    else:
        for line in report_lines(report, known.notes):
            click.echo(line)
    ctx.exit(0 if report.sound else 1)


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

    root = path or _directory(_config(config_path))
    with _readable():
        found = search.last(_files([root]), lines)
        newest = search.last(_files([root]), 1) if follow and not found else found
        _show(found, as_json)
        if follow:
            directory = root if root.is_dir() else root.parent
            _show(search.follow(directory, newest[-1].seq if newest else 0), as_json)


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
        found = search.matching(_files([path or _directory(_config(config_path))]), wanted)
        ctx.exit(0 if _show(found, as_json) else 1)


class _Known:
    """What others say of a trail."""

    def __init__(self, document: Any) -> None:
        """``document`` is the key that the caller gave, which none from elsewhere takes the place of."""
        self.keys: Keys | None = None if document is None else _keys(document)
        self.compromised: frozenset[str] = frozenset()
        self.expected: list[Expected] = []
        self.notes: list[str] = []

    def ask(self, connection: Connection) -> None:
        from keyd.core.audit.verify import Expected

        with connection.admin() as admin:
            head = admin.audit_head()
        if not head.enabled:
            raise click.ClickException("the daemon keeps no audit trail (audit.enabled = false)")
        if head.failure:
            self.notes.append(f"the daemon cannot record at present: {head.failure}")
        self._take(json.loads(head.public_jwks))
        self.expected += [Expected(row.seq, row.digest, "the database") for row in head.checkpoints]
        self.expected.append(Expected(head.seq, head.digest, "the running daemon"))

    def read(self, facts_of: Callable[[], AuditFacts], *, needed: bool) -> None:
        """Ask a database. ``needed``: nothing else can check signatures, or the caller named it; nothing would be proved."""
        from keyd.core.audit.verify import Expected
        from keyd.core.errors import StoreUnavailableError

        try:
            facts = facts_of()
        except StoreUnavailableError as exc:
            if needed:
                raise click.ClickException(printable(f"{exc}; --key FILE checks the trail without it")) from None
            self.notes.append(f"{exc}; a cut tail is found with its help only")
            return
        self._take(facts.public_jwks)
        self.expected += [Expected(seq, digest, "the database") for seq, digest in facts.checkpoints]

    def _take(self, jwks: dict[str, Any]) -> None:
        from keyd.core.audit.checkpoints import compromised_of

        self.compromised |= compromised_of(jwks)
        if self.keys is None:
            self.keys = _keys(jwks) if jwks["keys"] else {}  # with no key at all, no checkpoint is good


def _verified(paths: tuple[Path, ...], known: _Known, begins: int | None, *, progress: bool) -> Report:
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


def _show(records: Iterable[Record], as_json: bool) -> int:
    count = 0
    for record in records:
        count += 1
        click.echo(json.dumps(record.members) if as_json else one_line(record))
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


def _configured_facts(config: Config) -> AuditFacts:
    """Ask the database of the configuration. Raises StoreUnavailableError."""
    from backends.errors import BackendConfigError
    from keyd.core.store.offline import audit_facts, shared_audit_facts

    if config.store.url is None:
        return audit_facts(config.server.state_dir / "keyd.db")
    try:
        return shared_audit_facts(config.store.conninfo(), config.store.replica)
    except BackendConfigError as exc:
        raise click.ClickException(printable(str(exc))) from None


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


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes()[: 1 << 20]) or {}
    except (OSError, ValueError, RecursionError):
        raise click.ClickException(f"{printable(str(path))} is not JSON") from None


def _keys(document: Any) -> Keys:
    from keyd.core.audit.checkpoints import keys_of

    try:
        return keys_of(document)
    except ValueError as exc:
        raise click.ClickException(f"the audit key cannot be read: {exc}") from None


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
