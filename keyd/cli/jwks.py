"""``keyd jwks``: the published JWK Set, on the terminal or as files for somebody else to serve."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path

import click

from keyd.cli.command import Command
from keyd.cli.options import Connection, daemon_options, json_option


@click.command(
    cls=Command,
    examples="""
    keyd jwks
    keyd jwks agent > jwks.json
    keyd jwks --json | jq -r '.keys[0].kid'
    keyd jwks --issuer shop --out /srv/www/.well-known/jwks.json
    keyd jwks --out /srv/www/ --watch --on-change /usr/local/bin/upload
    """,
)
@click.argument("key", required=False, default="")
@click.option("--issuer", metavar="NAME", help="The set of this issuer's keys, as [issuers.NAME] has them.")
@click.option(
    "--out",
    metavar="PATH",
    type=click.Path(path_type=str),
    help="Write it to this file; with a directory (or a path that ends with /), everything that the endpoint serves.",
)
@click.option("--watch", is_flag=True, help="Stay, and write again whenever it changes.")
@click.option(
    "--on-change",
    "program",
    metavar="PROGRAM",
    type=click.Path(exists=True, dir_okay=False, executable=True, resolve_path=True, path_type=Path),
    help="Run this after each change, with PATH as its argument and a line of JSON for each changed file as its input.",
)
@json_option
@daemon_options
def jwks(
    connection: Connection, key: str, issuer: str | None, out: str | None, watch: bool, program: Path | None, as_json: bool
) -> None:
    """Print the JWK Set of KEY, or of all published keys, as the JWKS endpoint serves it. With --json it is on one line.

    With --out it becomes a file, the same octets as the endpoint's, for a CDN or an object store.
    """
    if key and issuer is not None:
        raise click.UsageError("give KEY or --issuer, not both")
    if out is None:
        if watch or program is not None:
            raise click.UsageError("--watch and --on-change need --out")
        with connection.client() as client:
            document = client.jwks(key or None, issuer=issuer)
        click.echo(json.dumps(document, indent=None if as_json else 2))
        return
    _publish(connection, key, issuer, out, watch, program, as_json)


def _publish(
    connection: Connection, key: str, issuer: str | None, out: str, watch: bool, program: Path | None, as_json: bool
) -> None:
    from keyd.cli import publish, publish_watch
    from keyd.cli.publish_tree import Tree, TreeError

    path = Path(out)
    with ExitStack() as stack:
        client = stack.enter_context(connection.client())
        try:
            tree = stack.enter_context(Tree(path).locked()) if out.endswith(os.sep) or path.is_dir() else None
            source: publish.Source
            if tree is None:
                source = publish.OneSet(client, path.name, key or None, issuer)
            elif key:
                source = publish.OneSet(client, f"keys/{key}/jwks.json", key, None)
            elif issuer is not None:
                source = publish.OneSet(client, ".well-known/jwks.json", None, issuer, beside=True)
            else:
                source = publish.Everything(client, stack.enter_context(connection.admin()))
            publisher = publish_watch.Publisher(path, tree, program, as_json=as_json)
            if watch:
                stop = stack.enter_context(publish_watch.Stop().listening())
                publish_watch.watch(source, publisher, stop)
            elif code := publish_watch.once(source, publisher):
                click.get_current_context().exit(code)
        except TreeError as exc:
            raise click.ClickException(str(exc)) from None
        except OSError as exc:
            raise click.ClickException(f"{exc.filename or path}: {exc.strerror}") from None
