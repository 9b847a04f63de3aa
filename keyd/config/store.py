"""The section about the metadata database."""

from __future__ import annotations

import re
import socket
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from backends.errors import BackendConfigError
from backends.secrets import SecretRef
from keyd.config.addresses import is_loopback
from keyd.config.section import Section

_FORM = 'not the address of a PostgreSQL database; write for example "postgresql://keyd@db.example/keyd?sslmode=verify-full"'
_REPLICA = re.compile(r"[A-Za-z0-9._-]{1,63}", re.ASCII)
_SECRETS = ("password", "sslpassword")


def _url(value: str) -> str:
    try:
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict
    except ImportError:
        raise ValueError('PostgreSQL needs psycopg 3; run: pip install "keyd[postgres]"') from None
    if not value.startswith(("postgresql://", "postgres://")) or not value.isprintable():
        raise ValueError(_FORM)
    try:
        given = conninfo_to_dict(value)
    except ProgrammingError:  # whose message quotes the value
        raise ValueError(_FORM) from None
    if any(name in given for name in _SECRETS):
        raise ValueError('a password does not belong in the address; give store.password, such as { file = "/etc/keyd/db" }')
    if not given.get("dbname"):
        raise ValueError("the name of the database is missing at the end of the address")
    hosts = f"{given.get('host') or ''},{given.get('hostaddr') or ''}".split(",")
    if "sslmode" not in given and not all(map(_is_local, hosts)):
        raise ValueError('say how the way to another machine is protected; add "?sslmode=verify-full"')
    return value


def _is_local(host: str) -> bool:
    return host in {"", "localhost"} or host.startswith(("/", "@")) or is_loopback(host)


def _host_name() -> str:
    """Return the name of this machine, as far as it can be a name here."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:63] or "keyd"


def _replica(value: str) -> str:
    if not _REPLICA.fullmatch(value):
        raise ValueError("the name of a replica is 1 to 63 of A-Z a-z 0-9 . _ -")
    return value


class Store(Section):
    """``[store]``: where metadata lives. Without ``url``, in the SQLite database ``keyd.db`` in the state directory."""

    url: Annotated[str, AfterValidator(_url)] | None = None
    password: SecretRef | None = None
    replica: Annotated[str, AfterValidator(_replica)] = Field(default_factory=_host_name)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.password is not None and self.url is None:
            raise ValueError("there is a password and no url that it is for")
        return self

    def conninfo(self) -> str:
        """Return how libpq gets to the database, with the password. Must not be shown to anybody.

        Raises:
            BackendConfigError: the password cannot be read.
        """
        from psycopg.conninfo import make_conninfo

        assert self.url is not None
        if self.password is None:
            return make_conninfo(self.url)
        try:
            password = self.password.read_line().reveal().decode()
        except UnicodeDecodeError:
            raise BackendConfigError(f"the {self.password} with the password of the database is not UTF-8") from None
        if "\0" in password:
            raise BackendConfigError(f"the {self.password} with the password of the database has a NUL byte")
        return make_conninfo(self.url, password=password)
