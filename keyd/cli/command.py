"""Commands and groups whose help ends with examples."""

from __future__ import annotations

import textwrap
from typing import Any

import click

_CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Command(click.Command):
    """A command with ``examples``: lines that are shown as they stand at the end of its help."""

    def __init__(self, name: str | None, *, examples: str, **kwargs: Any) -> None:
        super().__init__(name, context_settings=_CONTEXT, **kwargs)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        write_examples(self.examples, formatter)


class Group(click.Group):
    """A group with ``examples``; its commands are :class:`Command` too."""

    command_class = Command

    def __init__(self, name: str | None, *, examples: str, **kwargs: Any) -> None:
        super().__init__(name, context_settings=_CONTEXT, **kwargs)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        write_examples(self.examples, formatter)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which they were added."""
        return list(self.commands)


def write_examples(examples: str, formatter: click.HelpFormatter) -> None:
    """Write an "Examples" section; lines are kept as they are."""
    with formatter.section("Examples"):
        for line in textwrap.dedent(examples).strip().splitlines():
            formatter.write(" " * formatter.current_indent + line + "\n")
