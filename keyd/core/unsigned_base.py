"""Bases whose parameters are not signed: what LumoAuth's documents of March 2026 have signed, which is not RFC 9421.

They are the lines of a signature base without the last one, ``@signature-params``. So ``created``, ``keyid`` and the algorithm travel
beside the signature, and whoever has it may change them: nothing here can be checked for freshness, and a captured signature stays
good. Only a profile that says ``unsigned_parameters`` has its keys sign these, and such keys sign nothing else for HTTP.

The grammar is disjoint from that of a signature base, which must end with ``@signature-params``, which no line here can begin with,
and from that of a JWS signing input, which has no quote.
"""

from __future__ import annotations

from keyd.core.errors import MalformedError
from keyd.core.signature_base import SignatureBase, read_components, split


def parse(data: bytes) -> SignatureBase:
    """Read such a base, with the same strictness line by line. The result has no parameters.

    Raises:
        SizeError: more than a signature base may have.
        MalformedError: not such a base; a signature base of RFC 9421 is not.
    """
    components = read_components(split(data))
    for component in components:
        if component.params:
            raise MalformedError("a base without signed parameters has components without parameters")
    return SignatureBase(components, frozenset(), None)
