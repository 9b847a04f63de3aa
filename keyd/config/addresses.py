"""Addresses and paths, as several sections have them."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import AfterValidator

from keyd.config.section import Section

_HOST = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?:\.(?!-)[A-Za-z0-9-]{1,63})*\.?", re.ASCII)
_LISTEN = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<host>[^:\[\]]*)):(?P<port>[0-9]{1,5})", re.ASCII)


def _absolute(path: Path) -> Path:
    if "\0" in str(path) or not path.is_absolute():
        raise ValueError("not an absolute path")
    return path


def split_listen(value: str) -> tuple[str, int]:
    """Return host and port of ``host:port``; an IPv6 address is in brackets, and comes back without.

    Raises:
        ValueError: it is not that.
    """
    match = _LISTEN.fullmatch(value)
    if match is None or int(match["port"]) > 65535:
        raise ValueError(
            'not host:port; write for example "127.0.0.1:8470", "[::1]:8470", or "0.0.0.0:8470" for every IPv4 address'
        )
    if match["v6"] is not None:
        try:
            ipaddress.IPv6Address(match["v6"])
        except ValueError:
            raise ValueError("what is in brackets is not an IPv6 address") from None
        return match["v6"], int(match["port"])
    if not _HOST.fullmatch(match["host"]):
        raise ValueError(
            'no host name or address before the port; for every one write "0.0.0.0:8470" (IPv4) or "[::]:8470" (IPv6)'
        )
    return match["host"], int(match["port"])


def is_loopback(host: str) -> bool:
    """Say whether this is an address that nobody but this machine reaches. A name is none, whatever it stands for."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(value: str) -> str:
    split_listen(value)
    return value


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
#: ``host:port``; see :func:`split_listen`.
Listen = Annotated[str, AfterValidator(_listen)]


class _Listening(Protocol):
    @property
    def listen(self) -> str: ...


class Listener(Section):
    """A table with ``listen``, the address of a listener, which each declares where it stands in the file."""

    @property
    def host(self: _Listening) -> str:
        """Host name or address, without brackets."""
        return split_listen(self.listen)[0]

    @property
    def port(self: _Listening) -> int:
        """Port; 0 lets the system choose."""
        return split_listen(self.listen)[1]
