"""What must hold of everything that the parsers take: an independent structured-field library reads it the same way."""

from __future__ import annotations

from typing import Any

import http_sf

from keyd.core.signature_base import Component, SignatureBase
from keyd.core.signature_key import SignatureKey

LAST = '"@signature-params": '


def inner_list(base: bytes) -> tuple[list[tuple[str, dict[str, Any]]], dict[str, Any]]:
    """Return the covered components and the parameters of the last line, as the library reads them."""
    value = base.decode().rpartition("\n")[2].removeprefix(LAST)
    members: Any = http_sf.parse(value.encode(), tltype="list")
    assert http_sf.ser(members) == value
    (parsed,) = members
    items, params = parsed
    return items, params


def check_base(base: SignatureBase, data: bytes) -> None:
    """Compare a base with the bytes that it was read from."""
    assert base.serialise() == data
    items, params = inner_list(data)
    assert [seen(component) for component in base.components] == items
    assert base.parameters == params.keys()
    assert {name: getattr(base, name) for name in params} == params


def seen(component: Component) -> tuple[str, dict[str, Any]]:
    """Return a component in the form of the library."""
    return component.name, dict(component.params)


def check_signature_key(member: SignatureKey, value: str) -> None:
    """Compare a member of Signature-Key with the text that it was read from."""
    read: Any = http_sf.parse(value.encode(), tltype="dictionary")
    ((label, (scheme, params)),) = read.items()
    assert (member.label, member.scheme, dict(member.params)) == (label, str(scheme), dict(params))
