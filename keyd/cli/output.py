"""What commands print: JSON for programs; text for people."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from keyd.cli.errors import printable

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from rich.console import Console
    from rich.text import Text

_UNLIMITED = 10_000  # columns; a pipe has no edge at which to fold or cut


def to_dict(message: Message) -> dict[str, Any]:
    """Return a message as JSON-ready values: proto field names, enums by name, bytes as base64, ``public_jwk`` as an object."""
    from google.protobuf.json_format import MessageToDict

    members: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    _parse_jwks(members)
    return members


def _parse_jwks(value: Any) -> None:
    if isinstance(value, dict):
        if isinstance(value.get("public_jwk"), str) and value["public_jwk"]:
            value["public_jwk"] = json.loads(value["public_jwk"])
        for member in value.values():
            _parse_jwks(member)
    elif isinstance(value, list):
        for item in value:
            _parse_jwks(item)


def print_json(value: Message | dict[str, Any]) -> None:
    """Print a message or an object as JSON. ASCII only, so that nothing in it can steer a terminal."""
    click.echo(json.dumps(value if isinstance(value, dict) else to_dict(value), indent=2))


def warn(warnings: Iterable[str]) -> None:
    """Print warnings to stderr."""
    for warning in warnings:
        click.echo(f"warning: {printable(warning)}", err=True)


def note(text: str) -> None:
    """Print a line for people to stderr, where it is in no program's way."""
    click.echo(printable(text), err=True)


def on_terminal() -> bool:
    """Tell whether people see what is printed."""
    return sys.stdout.isatty()


def console() -> Console:
    """Return the console for people: coloured on a terminal only, and cut nowhere."""
    from rich.console import Console

    terminal = on_terminal()
    return Console(
        highlight=False,
        emoji=False,
        markup=False,
        color_system="auto" if terminal and not os.environ.get("NO_COLOR") else None,
        force_terminal=terminal,
        width=None if terminal else _UNLIMITED,
    )


def print_rows(columns: Iterable[str], rows: Iterable[Iterable[Text]]) -> None:
    """Print a table; into a pipe, one line a row."""
    from rich import box
    from rich.table import Table

    out = console()
    table = Table(box=box.SIMPLE_HEAD if out.is_terminal else None, padding=(0, 1, 0, 0), pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=not out.is_terminal, min_width=len(column))
    for row in rows:
        table.add_row(*row)
    out.print(table)


def write_bytes(data: bytes) -> None:
    """Write octets to stdout as they are."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def write_body(data: bytes) -> None:
    """Write what a server sent: as it is into a pipe; on a terminal without its control characters."""
    if not on_terminal():
        write_bytes(data)
        return
    for line in data.decode("utf-8", "replace").splitlines():
        click.echo(printable(line.expandtabs()))


def base64_text(data: bytes) -> str:
    """Return base64 with padding (RFC 4648 section 4)."""
    return base64.b64encode(data).decode()


def base64url_text(data: bytes) -> str:
    """Return base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
