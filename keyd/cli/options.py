"""Options that several commands share, and the way to the daemon."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from keyd.client import AdminClient, AsyncClient, Client

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C")

ALGORITHMS = ["Ed25519", "ES256", "ES384", "PS512", "RS256"]
PURPOSES = ["http", "jwt", "directory", "raw"]
SESSIONS = ["aauth", "lumoauth", "jkt-jwt"]
KID_FORMATS = ["thumbprint", "name-version"]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")


class Duration(click.ParamType[float]):
    """A duration such as ``90s``, ``10m``, ``1h30m``, ``7d`` or plain seconds; becomes a float of seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        if isinstance(value, float):
            return value
        text = str(value)
        if re.fullmatch(r"\d+(\.\d+)?", text):
            return float(text)
        if not re.fullmatch(f"(?:{_PART.pattern})+", text):
            self.fail(f"{text!r} is not a duration; write it like 90s, 10m, 1h30m or 7d", param, ctx)
        return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


DURATION = Duration()


@dataclass
class Connection:
    """Where the daemon is, how long to wait for it, in seconds, and the files for TLS; None takes the client's default."""

    address: str | None = None
    timeout: float | None = None
    certificate: str | None = None
    private_key: str | None = None
    ca: str | None = None

    def client(self) -> Client:
        """Open the agents' client, a context manager. Raises click.UsageError for an address that cannot be used."""
        from keyd.client import Client

        return self._open(Client)

    def admin(self) -> AdminClient:
        """Open the operators' client, as :meth:`client`."""
        from keyd.client import AdminClient

        return self._open(AdminClient)

    def async_client(self, *, retries: int) -> AsyncClient:
        """Open the agents' client for asyncio, as :meth:`client`."""
        from keyd.client import AsyncClient

        return self._open(AsyncClient, retries=retries)

    def _open(self, client_class: Callable[..., C], **more: object) -> C:
        from keyd.client import TlsFiles
        from keyd.client.address import default_address, is_unix

        address = self.address or default_address()
        given = {} if self.timeout is None else {"timeout": self.timeout}
        try:
            # The environment may name the files for another address.
            tls = None if is_unix(address) else TlsFiles.from_options(self.certificate, self.private_key, self.ca)
            return client_class(address, tls=tls, **given, **more)
        except ValueError as exc:
            raise click.UsageError(str(exc)) from None


def _set_connection(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value is not None and param.name is not None:
        setattr(ctx.find_object(Connection), param.name, value)


def daemon_options(function: F) -> F:
    """Accept --address and --timeout after the command too, and give the function its :class:`Connection`."""
    options = (
        click.option("--address", metavar="ADDRESS", expose_value=False, callback=_set_connection, help="Address of the daemon."),
        click.option(
            "--timeout",
            metavar="DURATION",
            type=DURATION,
            expose_value=False,
            callback=_set_connection,
            help="How long to wait for the daemon.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return click.make_pass_decorator(Connection)(function)  # type: ignore[return-value]


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")
config_option = click.option(
    "--config",
    "config_path",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Configuration file. Default: $KEYD_CONFIG, else /etc/keyd/keyd.toml if it is there.",
)


_period_options = (
    click.option("--publish-lead", type=DURATION, metavar="DURATION", help="How long a version is published before it signs."),
    click.option(
        "--sign-grace", type=DURATION, metavar="DURATION", help="How long a replaced version still signs what names its kid."
    ),
    click.option("--retention", type=DURATION, metavar="DURATION", help="How long it stays published after that."),
    click.option(
        "--rotation-period",
        type=DURATION,
        metavar="DURATION",
        help="How long a version is active before keyd replaces it; 0: never.",
    ),
    click.option(
        "--destroy-after",
        type=DURATION,
        metavar="DURATION",
        help="How long after a version left the JWK Set keyd destroys its private key; 0: never.",
    ),
)


def period_options(function: F) -> F:
    """Accept the lifecycle periods; those that are not given are None."""
    for option in reversed(_period_options):
        function = option(function)
    return function


def key_spec_options(function: F) -> F:
    """Accept what a new key shall be; the values go to the client's create_key and import_key under these names."""
    options = (
        click.option(
            "--algorithm",
            "-a",
            type=click.Choice(ALGORITHMS, case_sensitive=False),
            help="Signature algorithm. An imported RSA key needs it.",
        ),
        click.option("--backend", "-b", metavar="NAME", help="Backend that holds the key. Default: the daemon's."),
        click.option(
            "--purpose",
            "-p",
            "purposes",
            multiple=True,
            type=click.Choice(PURPOSES),
            help="What the key may sign; repeatable. Default: http; with profile web-bot-auth, directory too.",
        ),
        click.option("--profile", metavar="NAME", help="Rules that bases and JWTs must meet. Default: the daemon's."),
        click.option("--kid-format", type=click.Choice(KID_FORMATS), help="How kids are made. Default: the daemon's."),
        click.option(
            "--keyid-alias", "keyid_aliases", multiple=True, metavar="KEYID", help="Further accepted value of keyid; repeatable."
        ),
        click.option("--unpublished", is_flag=True, help="Keep the key out of every JWK Set."),
        *_period_options,
    )
    for option in reversed(options):
        function = option(function)
    return function
