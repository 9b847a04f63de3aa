"""``keyd key``: the lifecycle of keys."""

from __future__ import annotations

import time
from typing import Any

import click

from keyd.cli import key_view, output, prompts, times
from keyd.cli.command import Group
from keyd.cli.errors import printable
from keyd.cli.options import Connection, daemon_options, json_option, key_spec_options, yes_option

_VERSION = click.IntRange(min=1)
_EMERGENCY = (
    "Verifiers that cached the JWK Set fail until they fetch it again, some for up to 12 minutes (wbauth-sdk 5, aauth 1)."
)


@click.group(
    cls=Group,
    examples="""
    keyd key create agent                   make a key
    keyd key list                           list keys
    keyd key show agent                     show a key and the timeline of its versions
    """,
)
def key() -> None:
    """Make keys and move them through their lifecycle."""


@key.command(
    examples="""
    keyd key create agent
    keyd key create issuer --algorithm ES256 --purpose jwt --backend vault
    keyd key create bot --profile web-bot-auth
    keyd key create crawler --publish-lead 1h --kid-format name-version
    """
)
@click.argument("name")
@key_spec_options
@json_option
@daemon_options
def create(connection: Connection, name: str, as_json: bool, **spec: Any) -> None:
    """Make a key. Its first version is published and active at once."""
    with connection.admin() as admin:
        response = admin.create_key(name, **given(spec))
    output.warn(response.warnings)
    if as_json:
        output.print_json(response)
    else:
        key_view.print_key(response.key, time.time())


@key.command(
    "list",
    examples="""
    keyd key list
    keyd key list --json | jq -r '.keys[].name'
    """,
)
@json_option
@daemon_options
def list_(connection: Connection, as_json: bool) -> None:
    """List keys by name."""
    with connection.admin() as admin:
        keys = list(admin.list_keys())
    if as_json:
        output.print_json({"keys": [output.to_dict(each) for each in keys]})
    elif keys:
        key_view.print_table(keys, time.time())
    else:
        output.note("there are no keys yet; make one with: keyd key create NAME")


@key.command(
    examples="""
    keyd key show agent
    keyd key show agent --json | jq -r '.key.versions[] | select(.state == "KEY_STATE_ACTIVE") | .kid'
    """
)
@click.argument("name")
@json_option
@daemon_options
def show(connection: Connection, name: str, as_json: bool) -> None:
    """Show a key and the timeline of each of its versions, newest first."""
    with connection.admin() as admin:
        found = admin.get_key(name)
    if as_json:
        output.print_json({"key": output.to_dict(found)})
    else:
        key_view.print_key(found, time.time())


@key.command(
    examples="""
    keyd key rotate agent                   planned: published first, active later
    keyd key rotate agent --now             emergency: active at once
    """
)
@click.argument("name")
@click.option("--now", "at_once", is_flag=True, help="Activate it at once; verifiers that cache fail until they fetch again.")
@yes_option
@json_option
@daemon_options
def rotate(connection: Connection, name: str, at_once: bool, yes: bool, as_json: bool) -> None:
    """Make the next version of a key and say when it takes over."""
    if at_once:
        question = f"Activate the next version of {name} at once? {_EMERGENCY}"
        prompts.confirm(question, yes=yes)
    with connection.admin() as admin:
        response = admin.rotate_key(name, now=at_once)
    output.warn(response.warnings)
    if as_json:
        output.print_json(response)
        return
    for version in response.key.versions:
        if version.version == response.version:
            moment, now = key_view.seconds(version.timeline.activate_time), time.time()
            word = "is active since" if moment <= now else "activates"
            click.echo(f"{name}: version {version.version} (kid {printable(version.kid)}) {word} {times.both(moment, now)}")


@key.command(
    examples="""
    keyd key disable agent
    """
)
@click.argument("name")
@json_option
@daemon_options
def disable(connection: Connection, name: str, as_json: bool) -> None:
    """Stop a key from signing. Its public keys stay published; enable undoes it."""
    with connection.admin() as admin:
        changed = admin.disable_key(name)
    _done({"key": output.to_dict(changed)}, as_json, f"{name}: disabled; it signs nothing until: keyd key enable {name}")


@key.command(
    examples="""
    keyd key enable agent
    """
)
@click.argument("name")
@json_option
@daemon_options
def enable(connection: Connection, name: str, as_json: bool) -> None:
    """Let a disabled key sign again."""
    with connection.admin() as admin:
        changed = admin.enable_key(name)
    _done({"key": output.to_dict(changed)}, as_json, f"{name}: enabled")


@key.command(
    examples="""
    keyd key compromise agent 3 --reason "laptop stolen"
    keyd key compromise agent 3 --reason "found in a log" --yes
    """
)
@click.argument("name")
@click.argument("version", type=_VERSION)
@click.option("--reason", required=True, help="Why; recorded for ever.")
@yes_option
@json_option
@daemon_options
def compromise(connection: Connection, name: str, version: int, reason: str, yes: bool, as_json: bool) -> None:
    """Say that the private key of a version is no longer secret.

    The version leaves the JWK Set and stops signing at once and for ever. A successor takes over.
    """
    warning = f"Version {version} of {name} will never sign again, and what it signed stops verifying. This cannot be undone."
    prompts.type_name(warning, name, yes=yes)
    with connection.admin() as admin:
        response = admin.compromise_version(name, version, reason)
    output.warn(response.warnings)
    successor = key_view.active(response.key)
    followed = f"version {successor.version} (kid {printable(successor.kid)}) is active" if successor else "no version is active"
    _done(output.to_dict(response), as_json, f"{name}: version {version} is marked compromised; {followed}")


@key.command(
    examples="""
    keyd key destroy agent 1
    keyd key destroy agent 2 --force --yes
    """
)
@click.argument("name")
@click.argument("version", type=_VERSION)
@click.option("--force", is_flag=True, help="Also a deactivated version that is still published; what it signed stops verifying.")
@yes_option
@json_option
@daemon_options
def destroy(connection: Connection, name: str, version: int, force: bool, yes: bool, as_json: bool) -> None:
    """Destroy the private key of a version. The public key stays on record."""
    prompts.type_name(f"The private key of version {version} of {name} will be destroyed. This cannot be undone.", name, yes=yes)
    with connection.admin() as admin:
        response = admin.destroy_version(name, version, force=force)
    output.warn(response.warnings)
    _done(output.to_dict(response), as_json, f"{name}: the private key of version {version} is destroyed")


def given(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given; the daemon has the defaults of the others."""
    return {name: value for name, value in spec.items() if value is not None and value is not False and value != ()}


def _done(response: dict[str, Any], as_json: bool, text: str) -> None:
    if as_json:
        output.print_json(response)
    else:
        click.echo(text)
