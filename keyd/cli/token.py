"""``keyd token``: agent tokens that are issued for keys elsewhere, and the list of those revoked."""

from __future__ import annotations

import base64
import dataclasses
import json
import time
from typing import Any

import click

from keyd.cli import inputs, output
from keyd.cli.command import Group
from keyd.cli.errors import Rejected, printable
from keyd.cli.options import DURATION, Connection, daemon_options, json_option
from keyd.cli.session import entry_of, times_of
from keyd.cli.times import both, parse_rfc3339


@click.group(
    cls=Group,
    examples="""
    keyd token issue --issuer-key agents-1 --subject aauth:shop@agents.example --key shop-1
    keyd token revoke - < token
    keyd token list                         which are revoked, until they are over
    """,
)
def token() -> None:
    """Issue agent tokens, and revoke them before they are over."""


@token.command(
    examples="""
    keyd token issue --issuer-key agents-1 --subject aauth:shop@agents.example --key shop-1
    keyd token issue --issuer-key agents-1 --subject aauth:shop@agents.example --jwk public.jwk --lifetime 1h
    """
)
@click.option("--issuer-key", metavar="KEY", required=True, help="The key that signs it.")
@click.option("--subject", metavar="AGENT", default="", help="The agent's identifier; needed unless your grant has exactly one.")
@click.option("--key", metavar="NAME", help="The key in keyd that it binds.")
@click.option(
    "--jwk", "jwk_file", metavar="FILE", help="The public JWK of a key elsewhere that it binds; - reads standard input."
)
@click.option("--kind", type=click.Choice(["aauth", "lumoauth"]), default="aauth", help="What kind of token. Default: aauth.")
@click.option("--lifetime", type=DURATION, metavar="DURATION", help="How long it is good. Default: as long as your grant allows.")
@click.option("--claims", "claims_file", metavar="FILE", help="Further claims, a JSON object, of those that your grant allows.")
@click.option("--audience", "audiences", metavar="AUD", multiple=True, help="A value of aud, for lumoauth; repeatable.")
@json_option
@daemon_options
def issue(
    connection: Connection,
    issuer_key: str,
    subject: str,
    key: str | None,
    jwk_file: str | None,
    kind: str,
    lifetime: float | None,
    claims_file: str | None,
    audiences: tuple[str, ...],
    as_json: bool,
) -> None:
    """Have an agent token made for a key that is no session's, and print it. A grant with sessions must allow it."""
    if (key is None) == (jwk_file is None):
        raise click.UsageError("say which key the token binds: --key or --jwk")
    with connection.client() as client:
        issued = client.issue_agent_token(
            issuer_key,
            subject,
            key=key,
            public_jwk=None if jwk_file is None else _public_jwk(jwk_file),
            kind=kind,
            lifetime=lifetime,
            claims=None if claims_file is None else _object(inputs.read(claims_file), claims_file),
            audiences=audiences,
        )
    if as_json:
        output.print_json(dataclasses.asdict(issued) | times_of(issued, "expires"))
    else:
        click.echo(issued.token)


@token.command(
    examples="""
    keyd token revoke - < token
    keyd token revoke --issuer https://agents.example --jti 0b7c1d --expires 2027-01-31T12:00:00Z
    """
)
@click.argument("text", metavar="[TOKEN|-]", required=False)
@click.option("--issuer", metavar="ISS", help="The iss of the token.")
@click.option("--jti", metavar="JTI", help="Its jti.")
@click.option("--expires", metavar="TIME", help="Its exp: RFC 3339, or seconds since 1970.")
@json_option
@daemon_options
def revoke(
    connection: Connection, text: str | None, issuer: str | None, jti: str | None, expires: str | None, as_json: bool
) -> None:
    """Put a token on the list of those revoked, which its issuer publishes until the token is over.

    With - the token is read from standard input. Its iss, jti and exp are sent to the daemon and nothing else of it; its signature is
    not verified.
    """
    given = (issuer, jti, expires)
    if text is not None and any(given):
        raise click.UsageError("give the token, or --issuer, --jti and --expires")
    if text is not None:
        of, name, end = _named_by(text)
    elif issuer is not None and jti is not None and expires is not None:
        of, name, end = issuer, jti, _time(expires)
    else:
        raise click.UsageError("give the token, or - to read it, or --issuer, --jti and --expires")
    with connection.admin() as admin:
        found = admin.revoke_token(of, name, end)
    output.warn(map(printable, found.warnings))
    if as_json:
        output.print_json({"token": entry_of(found)})
    else:
        until = both(found.expires, time.time())
        click.echo(
            f"token {printable(found.token_id)} of {printable(found.issuer)}: revoked; on the list until it is over, {until}"
        )


@token.command(
    "list",
    examples="""
    keyd token list
    keyd token list --issuer https://agents.example --json | jq -r '.tokens[].token_id'
    """,
)
@click.option("--issuer", metavar="ISS", default="", help="Only those with this iss.")
@json_option
@daemon_options
def list_(connection: Connection, issuer: str, as_json: bool) -> None:
    """List the revoked tokens that are not over, in the order in which they end."""
    with connection.admin() as admin:
        found = admin.revoked_tokens(issuer)
    if as_json:
        output.print_json({"tokens": [entry_of(each) for each in found]})
    elif found:
        from rich.text import Text

        now = time.time()
        rows = [(each.issuer, each.token_id, both(each.revoked, now), both(each.expires, now)) for each in found]
        output.print_rows(("ISSUER", "JTI", "REVOKED", "ENDS"), ([Text(printable(cell)) for cell in row] for row in rows))
    else:
        output.note("no token is revoked")


def _named_by(text: str) -> tuple[str, str, float]:
    """Return iss, jti and exp of a token; ``-`` reads it. Raises Rejected, whose message has nothing of the token."""
    compact = (inputs.read("-") if text == "-" else text.encode()).strip()
    parts = compact.split(b".")
    wrong = Rejected("that is no token that can be revoked: a JWT in its compact form, with iss, jti and exp")
    if len(parts) != 3:
        raise wrong
    try:
        claims = json.loads(base64.b64decode(parts[1] + b"=" * (-len(parts[1]) % 4), altchars=b"-_", validate=True))
        issuer, jti, expires = claims["iss"], claims["jti"], claims["exp"]
        f"{issuer}{jti}".encode()  # JSON has half characters, which no text has
    except (ValueError, KeyError, TypeError, RecursionError):
        raise wrong from None
    sound = isinstance(issuer, str) and isinstance(jti, str) and isinstance(expires, int | float)
    if not sound or isinstance(expires, bool):
        raise wrong
    return issuer, jti, _bounded(expires)


def _time(text: str) -> float:
    try:
        return _bounded(float(text) if text.replace(".", "", 1).isdigit() else parse_rfc3339(text))
    except ValueError:
        raise click.UsageError("--expires is a time such as 2027-01-31T12:00:00Z, or seconds since 1970") from None


def _bounded(at: float) -> float:
    if not 0 <= at < 253402300800:  # the year 10000
        raise Rejected("exp is no time in seconds since 1970")
    return float(at)


def _public_jwk(path: str) -> str:
    text = inputs.read(path)
    members = _object(text, path)
    if private := sorted({"d", "p", "q", "dp", "dq", "qi", "k", "oth"} & members.keys()):
        raise Rejected(f"{path} has a private key (member {private[0]}); pass the public JWK, and keep that one where it is")
    return json.dumps(members, separators=(",", ":"))


def _object(data: bytes, path: str) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Rejected(f"{path} is not a JSON object")
    return found
