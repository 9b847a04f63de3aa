"""``keyd backend``: the stores that hold the private keys."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keyd.cli import output
from keyd.cli.command import Group
from keyd.cli.errors import printable
from keyd.cli.key_view import algorithm_name
from keyd.cli.options import Connection, config_option, daemon_options, json_option

if TYPE_CHECKING:
    from backends.api import PolicyAuthor


@click.group(
    cls=Group,
    examples="""
    keyd backend list                       do they answer?
    keyd backend keys hsm                   what is in there, and what can be adopted
    keyd backend policy vault               what keyd must be allowed to do there
    """,
)
def backend() -> None:
    """Look into the stores that hold the private keys."""


@backend.command(
    "list",
    examples="""
    keyd backend list
    keyd backend list --json | jq -r '.backends[] | select(.failure != "") | .name'
    """,
)
@json_option
@daemon_options
def list_(connection: Connection, as_json: bool) -> None:
    """List the configured backends, and say what is wrong with those that fail."""
    with connection.admin() as admin:
        backends = admin.list_backends()
    if as_json:
        output.print_json({"backends": [output.to_dict(each) for each in backends]})
        return
    _print(
        ("NAME", "TYPE", "KEYS", "ALGORITHMS", "STATE"),
        [
            (each.name, each.type, str(each.key_count), ", ".join(map(algorithm_name, each.algorithms)), each.failure or "ok")
            for each in backends
        ],
    )


@backend.command(
    examples="""
    keyd backend keys hsm
    keyd backend keys vault --unrecorded    only what is on record nowhere
    """
)
@click.argument("name")
@click.option("--unrecorded", is_flag=True, help="Only key pairs that belong to no key on record; these can be adopted.")
@json_option
@daemon_options
def keys(connection: Connection, name: str, unrecorded: bool, as_json: bool) -> None:
    """List the key pairs that a backend holds, with the handles that `keyd key adopt` takes."""
    with connection.admin() as admin:
        stored = [each for each in admin.list_stored_keys(name) if not (unrecorded and each.kid)]
    if as_json:
        output.print_json({"keys": [output.to_dict(each) for each in stored]})
    elif stored:
        rows = [(each.handle, f"{each.key} {each.version}" if each.key else "-", each.kid or "-") for each in stored]
        _print(("HANDLE", "MADE FOR", "KID ON RECORD"), rows)
    else:
        output.note(f"backend {name} holds no such key pairs")


@backend.command(
    examples="""
    keyd backend policy vault | bao policy write keyd -
    keyd backend policy aws > keyd-policy.json
    """
)
@click.argument("name")
@config_option
def policy(name: str, config_path: Path | None) -> None:
    """Print the least that keyd must be allowed to do in a store, in the store's own policy language.

    NAME is a backend in the configuration, or else a backend type, for which its defaults hold. Nothing is contacted.
    """
    author, options = _author(name, config_path)
    click.echo(author.policy(options).rstrip("\n"))


def _print(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    from rich.text import Text

    output.print_rows(columns, ([Text(printable(cell)) for cell in row] for row in rows))


def _author(name: str, config_path: Path | None) -> tuple[PolicyAuthor, Any]:
    from backends.api import PolicyAuthor
    from keyd import plugins
    from keyd.config import find, load

    section = load(find(config_path)).backends.get(name)
    try:
        found = plugins.load(section.type if section is not None else name)
    except plugins.UnknownTypeError as error:
        raise click.UsageError(f"no backend of this name is configured, and {error}") from None
    if not issubclass(found, PolicyAuthor):
        raise click.UsageError(f"a store of type {section.type if section else name} has no access policies of its own")
    return found, section.options if section is not None else None
