"""The command line ``keyd``. Commands import what they need when they run, so that all but ``serve`` start fast."""

from __future__ import annotations

from typing import Any

import click

from keyd import __version__
from keyd.cli import (
    audit,
    backend,
    backup,
    bench,
    completion,
    config,
    directory,
    jwks,
    key,
    key_adopt,
    key_archive,
    key_import,
    key_rotation,
    policy,
    request,
    serve,
    session,
    sign,
    token,
)
from keyd.cli.options import DURATION, Connection
from keyd.cli.root import Root


@click.group(
    "keyd",
    cls=Root,
    examples="""
    keyd demo                               see what keyd does, without setting anything up
    keyd serve                              run the daemon
    keyd key create agent                   make a key
    keyd request GET https://api.example/ --key agent
    """,
)
@click.option(
    "--address",
    metavar="ADDRESS",
    envvar="KEYD_ADDRESS",
    show_envvar=True,
    help="Address of the daemon, e.g. unix:/run/keyd/keyd.sock or keyd.example:8471.",
)
@click.option("--timeout", metavar="DURATION", type=DURATION, help="How long to wait for the daemon, e.g. 5s.")
@click.option(
    "--certificate",
    metavar="FILE",
    envvar="KEYD_CERTIFICATE",
    show_envvar=True,
    help="Over TCP, the certificate that keyd knows you by.",
)
@click.option("--private-key", metavar="FILE", envvar="KEYD_PRIVATE_KEY", show_envvar=True, help="Its private key.")
@click.option("--ca", metavar="FILE", envvar="KEYD_CA", show_envvar=True, help="The authorities of keyd's own certificate.")
@click.version_option(__version__, prog_name="keyd", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, /, **connection: Any) -> None:
    """The signing daemon that takes private keys out of AI agents.

    keyd holds private keys in a backend and signs HTTP requests (RFC 9421) and JWTs for agents that ask over a socket.
    """
    ctx.obj = Connection(**connection)


cli.add_command(serve.serve)
cli.add_command(serve.demo)
key.key.add_command(key_import.import_)
key.key.add_command(key_adopt.adopt)
key.key.add_command(key_archive.archive)
for command in key_rotation.COMMANDS:
    key.key.add_command(command)
cli.add_command(key.key)
cli.add_command(session.session)
cli.add_command(token.token)
cli.add_command(backend.backend)
cli.add_command(audit.audit)
cli.add_command(backup.backup)
cli.add_command(sign.sign)
cli.add_command(sign.jwt)
cli.add_command(jwks.jwks)
cli.add_command(directory.directory)
cli.add_command(request.request)
cli.add_command(bench.bench)
cli.add_command(config.config)
cli.add_command(policy.policy)
cli.add_command(completion.completion)


def main() -> None:
    """Run the command line on ``sys.argv`` and exit."""
    cli(prog_name="keyd")
