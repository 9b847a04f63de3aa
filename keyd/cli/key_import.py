"""``keyd key import``: brings in a private key that lives elsewhere."""

from __future__ import annotations

import shlex
import time
from typing import Any

import click

from keyd.cli import key_view, output, private_key
from keyd.cli.command import Command
from keyd.cli.key import given
from keyd.cli.options import Connection, daemon_options, json_option, key_spec_options


@click.command(
    "import",
    cls=Command,
    examples="""
    keyd key import agent agent-key.pem
    keyd key import agent private.jwk --kid agent-2024
    keyd key import agent --env-file .env --var AGENT_PRIVATE_KEY
    keyd key import legacy rsa.pem --algorithm PS512
    openssl pkey -in encrypted.pem | keyd key import agent -
    """,
)
@click.argument("name")
@click.argument("file", required=False, metavar="[FILE|-]")
@click.option("--env-file", metavar="FILE", help="Read the key from a variable of this .env file.")
@click.option("--var", "variable", metavar="NAME", help="The variable of --env-file that holds the PEM or JWK.")
@click.option("--kid", metavar="KID", help="The kid under which verifiers already know this key.")
@key_spec_options
@json_option
@daemon_options
def import_(
    connection: Connection,
    name: str,
    file: str | None,
    env_file: str | None,
    variable: str | None,
    kid: str | None,
    as_json: bool,
    **spec: Any,
) -> None:
    """Make a key from private material: PKCS#8 PEM or a private JWK, told apart by content.

    FILE is read and not copied; - reads standard input. RSA keys need --algorithm PS512 or RS256.
    """
    if (file is None) == (env_file is None):
        raise click.UsageError("give FILE (or -), or --env-file with --var")
    if (env_file is None) != (variable is None):
        raise click.UsageError("--env-file and --var go together")
    source = file if file is not None else str(env_file)
    if source == "-" and private_key.stdin_is_terminal():
        raise click.UsageError("- reads a private key from a pipe, not from the terminal")
    data = private_key.read_source(source)
    if variable is not None:
        data = private_key.from_env_file(data, variable, source)
    material = private_key.detect(data, source if variable is None else f"{variable} in {source}")
    with connection.admin() as admin:
        response = admin.import_key(name, **given({**spec, "kid": kid, material.kind: material.data}))
    output.warn(response.warnings)
    if as_json:
        output.print_json(response)
    else:
        key_view.print_key(response.key, time.time())
    _say_what_is_left(name, source, variable)


def _say_what_is_left(name: str, source: str, variable: str | None) -> None:
    if source == "-":
        output.note("where this came from still holds the private key; remove it there, and from backups")
    elif variable is not None:
        output.note(
            f"{source} still holds the private key; delete {variable} there, and look for it in version control and backups"
        )
    else:
        output.note(f"{source} still holds the private key; remove it with: shred -u {shlex.quote(source)}")
    output.note(f"whoever has read it can still sign with it; to be rid of that key: keyd key rotate {name}")
