"""The host that a request over HTTP is for, from what the client says, which may be anything."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

_LONGEST = 300
# The grammar of RFC 3986 section 3.2.2 without percent-encoding, which no host that anybody configures needs.
_HOST = re.compile(rb"(?:\[(?P<v6>[0-9a-f:.]{2,45})\]|(?P<name>[a-z0-9._~!$&'()*+,;=\-]*))(?::(?P<port>[0-9]{0,5}))?")


class BadHostError(ValueError):
    """The request has more than one Host, or one that is no host (RFC 9112 section 3.2: answer 400)."""


def host_of(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str, str]:
    """Return host, in lower case and with brackets around an IPv6 address in its shortest form, and port of a request.

    Both are empty where the request does not say. They are for comparing only: what was sent is never sent back.

    Args:
        headers: names in lower case, with values, as ASGI has them; ``:authority`` of HTTP/2 is ``host`` there.

    Raises:
        BadHostError: it cannot be told.
    """
    values = [value for name, value in headers if name == b"host"]
    if not values:
        return "", ""
    match = _HOST.fullmatch(values[0].lower()) if len(values) == 1 and len(values[0]) <= _LONGEST else None
    if match is None:
        raise BadHostError
    digits = (match["port"] or b"").decode()
    port = digits.lstrip("0") or digits[:1]
    if match["v6"] is None:
        return match["name"].decode(), port
    try:
        return f"[{ipaddress.IPv6Address(match['v6'].decode())}]", port
    except ValueError:
        raise BadHostError from None
