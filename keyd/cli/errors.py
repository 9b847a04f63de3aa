"""What failures say and which exit code they give."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import click

FAILURE, USAGE, NOT_FOUND, REFUSED, KEY_STATE, UNAVAILABLE, ALREADY_EXISTS, BAD_CONFIG, INTERRUPTED = 1, 2, 3, 4, 5, 6, 7, 8, 130

# By name of the gRPC code, so that this table costs no import of grpc. Everything else is FAILURE.
EXIT_CODES: dict[str, int] = {
    "NOT_FOUND": NOT_FOUND,
    "PERMISSION_DENIED": REFUSED,
    "UNAUTHENTICATED": REFUSED,
    "INVALID_ARGUMENT": REFUSED,
    "FAILED_PRECONDITION": KEY_STATE,
    "UNAVAILABLE": UNAVAILABLE,
    "DEADLINE_EXCEEDED": UNAVAILABLE,
    "RESOURCE_EXHAUSTED": UNAVAILABLE,
    "ALREADY_EXISTS": ALREADY_EXISTS,
}

# Only what the message of the daemon does not say already.
_HINTS_BY_REASON: dict[str, str] = {
    "PURPOSE": "see what the key may sign: keyd key show NAME",
    "SIZE": "keyd signs at most 64 KiB at a time",
    "KEY_STATE": "see the state of each version: keyd key show NAME",
    "BACKEND_UNAVAILABLE": "see the daemon's log for what the backend said, then try again",
    "GRANT": "ask who runs the daemon for a grant",
    "AUTHORITY": "the grant lists the authorities that it signs for; keyd policy explain shows them",
    "METHOD": "the grant lists its methods, and the base has to cover @method; see keyd policy explain",
    "PATH": "the grant lists its paths, and the base has to cover @path; see keyd policy explain",
    "ISSUER": "the grant lists the values of iss that it signs; keyd policy explain shows them",
    "AUDIENCE": "the grant lists the values of aud that it signs; keyd policy explain shows them",
    "BINDING": "the signature-key of the request has to be of the key that signs it",
    "UNAUTHENTICATED": "connect to the socket that the daemon's configuration names",
    "RATE": "ask for less at a time, or raise the rate of the grant or of [limits]",
    "AUDIT_UNAVAILABLE": "nothing is signed without its record; see the daemon's log, and whether its disk is full",
    "APPROVAL_NEEDED": "now another operator has to run the same command",
    "OVERLOADED": "too much at once; try again in a moment",
    "STORAGE_FULL": "make room on the daemon's disk; signing goes on meanwhile",
    "CONFLICT": "run it again",
    "CLOCK": "see the daemon's log for how far its clock is off, and set it",
    "STORE_UNAVAILABLE": "the daemon's database does not answer; signing goes on meanwhile",
}
# For what did not come from keyd itself and has no reason.
_HINTS_BY_CODE: dict[str, str] = {
    "UNAVAILABLE": "is the daemon running? start it with: keyd serve",
    "DEADLINE_EXCEEDED": "the daemon did not answer in time; wait longer with --timeout",
    "RESOURCE_EXHAUSTED": "too much at once; try again in a moment",
    "UNIMPLEMENTED": "the daemon is of another release than this command line; restart it after an update",
}


class Rejected(click.ClickException):
    """The input is not what it should be; found out here, as the daemon would have."""

    exit_code = REFUSED


@dataclass(frozen=True)
class Failure:
    """What to print and how to exit."""

    lines: list[str]
    hint: str
    exit_code: int


def explain(error: Exception) -> Failure | None:
    """Return how a failure is told to people, or None for what only click, or a traceback, can tell."""
    if isinstance(error, click.ClickException) and not isinstance(error, click.UsageError):
        return Failure(error.format_message().splitlines(), "", error.exit_code)
    # Looked up, not imported: whoever raised one of these has imported its module.
    client, config, plugins = (sys.modules.get(f"keyd.{name}") for name in ("client", "config", "plugins"))
    if client is not None and isinstance(error, client.KeydClientError):
        code = error.code.name
        hint = _HINTS_BY_REASON.get(error.reason, "") if error.reason else _HINTS_BY_CODE.get(code, "")
        if code == "UNAVAILABLE" and "permission denied" in str(error).lower():
            hint = "your user may not open the socket; its group can, see: ls -l"
        if active := error.metadata.get("active_kid"):
            hint = f"the active kid is {printable(active)}; rebuild the input for it"
        return Failure([printable(str(error))], hint, EXIT_CODES.get(code, FAILURE))
    if config is not None and isinstance(error, config.ConfigError):
        path = f"{error.path}: " if error.path is not None else ""
        return Failure([printable(f"{path}{problem}") for problem in error.problems], "", BAD_CONFIG)
    if plugins is not None and isinstance(error, plugins.PluginError):
        return Failure([printable(str(error))], "", BAD_CONFIG)
    return None


def printable(text: str) -> str:
    """Return text with its control characters, line ends too, spelled out: what others wrote must not steer a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
