"""Authorities of requests: how a grant writes them, and what a signature base says.

An authority is compared as the verifier rebuilds it: lower case, without the default port (RFC 9421 section 2.2.3). Nothing is
normalised on the way. What is written in any other way is another text, and so not allowed.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

_LABEL = r"[a-z0-9](?:[a-z0-9_\-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_LABELS = re.compile(rf"(?:{_LABEL}\.)+")
_PORT = re.compile(r":(?:0|[1-9][0-9]{0,4})")
_NUMERIC = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")
MAX_HOST = 253


def check(authority: str) -> None:
    """Refuse what no verifier would rebuild: ``authority`` is one of a grant.

    Raises:
        ValueError: says how to write it.
    """
    if authority == "*":
        return
    if not authority.isascii():
        raise ValueError("an authority with other letters than ASCII; write its A-labels (xn--...), as requests carry them")
    if authority != authority.lower():
        raise ValueError("an authority is in lower case, as verifiers rebuild it")
    host, port = split(authority)
    if port and (not _PORT.fullmatch(port) or int(port[1:]) > 65535):
        raise ValueError("an authority is a host, or host:port, with a port up to 65535 and no leading zero")
    if port in {":80", ":443"}:
        raise ValueError("an authority leaves out the default ports 80 and 443, as verifiers do")
    _check_host(host.removeprefix("*."), wildcard=host.startswith("*."))


def check_dns(name: str) -> None:
    """Refuse what no certificate's DNS name can match. Raises ValueError."""
    if not name.isascii() or name != name.lower() or ":" in name or name == "*":
        raise ValueError('a DNS name is in lower case, with A-labels (xn--...), exact or "*." and a suffix')
    _check_host(name.removeprefix("*."), wildcard=name.startswith("*."))


def _check_host(host: str, *, wildcard: bool) -> None:
    if host.startswith("["):
        try:
            canonical = not wildcard and f"[{ipaddress.IPv6Address(host[1:-1])}]" == host
        except ValueError:
            canonical = False
        if not canonical:
            raise ValueError("an IPv6 address is in brackets, in its shortest form and without a zone")
    elif _NUMERIC.fullmatch(host):
        if wildcard or not _is_ipv4(host):
            raise ValueError("an IPv4 address has four decimal numbers")
    elif len(host) > MAX_HOST or not _NAME.fullmatch(host):
        raise ValueError('an authority is a host name, without a trailing dot, user, path or scheme; or "*." and a suffix')


def _is_ipv4(host: str) -> bool:
    try:
        return str(ipaddress.IPv4Address(host)) == host
    except ValueError:
        return False


def split(authority: str) -> tuple[str, str]:
    """Return the host, with brackets, and the port with its colon, or nothing for it."""
    host, colon, port = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        return authority, ""
    return host, f":{port}"


def suffix_matcher(allowed: str) -> Callable[[str], bool]:
    """Return what says whether an authority or DNS name is ``allowed``: exact, ``*.`` and a suffix, or ``*``.

    A suffix takes one label or more in front of it, never the bare domain, never another port.
    """
    if allowed == "*":
        return lambda _: True
    if not allowed.startswith("*."):
        return allowed.__eq__
    suffix = allowed[1:]

    def matches(authority: str) -> bool:
        return (
            authority.endswith(suffix)
            and len(authority) <= MAX_HOST + 6
            and _LABELS.fullmatch(authority[: 1 - len(suffix)]) is not None
        )

    return matches
