"""``keyd key``: what keyd will do by itself, and how operators steer it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from keyd.cli import key_view, output, prompts, timeline_view, times
from keyd.cli.command import Command
from keyd.cli.errors import printable
from keyd.cli.options import DURATION, Connection, daemon_options, json_option, period_options, yes_option

if TYPE_CHECKING:
    from keyd.v1 import key_service_pb2, types_pb2

_DAY = 86400.0
_PIPED_WIDTH = 80
# By number of StepKind.
_STEPS = {
    1: "is made",
    2: "enters the JWK Set",
    3: "becomes active",
    4: "stops signing",
    5: "leaves the JWK Set",
    6: "is destroyed",
}


@click.command(
    cls=Command,
    examples="""
    keyd key plan
    keyd key plan agent --within 90d
    keyd key plan --json | jq -r '.steps[] | select(.delay != "") | .key'
    """,
)
@click.argument("name", required=False, default="")
@click.option("--within", type=DURATION, metavar="DURATION", default=30 * _DAY, help="How far ahead. Default: 30d.")
@json_option
@daemon_options
def plan(connection: Connection, name: str, within: float, as_json: bool) -> None:
    """Show what keyd will do by itself, and what the clock will do, soonest first; with NAME for one key."""
    with connection.admin() as admin:
        response = admin.plan_rotations(name, horizon=within)
    if as_json:
        output.print_json(response)
    elif response.steps:
        _print_steps(response.steps, time.time())
    else:
        output.note(f"nothing happens within {times.span(within)}")
    if response.truncated:
        output.note(f"there is more; these are the first {len(response.steps)} steps")


def _print_steps(steps: Any, now: float) -> None:
    from rich.text import Text

    rows = [
        [
            Text(times.both(key_view.seconds(step.time), now)),
            Text(printable(step.key), "bold"),
            Text(str(step.version)),
            Text(_STEPS.get(step.kind, f"unknown step {step.kind}")),
            Text(_remark(step, now), "bold yellow" if step.delay else "dim"),
        ]
        for step in steps
    ]
    output.print_rows(("WHEN", "KEY", "VERSION", "STEP", ""), rows)


def _remark(step: key_service_pb2.PlannedStep, now: float) -> str:
    if step.delay:
        return printable(step.delay)
    return f"deadline {times.relative(key_view.seconds(step.deadline), now)}" if step.HasField("deadline") else ""


@click.command(
    cls=Command,
    examples="""
    keyd key timeline agent
    keyd key timeline agent --within 90d --all
    """,
)
@click.argument("name")
@click.option("--within", type=DURATION, metavar="DURATION", help="How far ahead. Default: one and a half rotations, or 30d.")
@click.option("--all", "everything", is_flag=True, help="Also versions that are long gone.")
@json_option
@daemon_options
def timeline(connection: Connection, name: str, within: float | None, everything: bool, as_json: bool) -> None:
    """Draw past and future of each version of a key, one bar each."""
    with connection.admin() as admin:
        key = admin.get_key(name)
        ahead = _ahead(key) if within is None else within
        response = admin.plan_rotations(name, horizon=ahead)
    if as_json:
        output.print_json({"key": output.to_dict(key), "steps": output.to_dict(response)["steps"]})
        return
    now, out = time.time(), output.console()
    known = timeline_view.lives(key, response.steps)
    shown = known if everything else timeline_view.recent(known, now - 2 * ahead) or known
    glyphs = timeline_view.UNICODE if out.encoding.lower().startswith("utf") else timeline_view.ASCII
    for line in timeline_view.draw(shown, now, out.width if out.is_terminal else _PIPED_WIDTH, glyphs):
        out.print(line)
    if len(shown) < len(known):
        output.note(f"{len(known) - len(shown)} versions that are long gone are left out; --all shows them")
    if key.HasField("pause_time"):
        output.note(f"the rotation is paused; it goes on with: keyd key resume {name}")


def _ahead(key: types_pb2.Key) -> float:
    period = key_view.seconds(key.lifecycle.rotation_period)
    return min(1.5 * period, 3650 * _DAY) or 30 * _DAY


@click.command(
    cls=Command,
    examples="""
    keyd key rollback agent
    """,
)
@click.argument("name")
@yes_option
@json_option
@daemon_options
def rollback(connection: Connection, name: str, yes: bool, as_json: bool) -> None:
    """Make the version that was active before active again, as long as it may still sign."""
    prompts.confirm(f"Make the version of {name} active again that was before the active one?", yes=yes)
    with connection.admin() as admin:
        response = admin.rollback_key(name)
    output.warn(response.warnings)
    _done(output.to_dict(response), as_json, f"{name}: version {response.version} is active again")


@click.command(
    cls=Command,
    examples="""
    keyd key pause agent
    """,
)
@click.argument("name")
@json_option
@daemon_options
def pause(connection: Connection, name: str, as_json: bool) -> None:
    """Hold the rotation of a key: no version takes over, and keyd makes and destroys none by itself."""
    with connection.admin() as admin:
        changed = admin.pause_key(name)
    _done({"key": output.to_dict(changed)}, as_json, f"{name}: rotation paused; it goes on with: keyd key resume {name}")


@click.command(
    cls=Command,
    examples="""
    keyd key resume agent
    """,
)
@click.argument("name")
@json_option
@daemon_options
def resume(connection: Connection, name: str, as_json: bool) -> None:
    """Let a key rotate again."""
    with connection.admin() as admin:
        changed = admin.resume_key(name)
    _done({"key": output.to_dict(changed)}, as_json, f"{name}: rotates again")


@click.command(
    "set",
    cls=Command,
    examples="""
    keyd key set agent --rotation-period 30d
    keyd key set agent --rotation-period 0 --destroy-after 0
    """,
)
@click.argument("name")
@period_options
@json_option
@daemon_options
def set_(connection: Connection, name: str, as_json: bool, **periods: Any) -> None:
    """Change lifecycle periods of a key. What is planned already stays so."""
    wanted = {field: value for field, value in periods.items() if value is not None}
    if not wanted:
        raise click.UsageError("say which period; see: keyd key set --help")
    with connection.admin() as admin:
        response = admin.update_key(name, **wanted)
    output.warn(response.warnings)
    if as_json:
        output.print_json(response)
    else:
        key_view.print_key(response.key, time.time())


def _done(response: dict[str, Any], as_json: bool, text: str) -> None:
    if as_json:
        output.print_json(response)
    else:
        click.echo(text)


COMMANDS = (plan, timeline, rollback, pause, resume, set_)
