"""``keyd completion``: completion for shells."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from keyd.cli.command import Command

_INSTALL = {
    "bash": "keyd completion bash > ~/.local/share/bash-completion/completions/keyd",
    "zsh": "keyd completion zsh > ~/.zfunc/_keyd   (with ~/.zfunc in fpath before compinit)",
    "fish": "keyd completion fish > ~/.config/fish/completions/keyd.fish",
}


@click.command(
    cls=Command,
    examples="""
    keyd completion bash > ~/.local/share/bash-completion/completions/keyd
    keyd completion zsh > ~/.zfunc/_keyd
    keyd completion fish > ~/.config/fish/completions/keyd.fish
    eval "$(keyd completion bash)"          for this shell only
    """,
)
@click.argument("shell", type=click.Choice(list(_INSTALL)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for SHELL; its last line says how to install it."""
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"no completion for {shell}")
    script = kind(ctx.find_root().command, {}, "keyd", "_KEYD_COMPLETE")
    # Not .source(): for bash that runs whichever bash is first in PATH to ask for its version.
    click.echo((script.source_template % script.source_vars()).strip())
    click.echo(f"# install it with: {_INSTALL[shell]}")
