"""``keyd session``: the open sessions of a daemon."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import click

from keyd.cli import output, prompts
from keyd.cli.command import Group
from keyd.cli.errors import printable
from keyd.cli.options import Connection, daemon_options, json_option, yes_option
from keyd.cli.times import relative, rfc3339

if TYPE_CHECKING:
    from keyd.client.model import ListedSession, RevokedToken


@click.group(
    cls=Group,
    examples="""
    keyd session list                       who has a session, and what it does
    keyd session revoke 5f1c                end one, and put its tokens on the list
    """,
)
def session() -> None:
    """Look at the sessions that agents have open, and end them."""


@session.command(
    "list",
    examples="""
    keyd session list
    keyd session list --issuer-key agents-1
    keyd session list --json | jq -r '.sessions[] | select(.renewal_error != "") | .name'
    """,
)
@click.option("--issuer-key", metavar="KEY", default="", help="Only those whose tokens this key signs.")
@json_option
@daemon_options
def list_(connection: Connection, issuer_key: str, as_json: bool) -> None:
    """List the open sessions of this daemon, oldest first. Each replica has its own."""
    with connection.admin() as admin:
        sessions = admin.list_sessions(issuer_key)
    if as_json:
        output.print_json({"sessions": [_to_json(each) for each in sessions]})
    elif sessions:
        _print(sessions)
    else:
        output.note("there is no open session")


@session.command(
    examples="""
    keyd session revoke 5f1c
    keyd session revoke 5f1c --yes --json | jq -r '.tokens[].token_id'
    """
)
@click.argument("name")
@yes_option
@json_option
@daemon_options
def revoke(connection: Connection, name: str, yes: bool, as_json: bool) -> None:
    """End the session NAME and those of its sub-agents, and put their tokens on the list of those revoked."""
    prompts.confirm(f"End session {printable(name)}? Its key is gone then, and its agent has to open another one.", yes=yes)
    with connection.admin() as admin:
        tokens = admin.revoke_session(name)
    if as_json:
        output.print_json({"tokens": [entry_of(each) for each in tokens]})
    else:
        click.echo(f"{printable(name)}: ended; {len(tokens)} of its tokens are revoked")


def times_of(value: Any, *names: str) -> dict[str, str]:
    """Return times of a value as JSON has them."""
    return {name: rfc3339(getattr(value, name)) for name in names}


def entry_of(token: RevokedToken) -> dict[str, Any]:
    """Return an entry of the list of revoked tokens as JSON has it. Warnings are on stderr, as everywhere."""
    members = dataclasses.asdict(token) | times_of(token, "expires", "revoked")
    del members["warnings"]
    return members


def _to_json(found: ListedSession) -> dict[str, Any]:
    return dataclasses.asdict(found) | times_of(found, "created", "last_used", "token_expires")


def _print(sessions: list[ListedSession]) -> None:
    from rich.text import Text

    now = time.time()
    rows = [
        (
            each.name,
            each.subject or "-",
            each.kind,
            each.issuer_key,
            each.grant,
            each.principal,
            relative(each.created, now),
            relative(each.last_used, now),
            str(each.signatures),
            each.renewal_error or relative(each.token_expires, now),
        )
        for each in sessions
    ]
    columns = ("NAME", "AGENT", "KIND", "ISSUER KEY", "GRANT", "PRINCIPAL", "OPENED", "USED", "SIGNATURES", "TOKEN ENDS")
    output.print_rows(columns, ([Text(printable(cell)) for cell in row] for row in rows))
