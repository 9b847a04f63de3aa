"""Where keyd is, and what may be sent there in the clear."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping

_ABSTRACT = re.compile(r"@(?P<name>[A-Za-z0-9_.-]{1,106})")
_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})")


def default_address(environ: Mapping[str, str] | None = None, uid: int | None = None) -> str:
    """Return where keyd is expected: ``$KEYD_ADDRESS``, else the user's socket, else the system's.

    Args:
        environ: environment variables; those of the process by default.
        uid: user id; the effective one of the process by default. Root uses the system's socket.
    """
    environ = os.environ if environ is None else environ
    if address := environ.get("KEYD_ADDRESS"):
        return address
    runtime_dir = environ.get("XDG_RUNTIME_DIR")
    if runtime_dir and (os.geteuid() if uid is None else uid) != 0:
        return f"unix:{runtime_dir}/keyd/keyd.sock"
    return "unix:/run/keyd/keyd.sock"


def grpc_target(address: str, *, secure: bool) -> str:
    """Return an address as gRPC wants it.

    Args:
        address: ``unix:/path``, ``/path``, ``unix:@name`` (an abstract socket) or ``host:port`` (an IPv6 address in brackets).
        secure: whether the connection is going to be encrypted.

    Raises:
        ValueError: it is none of those, or it asks for plain TCP to another machine, or for TLS over a Unix socket.
    """
    path = address.removeprefix("unix:").removeprefix("//")
    if is_unix(address):
        abstract = _ABSTRACT.fullmatch(path) if address.startswith("unix:") else None
        if not path.startswith("/") and not abstract:
            raise ValueError(f"address {address!r} is not an absolute path; write unix:/path/to/keyd.sock")
        if secure:
            raise ValueError(f"address {address!r} is a Unix socket, which takes no credentials; leave them out")
        return f"unix-abstract:{abstract['name']}" if abstract else f"unix:{path}"
    match = _HOST_PORT.fullmatch(address)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise ValueError(f"address {address!r} is not one of unix:/path, /path and host:port")
    if not secure and not _is_loopback(match["host"]):
        raise ValueError(
            f"address {address!r} is on another machine and needs TLS; set KEYD_CERTIFICATE, KEYD_PRIVATE_KEY and KEYD_CA to PEM files"
        )
    return f"dns:///{address}"


def is_unix(address: str) -> bool:
    """Say whether an address is a Unix socket's."""
    return address.startswith(("unix:", "/"))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
