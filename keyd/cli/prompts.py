"""Questions before what cannot be undone."""

from __future__ import annotations

import sys

import click


def interactive() -> bool:
    """Tell whether there is someone to ask."""
    return sys.stdin.isatty()


def confirm(question: str, *, yes: bool) -> None:
    """Go on only if the answer is yes.

    Raises:
        click.UsageError: nobody can be asked and ``yes`` is not set; exit code 2.
        click.ClickException: the answer is no.
    """
    if yes:
        return
    _need_terminal()
    if not click.confirm(question, default=False, err=True):
        raise click.ClickException("nothing was done")


def type_name(warning: str, name: str, *, yes: bool) -> None:
    """Go on only if the name of the key is typed. Raises as :func:`confirm`."""
    if yes:
        return
    _need_terminal()
    click.echo(warning, err=True)
    if click.prompt(f"Type the name of the key ({name}) to go on", err=True) != name:
        raise click.ClickException("that is not the name of the key; nothing was done")


def _need_terminal() -> None:
    if not interactive():
        raise click.UsageError("this asks for confirmation and there is no terminal; repeat it with --yes if you mean it")
