"""``keyd key adopt``: takes over a key pair where it lives."""

from __future__ import annotations

import time
from typing import Any

import click

from keyd.cli import key_view, output
from keyd.cli.command import Command
from keyd.cli.key import given
from keyd.cli.options import Connection, daemon_options, json_option, key_spec_options


@click.command(
    cls=Command,
    examples="""
    keyd backend keys hsm --unrecorded      which key pairs are there?
    keyd key adopt agent 'id=0a17' --backend hsm
    keyd key adopt legacy 'orders:3' --backend vault --kid orders-2024
    keyd key adopt old-rsa 1234abcd-12ab-34cd-56ef-1234567890ab --backend aws --algorithm PS512
    """,
)
@click.argument("name")
@click.argument("handle")
@click.option("--kid", metavar="KID", help="The kid under which verifiers already know this key.")
@key_spec_options
@json_option
@daemon_options
def adopt(connection: Connection, name: str, handle: str, as_json: bool, **spec: Any) -> None:
    """Make a key from a key pair that its backend holds already.

    HANDLE is the backend's reference to it, as `keyd backend keys` shows it. The key pair stays where it is; later versions are
    made by keyd. RSA key pairs need --algorithm PS512 or RS256.
    """
    with connection.admin() as admin:
        response = admin.adopt_key(name, handle, **given(spec))
    output.warn(response.warnings)
    if as_json:
        output.print_json(response)
    else:
        key_view.print_key(response.key, time.time())
