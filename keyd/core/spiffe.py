"""SPIFFE IDs (SPIFFE-ID specification, section 2).

The ``spiffe`` package has a parser as well. It turns upper case into lower, takes a line feed at the end, and knows no length, and
an identity that is compared with grants may have one spelling only.
"""

from __future__ import annotations

import re

_MAX_BYTES = 2048
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}+", re.ASCII)
_ID = re.compile(
    r"spiffe://(?P<trust_domain>[a-z0-9._-]{1,255}+)(?:/(?!\.{1,2}+(?:/|\Z))[A-Za-z0-9._-]++)++",
    re.ASCII,
)


def is_trust_domain(name: str) -> bool:
    """Say whether this is the name of a trust domain, without the scheme, such as ``example.org``."""
    return _TRUST_DOMAIN.fullmatch(name) is not None


def trust_domain_of(spiffe_id: str) -> str | None:
    """Return the trust domain of a workload's SPIFFE ID; None when it is not one.

    The ID is ASCII, at most 2048 bytes, has a trust domain in lower case and a path whose segments are neither empty nor dots. There
    is no user, port, query, fragment or percent-encoding. An ID without a path is a trust domain's own, and not a workload's.
    """
    match = _ID.fullmatch(spiffe_id) if len(spiffe_id) <= _MAX_BYTES else None
    return match["trust_domain"] if match else None
