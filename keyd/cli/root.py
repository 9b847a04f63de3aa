"""The outermost group: the one place where failures become a message and an exit code."""

from __future__ import annotations

from typing import Any

import click

from keyd.cli import errors
from keyd.cli.command import Group


class Root(Group):
    """Runs commands; turns what they raise into ``keyd: <message>``, a hint, and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Usage errors stay click's: exit code 2."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort):
            click.echo(err=True)
            ctx.exit(errors.INTERRUPTED)
        except Exception as exc:
            failure = errors.explain(exc)
            if failure is None:
                raise
            for line in failure.lines:
                click.echo(f"keyd: {line}", err=True)
            if failure.hint:
                click.echo(f"  {failure.hint}", err=True)
            ctx.exit(failure.exit_code)
