"""``keyd serve`` and ``keyd demo``: running the daemon."""

from __future__ import annotations

from pathlib import Path

import click

from keyd.cli.command import Command
from keyd.cli.options import config_option


@click.command(
    cls=Command,
    examples="""
    keyd serve
    keyd serve --config /etc/keyd/keyd.toml
    """,
)
@config_option
@click.pass_context
def serve(ctx: click.Context, config_path: Path | None) -> None:
    """Run the daemon until it is stopped (SIGTERM, Ctrl-C). SIGHUP reloads the configuration."""
    from keyd import process

    process.prepare_grpc()
    with process.settling():
        from keyd.config import find
        from keyd.workers.serve import run

    ctx.exit(run(find(config_path)))


@click.command(
    cls=Command,
    examples="""
    keyd demo
    keyd demo --backend pkcs11              the same with the key in a SoftHSM token
    """,
)
@click.option(
    "--backend",
    type=click.Choice(["file", "pkcs11", "vault", "aws"]),
    default="file",
    help="Where the key lives: an encrypted file, SoftHSM, OpenBao, or moto's KMS; each is started for the demo alone.",
)
@click.pass_context
def demo(ctx: click.Context, backend: str) -> None:
    """Show what keyd does, with a daemon and keys of its own that are gone afterwards."""
    from keyd.demo import run

    ctx.exit(run(backend))
