"""``keyd directory``: key directories of Web Bot Auth, as verifiers see them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from keyd.cli import output, times
from keyd.cli.command import Group
from keyd.cli.errors import Rejected, printable
from keyd.cli.options import DURATION, Connection, daemon_options, json_option

if TYPE_CHECKING:
    from keyd.cli.directory_check import KeyVerdict, Verdict


@click.group(
    cls=Group,
    examples="""
    keyd directory check https://bot.example
    keyd directory check --issuer bot
    """,
)
def directory() -> None:
    """Look at key directories of Web Bot Auth."""


@directory.command(
    examples="""
    keyd directory check https://bot.example
    keyd directory check --issuer bot --via http://127.0.0.1:8470
    keyd directory check https://bot.example --json | jq -r '.directories[].keys[] | select(.cloudflare) | .thumbprint'
    """
)
@click.argument("url", required=False)
@click.option("--issuer", metavar="NAME", help="The directories at all hosts of this issuer, as the daemon has them.")
@click.option("--via", metavar="ORIGIN", help="Ask here in the place of the host, as a proxy would: http://127.0.0.1:8470.")
@click.option(
    "--max-time", type=DURATION, default="10s", show_default=True, metavar="DURATION", help="How long to wait for an answer."
)
@json_option
@daemon_options
@click.pass_context
def check(
    ctx: click.Context,
    connection: Connection,
    url: str | None,
    issuer: str | None,
    via: str | None,
    max_time: float,
    as_json: bool,
) -> None:
    """Fetch the directory of an origin as a verifier does, and say which of its keys Cloudflare would use.

    Exit code 0: the document is right, and each of its keys signs it; 1: not so.
    """
    from keyd.cli import directory_check

    if (url is None) == (issuer is None):
        raise click.UsageError("give URL or --issuer, one of them")
    if via is not None and not via.startswith(("http://", "https://")):
        raise click.UsageError(f"--via {via!r} is not an http or https origin")
    asked = [url] if url is not None else _hosts(connection, str(issuer))
    try:
        urls = [directory_check.url_of(each) for each in asked]
    except ValueError as exc:
        raise Rejected(str(exc)) from None
    try:
        verdicts = [directory_check.check(each, via=via, timeout=max_time) for each in urls]
    except directory_check.CheckError as exc:
        raise click.ClickException(str(exc)) from None
    if as_json:
        output.print_json({"directories": [_as_dict(verdict) for verdict in verdicts]})
    else:
        for verdict in verdicts:
            _print(verdict)
    if not all(verdict.sound for verdict in verdicts):
        ctx.exit(1)


def _hosts(connection: Connection, issuer: str) -> list[str]:
    with connection.client() as client:
        hosts = client.jwk_set(issuer=issuer).issuers[issuer]
    return [f"https://{host}" for host in sorted(hosts)]


def _as_dict(verdict: Verdict) -> dict[str, Any]:
    keys = [
        {
            "thumbprint": key.thumbprint,
            "kind": key.kind,
            "signs": not key.problem,
            "expires": key.expires,
            "cloudflare": not key.cloudflare,
            "message": key.cloudflare,
        }
        for key in verdict.keys
    ]
    return {"url": verdict.url, "sound": verdict.sound, "problems": verdict.problems, "keys": keys}


def _print(verdict: Verdict) -> None:
    from rich.text import Text

    click.echo(printable(verdict.url))
    for problem in verdict.problems:
        click.echo(f"  {printable(problem)}")
    rows = [
        (key.thumbprint or "-", key.kind, _signs(key), "uses it" if not key.cloudflare else f"no: {key.cloudflare}")
        for key in verdict.keys
    ]
    if rows:
        output.print_rows(("THUMBPRINT", "KEY", "SIGNS", "CLOUDFLARE"), [[Text(printable(cell)) for cell in row] for row in rows])


def _signs(key: KeyVerdict) -> str:
    if key.problem:
        return "no"
    return "yes" if key.expires is None else f"until {times.both(key.expires, time.time())}"
