"""The sections about who may connect, and how: the Unix sockets and the bounds of connections."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from keyd.config.durations import Duration
from keyd.config.section import Section
from keyd.process import socket_path_problem

_MODE = re.compile(r"0?[0-7]{3}", re.ASCII)
_ACCOUNT = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.@-]{0,63}", re.ASCII)
_ABSTRACT = re.compile(r"@[A-Za-z0-9_.-]{1,106}", re.ASCII)


def _socket_file(path: Path) -> Path:
    if str(path).startswith("@"):
        raise ValueError(
            "an abstract socket has no owner and no mode, so who connects to it has to be checked: use server.socket"
        )
    problem = "not an absolute path" if "\0" in str(path) or not path.is_absolute() else socket_path_problem(path)
    if problem:
        raise ValueError(problem)
    return path


def _socket(path: Path) -> Path:
    if not str(path).startswith("@"):
        return _socket_file(path)
    if not _ABSTRACT.fullmatch(str(path)):
        raise ValueError("the name of an abstract socket is @ and 1 to 106 of A-Z a-z 0-9 _ . -")
    return path


def _mode(value: str) -> str:
    if not _MODE.fullmatch(value) or int(value, 8) & 0o111:
        raise ValueError('not the octal mode of a socket; write for example "0660"')
    return value


def _account(value: str) -> str:
    if not _ACCOUNT.fullmatch(value):
        raise ValueError("not the name or number of a user or group")
    return value


#: Path of a socket that has one.
SocketFile = Annotated[Path, AfterValidator(_socket_file)]
#: The same, or ``@name`` for an abstract one.
SocketPath = Annotated[Path, AfterValidator(_socket)]
Mode = Annotated[str, AfterValidator(_mode)]
Account = Annotated[str, AfterValidator(_account)]


class OwnSocket(Section):
    """``[sockets.NAME]``: a socket for one principal, who is whoever can connect to it."""

    path: SocketFile
    mode: Mode = "0600"
    owner: Account | None = None
    group: Account | None = None


class Connections(Section):
    """``[connections]``: bounds that hold for every way in. Durations in seconds."""

    max: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    max_per_caller: Annotated[int, Field(ge=1, le=1_000_000)] = 250
    max_streams: Annotated[int, Field(ge=1, le=10_000)] = 64
    max_calls_per_caller: Annotated[int, Field(ge=1, le=1_000_000)] = 500
    handshake_timeout: Annotated[Duration, Field(ge=0.1, le=300)] = 10.0
    idle_timeout: Annotated[Duration, Field(ge=1, le=7 * 24 * 3600)] = 1800.0
    keepalive: Annotated[Duration, Field(ge=1, le=24 * 3600)] = 60.0
