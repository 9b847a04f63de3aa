"""``keyd config``: the daemon's configuration."""

from __future__ import annotations

from pathlib import Path

import click

from keyd.cli.command import Group
from keyd.cli.options import config_option


@click.group(
    cls=Group,
    examples="""
    keyd config check                       is it right? every problem is listed
    keyd config show                        what holds, defaults included
    """,
)
def config() -> None:
    """Check and show the daemon's configuration."""


@config.command(
    examples="""
    keyd config check
    keyd config check --config ./keyd.toml && systemctl reload keyd
    """
)
@config_option
def check(config_path: Path | None) -> None:
    """Check the configuration and list every problem with its place. Exit code 8 if there is one."""
    from keyd.config import find, load

    path = find(config_path)
    loaded = load(path)
    if loaded.kubernetes is not None:
        loaded.kubernetes.to_rules(loaded.jwks.max_age)  # reads the files of previous keys, as the daemon does when it starts
    click.echo(f"{path or 'no configuration file; the defaults'}: ok")


@config.command(
    examples="""
    keyd config show
    keyd config show --config ./keyd.toml
    """
)
@config_option
def show(config_path: Path | None) -> None:
    """Print the configuration that holds, defaults included. Secrets are not shown."""
    from keyd.config import find, load, render

    click.echo(render(load(find(config_path))).rstrip("\n"))
