"""``keyd jwks``: the published JWK Set."""

from __future__ import annotations

import json

import click

from keyd.cli.command import Command
from keyd.cli.options import Connection, daemon_options, json_option


@click.command(
    cls=Command,
    examples="""
    keyd jwks
    keyd jwks agent > jwks.json
    keyd jwks --json | jq -r '.keys[0].kid'
    """,
)
@click.argument("key", required=False, default="")
@json_option
@daemon_options
def jwks(connection: Connection, key: str, as_json: bool) -> None:
    """Print the JWK Set of KEY, or of all published keys, as the JWKS endpoint serves it. With --json it is on one line."""
    with connection.client() as client:
        document = client.jwks(key or None)
    click.echo(json.dumps(document, indent=None if as_json else 2))
