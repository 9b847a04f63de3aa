"""``keyd key archive``: every public key that there ever was, so that old signatures can be verified."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from keyd.cli import errors, key_view, output, times
from keyd.cli.command import Command
from keyd.cli.errors import printable
from keyd.cli.options import Connection, daemon_options, json_option

if TYPE_CHECKING:
    from keyd.v1 import types_pb2


class _Unknown(click.ClickException):
    exit_code = errors.NOT_FOUND


@click.command(
    cls=Command,
    examples="""
    keyd key archive                        every version of every key that there ever was
    keyd key archive agent --json
    keyd key archive --kid "$KID" > old.jwk to verify a signature of years ago
    """,
)
@click.argument("name", required=False)
@click.option("--kid", metavar="KID", help="Print the public JWK of this kid, or thumbprint, and nothing else.")
@json_option
@daemon_options
def archive(connection: Connection, name: str | None, kid: str | None, as_json: bool) -> None:
    """Show all versions that were ever recorded, of NAME or of every key, with their kids and times; none is ever removed.

    That a kid is here does not mean that what it signed is to be trusted: look at its state, and at when it signed.
    """
    with connection.admin() as admin:
        keys = [admin.get_key(name)] if name is not None else list(admin.list_keys())
    if kid is not None:
        click.echo(json.dumps(_found(keys, kid), indent=None if as_json else 2))
    elif as_json:
        output.print_json({"versions": [_entry(key, version) for key in keys for version in key.versions]})
    else:
        _show(keys)


def _found(keys: Iterable[types_pb2.Key], kid: str) -> dict[str, Any]:
    found = [(key, version) for key in keys for version in key.versions if kid in (version.kid, version.thumbprint)]
    if not found:
        raise _Unknown(f"no version that you may see has ever had the kid {printable(kid)}")
    key, version = found[0]
    return _jwk(key, version)


def _jwk(key: types_pb2.Key, version: types_pb2.KeyVersion) -> dict[str, Any]:
    members: dict[str, Any] = json.loads(version.public_jwk)
    return {**members, "kid": version.kid, "alg": key_view.algorithm(key)}


def _entry(key: types_pb2.Key, version: types_pb2.KeyVersion) -> dict[str, Any]:
    entry = output.to_dict(version)
    entry["public_jwk"] = _jwk(key, version)
    return entry


def _show(keys: Iterable[types_pb2.Key]) -> None:
    from rich.text import Text

    rows = []
    for key in keys:
        for version in key.versions:
            line = version.timeline
            rows.append(
                [
                    Text(printable(version.kid), "bold"),
                    Text(printable(key.name)),
                    Text(str(version.version)),
                    Text(key_view.algorithm(key)),
                    Text(key_view.state(version)),
                    Text(_time(key_view.seconds(line.activate_time) if line.HasField("activate_time") else None)),
                    Text(_time(_ends(version))),
                ]
            )
    output.print_rows(("KID", "KEY", "VERSION", "ALGORITHM", "STATE", "SIGNS FROM", "SIGNS UNTIL"), rows)
    if not rows:
        output.note("no key was ever recorded")


def _ends(version: types_pb2.KeyVersion) -> float | None:
    """Return when a version stops signing, in seconds since the epoch; None while that is not known."""
    line = version.timeline
    ends = [
        key_view.seconds(at)
        for field, at in (
            ("sign_until_time", line.sign_until_time),
            ("compromise_time", line.compromise_time),
            ("destroy_time", line.destroy_time),
        )
        if line.HasField(field)  # type: ignore[arg-type]
    ]
    return min(ends, default=None)


def _time(at: float | None) -> str:
    return "-" if at is None else times.absolute(at)
