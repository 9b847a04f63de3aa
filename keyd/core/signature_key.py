"""The field ``Signature-Key`` (draft-hardt-httpbis-signature-key-08), read strictly: which key a request says that it is signed with.

It is a dictionary of RFC 8941 whose members are tokens with parameters. keyd reads the part that it can judge: one member, and
parameters that are strings or booleans. Whatever it takes, a structured-field library reads the same way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

from keyd.core import jws
from keyd.core.errors import BindingError, MalformedError

#: The schemes whose key can be compared with the one that signs. ``jwks``, ``x509`` and ``cached`` name a document elsewhere,
#: and ``self-jwt`` has no key in it.
Scheme = Literal["jwt", "jwks_uri", "hwk", "jkt-jwt"]

_KEY = r"[a-z*][a-z0-9_.*\-]*+"
_MEMBER = re.compile(rf"({_KEY})=([A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*+)")
_PARAMETER = re.compile(rf'; *+({_KEY})(?:=(?:("[ !#-\[\]-~]*+(?:\\["\\][ !#-\[\]-~]*+)*+")|\?([01])))?+')
_ESCAPE = re.compile(r"\\(.)")
_JWT = re.compile(r"([A-Za-z0-9_-]++)\.([A-Za-z0-9_-]++)\.[A-Za-z0-9_-]++")


class SignatureKey(NamedTuple):
    """The one member of the field. The parameters may hold a token: never show them.

    Attributes:
        label: of the signature that it is for.
        params: in their order; a parameter without a value is true.
    """

    label: str
    scheme: str
    params: Mapping[str, str | bool]

    def __repr__(self) -> str:
        return f"SignatureKey({self.label}={self.scheme})"

    def string(self, name: str) -> str:
        """Return a parameter that must be there. Raises BindingError when it is not, or no string."""
        value = self.params.get(name)
        if not isinstance(value, str):
            raise BindingError(f"signature-key lacks the parameter {name}, a string")
        return value


class Token(NamedTuple):
    """A token of the field, decoded and not verified."""

    header: Mapping[str, object]
    claims: Mapping[str, object]

    def __repr__(self) -> str:
        return "Token()"


def parse(value: str) -> SignatureKey:
    """Read a value of the field, without white space around it.

    Raises:
        BindingError: it is anything but one ``label=scheme`` with distinct parameters.
    """
    match = _MEMBER.match(value)
    if match is None:
        raise BindingError("signature-key is not a label, =, and a scheme")
    position, params = match.end(), dict[str, str | bool]()
    while position < len(value):
        parameter = _PARAMETER.match(value, position)
        if parameter is None:
            raise BindingError(
                "after the scheme of signature-key stand only parameters that are strings or booleans; one member, no more"
            )
        name, string, boolean = parameter.groups()
        if name in params:
            raise BindingError("signature-key has a parameter twice")
        params[name] = boolean != "0" if string is None else _unquote(string)
        position = parameter.end()
    return SignatureKey(match[1], match[2], params)


def decode_token(text: str) -> Token:
    """Decode a JWT in the compact form of RFC 7515 section 7.1, without verifying it.

    Raises:
        BindingError: it is not three parts in canonical base64url, of which the first two are JSON objects.
    """
    match = _JWT.fullmatch(text)
    if match is None:
        raise BindingError("the token of signature-key is not three parts in base64url with dots between them")
    try:
        return Token(jws.decode_object(match[1].encode(), "header"), jws.decode_object(match[2].encode(), "payload"))
    except MalformedError as error:
        raise BindingError(f"the token of signature-key: {error}") from None


def _unquote(string: str) -> str:
    text = string[1:-1]
    return _ESCAPE.sub(r"\1", text) if "\\" in text else text
