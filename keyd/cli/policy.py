"""``keyd policy``: what the grants of a configuration say, told without a daemon."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keyd.cli import inputs, output
from keyd.cli.command import Group
from keyd.cli.errors import REFUSED, printable
from keyd.cli.options import ALGORITHMS, PURPOSES, SESSIONS, Connection, config_option, daemon_options, json_option

if TYPE_CHECKING:
    from keyd.config import Config
    from keyd.core.explain import Explanation, Verdict
    from keyd.core.policy import Policy


@click.group(
    cls=Group,
    examples="""
    keyd policy check                       is it right, and is it meant?
    keyd policy explain --as uid=1001 --key shop < base.txt
    """,
)
def policy() -> None:
    """Check the grants of the configuration, and explain what they allow."""


@policy.command(
    examples="""
    keyd policy check
    keyd policy check ./keyd.toml && systemctl reload keyd
    """
)
@click.argument("file", required=False, type=click.Path(path_type=Path))
def check(file: Path | None) -> None:
    """List every problem of the configuration FILE, then what is odd about its grants.

    Exit code 8 if there is a problem. What is odd is a warning, and no reason to fail.
    """
    from keyd.config import find, load, publication
    from keyd.core import advice

    path = find(file)
    config = load(path)
    grants = [grant.grant for grant in config.grants.values()]
    output.warn(advice.warnings(grants, config.policy.operations, _owners(config), publication(config).issuers.values()))
    said = "no grants; the daemon's user and root may do everything" if not grants else f"{len(grants)} grants"
    click.echo(f"{path or 'no configuration file; the defaults'}: ok, {said}")


@policy.command(
    examples="""
    keyd policy explain --as uid=1001,executable=/usr/bin/shop --key shop-1 < base.txt
    keyd policy explain --as spiffe://example.org/agents/7 --key issuer --jwt token.txt
    keyd policy explain --as dns:ops.example --key shop-1 --operation rotate_key
    keyd policy explain --as unit=shop.service --session aauth < base.txt
    """
)
@click.argument("file", default="-")
@click.option("--as", "principal", metavar="PRINCIPAL", required=True, help="Who asks; see the manual.")
@click.option("--key", "-k", metavar="NAME", help="The key. Only an operation can be about none.")
@click.option("--jwt", "kind", flag_value="jwt", help="The input is a JWT or its signing input, not a signature base.")
@click.option(
    "--purpose", type=click.Choice(PURPOSES), help="The purpose, where no input is to be read; its limits are not asked."
)
@click.option("--operation", metavar="NAME", help="What operators call, such as rotate_key, instead of a signature.")
@click.option(
    "--session", type=click.Choice(SESSIONS), help="The key is that of a session of this kind; --key is its issuer key."
)
@click.option("--subject", metavar="AGENT", help="With --session: the agent.")
@click.option("--profile", metavar="NAME", help="The key's profile. Default: as the daemon says, else that of [defaults].")
@click.option("--algorithm", "-a", type=click.Choice(ALGORITHMS, case_sensitive=False), help="The key's algorithm; likewise.")
@config_option
@json_option
@daemon_options
@click.pass_context
def explain(
    ctx: click.Context,
    connection: Connection,
    file: str,
    principal: str,
    key: str | None,
    kind: str | None,
    purpose: str | None,
    operation: str | None,
    session: str | None,
    subject: str | None,
    profile: str | None,
    algorithm: str | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Say for each grant which condition allows or refuses a request, and what the daemon would answer.

    The request is a signature base in FILE or standard input, with --jwt a token, with --operation what operators call.
    Times are taken as of the input itself. Exit code 0: allowed; 4: refused.
    """
    from keyd.cli import policy_input
    from keyd.config import find, load
    from keyd.config import policy as policy_of
    from keyd.core import explain as explaining
    from keyd.core.sessions.grant import SessionKind

    config = load(find(config_path))
    rules = policy_of(config, owners=_owners(config))
    who = policy_input.principal(principal)
    if session is not None:
        if kind or purpose or operation or profile or algorithm:
            raise click.UsageError("--session goes with --key and --subject, and with a signature base")
        asked_for = explaining.SessionAsked(SessionKind(session), key or "", subject or "")
        base = policy_input.read(inputs.read(file), False, policy_input.session_of(asked_for.kind))
        found, verdict = explaining.session(rules, who, asked_for, base)
    elif operation is not None:
        found, verdict = explaining.operation(rules, who, key, policy_input.operation(operation, key))
    elif key is None:
        raise click.UsageError("name the key with --key")
    else:
        about = policy_input.key_of(connection, key, config, profile, algorithm)
        asked = policy_input.bare(purpose, about) if purpose else policy_input.read(inputs.read(file), kind == "jwt", about)
        found, verdict = explaining.signature(rules, who, key, asked)
    if as_json:
        output.print_json(_document(str(who), found, verdict))
    else:
        _print(str(who), found, verdict, rules)
    if verdict.refusal is not None:
        ctx.exit(REFUSED)


def _owners(config: Config) -> set[int]:
    """Return who owns the daemon: root, and the user of its state directory, who is taken for the one that asks before there is one."""
    try:
        return {0, config.server.state_dir.stat().st_uid}
    except OSError:
        return {0, os.geteuid()}


def _document(who: str, found: list[Explanation], verdict: Verdict) -> dict[str, Any]:
    refusal = verdict.refusal
    return {
        "principal": who,
        "allowed": refusal is None,
        "grant": verdict.grant,
        "reason": refusal.reason if refusal else None,
        "message": str(refusal) if refusal else None,
        "grants": [
            {
                "grant": each.grant,
                "allowed": each.allowed,
                "conditions": [{"name": c.name, "met": c.met, "words": c.words} for c in each.conditions],
            }
            for each in found
        ],
    }


def _print(who: str, found: list[Explanation], verdict: Verdict, rules: Policy) -> None:
    click.echo(f"{printable(who)}")
    for each in found:
        click.echo(f"\ngrant {each.grant}")
        for condition in each.conditions:
            click.echo(f"  {condition.name:<17} {'ok' if condition.met else 'no':<3} {printable(condition.words)}".rstrip())
    if verdict.refusal is None:
        click.echo(f"\nallowed by grant {verdict.grant}")
    else:
        click.echo(f"\nrefused, {verdict.refusal.reason}: {printable(str(verdict.refusal))}")
