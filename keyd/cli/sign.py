"""``keyd sign`` and ``keyd jwt``: signatures and tokens."""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import Any

import click

from keyd.cli import inputs, output
from keyd.cli.command import Command
from keyd.cli.errors import Rejected
from keyd.cli.options import DURATION, Connection, daemon_options, json_option


@click.command(
    cls=Command,
    examples="""
    printf %s "$base" | keyd sign agent --base
    keyd sign agent --base base.txt --json
    printf %s "$header.$payload" | keyd sign issuer --jws
    keyd sign blobs --message release.tar.sum --raw > release.sig
    """,
)
@click.argument("key")
@click.argument("file", default="-")
@click.option("--base", "kind", flag_value="base", help="The input is a signature base (RFC 9421).")
@click.option("--jws", "kind", flag_value="jws", help="The input is a JWS signing input (RFC 7515); the output is base64url.")
@click.option("--message", "kind", flag_value="message", help="The input is unread bytes; the key needs purpose raw.")
@click.option("--kid", metavar="KID", help="Sign with this version.")
@click.option("--raw", is_flag=True, help="Print the octets of the signature, not base64.")
@json_option
@daemon_options
def sign(connection: Connection, key: str, file: str, kind: str | None, kid: str | None, raw: bool, as_json: bool) -> None:
    """Sign FILE, or standard input, with KEY and print the signature in base64.

    The input is signed as it stands, whole, to the last byte; say what it is with --base, --jws or --message.
    """
    if kind is None:
        raise click.UsageError("say what the input is: --base, --jws or --message")
    if raw and as_json:
        raise click.UsageError("--raw and --json exclude each other")
    data = inputs.read(file)
    if kind != "message" and data.endswith(b"\n"):
        output.warn(
            ["the input ends with a line end, which a signature base and a JWS signing input never do; use printf, not echo"]
        )
    with connection.client() as client:
        call = {"base": client.sign_base, "jws": client.sign_jws, "message": client.sign_message}[kind]
        signed = call(key, data, kid=kid)
    text = output.base64url_text(signed.signature) if kind == "jws" else output.base64_text(signed.signature)
    if raw:
        output.write_bytes(signed.signature)
    elif as_json:
        output.print_json(dataclasses.asdict(signed) | {"signature": text})
    else:
        click.echo(text)


@click.command(
    cls=Command,
    examples="""
    echo '{"sub": "agent-7"}' | keyd jwt issuer --typ JWT --lifetime 5m
    keyd jwt issuer --typ aa-agent+jwt --lifetime 1h claims.json
    """,
)
@click.argument("key")
@click.argument("file", default="-")
@click.option("--typ", required=True, help="The typ of the header; the key's profile has the list.")
@click.option("--lifetime", type=DURATION, metavar="DURATION", help="How long it is valid from now; not with an exp claim.")
@click.option("--kid", metavar="KID", help="Sign with this version.")
@json_option
@daemon_options
def jwt(connection: Connection, key: str, file: str, typ: str, lifetime: float | None, kid: str | None, as_json: bool) -> None:
    """Sign the claims in FILE, or standard input, and print the JWT.

    The claims are a JSON object. keyd builds the header and adds iat where it is missing.
    """
    claims = _claims(inputs.read(file), file)
    with connection.client() as client:
        token = client.sign_jwt(key, claims, typ=typ, lifetime=lifetime, kid=kid)
    if as_json:
        header, payload, _ = token.split(".")
        output.print_json({"token": token, "header": _part(header), "claims": _part(payload)})
    else:
        click.echo(token)


def _claims(data: bytes, file: str) -> dict[str, Any]:
    def once(members: list[tuple[str, Any]]) -> dict[str, Any]:
        # What is signed must not depend on which of two members a parser keeps.
        if len(dict(members)) != len(members):
            raise ValueError
        return dict(members)

    try:
        claims = json.loads(data, object_pairs_hook=once)
        json.dumps(claims, allow_nan=False)  # refuses NaN and what overflows to an infinity, such as 1e999
    except (ValueError, RecursionError):
        claims = None
    if not isinstance(claims, dict):
        raise Rejected(f"the claims in {'standard input' if file == '-' else file} are not a JSON object with each member once")
    return claims


def _part(part: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
