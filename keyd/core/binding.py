"""Does ``Signature-Key`` name the key that is asked to sign?

keyd does not verify the signature of a token in it: the issuer's key is the verifier's to find and to trust, and a forged token
gains nothing, because the verifier refuses it whatever keyd signed. What is decided here is what only the signer can see to: that
its key vouches for no request which says that another key signed it, and for no kind of token that the profile does not have.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from math import inf
from typing import NamedTuple

from backends.api import Algorithm
from keyd.core import jwk, signature_key
from keyd.core.errors import BindingError
from keyd.core.signature_key import SignatureKey, Token


class Signing(NamedTuple):
    """The key version that shall sign."""

    algorithm: Algorithm
    kid: str
    thumbprint: str


class Rules(NamedTuple):
    """What a profile says about ``Signature-Key``.

    Attributes:
        types: values of ``typ`` of tokens under scheme ``jwt``.
        id: the only ``id`` of scheme ``jwks_uri``; None: any.
        dwk: like ``id``.
    """

    schemes: frozenset[signature_key.Scheme]
    types: frozenset[str]
    id: str | None
    dwk: str | None


def check(value: str, rules: Rules, signing: Signing, now: float) -> None:
    """Refuse a value of ``Signature-Key`` that does not bind ``signing``. ``now`` is in seconds since the epoch.

    Raises:
        BindingError: says what is not as it must be.
    """
    if _expiry(value, rules, signing) <= now:
        raise BindingError("the token of signature-key is over; get a new one")


@functools.lru_cache(maxsize=256)
def _expiry(value: str, rules: Rules, signing: Signing) -> float:
    """Return when the binding ends, which for a key without a token is never.

    An agent shows the same token with each request, so what was found is kept; it is true until then. A token that is kept here
    is of use only to who has the key.
    """
    member = signature_key.parse(value)
    if member.scheme not in rules.schemes:
        raise BindingError(f"the scheme of signature-key is none of {', '.join(sorted(rules.schemes))}")
    known, check_scheme = _SCHEMES[member.scheme]
    if not member.params.keys() <= known:
        raise BindingError(f"signature-key has a parameter that scheme {member.scheme} does not have")
    return check_scheme(member, rules, signing)


def _jwt(member: SignatureKey, rules: Rules, signing: Signing) -> float:
    token = signature_key.decode_token(member.string("jwt"))
    _check_header(token, frozenset({"alg", "typ", "kid"}))
    if token.header["typ"] not in rules.types:
        raise BindingError(f"the token of signature-key has none of the types {', '.join(sorted(rules.types))}")
    return _token_expiry(member, token, signing)


def _jkt_jwt(member: SignatureKey, _: Rules, signing: Signing) -> float:
    token = signature_key.decode_token(member.string("jwt"))
    _check_header(token, frozenset({"alg", "typ", "jwk"}))
    if token.header["typ"] != "jkt-s256+jwt":
        raise BindingError("the token of signature-key is not of type jkt-s256+jwt")
    issuer = _thumbprint(token.header.get("jwk"), "the jwk in the header of the token")
    if token.claims.get("iss") != f"urn:jkt:sha-256:{issuer}":
        raise BindingError("the token of signature-key has another issuer than the key in its header")
    _number(token.claims, "iat")
    return _token_expiry(member, token, signing)


def _jwks_uri(member: SignatureKey, rules: Rules, signing: Signing) -> float:
    if member.string("kid") != signing.kid:
        raise BindingError("the kid of signature-key is not that of the key version that signs")
    identity, document = member.string("id"), member.string("dwk")
    if not identity.startswith("https://") or "/" in document or document in ("", ".", ".."):
        raise BindingError("signature-key has an id that is no https URL, or a dwk that is no name of a document")
    if rules.id not in (None, identity) or rules.dwk not in (None, document):
        raise BindingError("signature-key has another id or dwk than the profile")
    return inf


def _hwk(member: SignatureKey, _: Rules, signing: Signing) -> float:
    if "alg" not in member.params:
        raise BindingError("signature-key lacks the parameter alg, a string")
    _check_jwk(member.params, signing, "the key in signature-key")
    return inf


_SCHEMES: Mapping[str, tuple[frozenset[str], Callable[[SignatureKey, Rules, Signing], float]]] = {
    "jwt": (frozenset({"jwt", "cache"}), _jwt),
    "jkt-jwt": (frozenset({"jwt", "cache"}), _jkt_jwt),
    "jwks_uri": (frozenset({"id", "dwk", "kid"}), _jwks_uri),
    "hwk": (frozenset({"kty", "crv", "x", "y", "n", "e", "alg"}), _hwk),  # no kid: the draft forbids it
}


def _check_header(token: Token, members: frozenset[str]) -> None:
    """Refuse what a verifier would, or should: among others ``crit``, ``b64``, ``jku``, and algorithms that sign nothing."""
    header = token.header
    if not header.keys() <= members:
        raise BindingError(f"the header of the token of signature-key has more than {', '.join(sorted(members))}")
    algorithm, typ = header.get("alg"), header.get("typ")
    if not isinstance(algorithm, str) or not isinstance(typ, str):
        raise BindingError("the header of the token of signature-key lacks alg or typ")
    if algorithm.lower() == "none" or algorithm.upper().startswith("HS") or (algorithm == "EdDSA" and typ.startswith("aa-")):
        raise BindingError("the token of signature-key is signed with an algorithm that its type does not allow")


def _token_expiry(member: SignatureKey, token: Token, signing: Signing) -> float:
    if "cache" in member.params and (member.params["cache"] is not True or not isinstance(token.claims.get("jti"), str)):
        raise BindingError("signature-key has a cache that is not true, or for a token without jti")
    confirmation = token.claims.get("cnf")
    if not isinstance(confirmation, dict) or confirmation.keys().isdisjoint(("jwk", "jkt")):
        raise BindingError("the token of signature-key binds no key: it has neither cnf.jwk nor cnf.jkt")
    if "jkt" in confirmation and confirmation["jkt"] != signing.thumbprint:
        raise _another_key("cnf.jkt in the token of signature-key")
    if "jwk" in confirmation:
        _check_jwk(confirmation["jwk"], signing, "cnf.jwk in the token of signature-key")
    return _number(token.claims, "exp")


def _check_jwk(value: object, signing: Signing, what: str) -> None:
    if _thumbprint(value, what) != signing.thumbprint:
        raise _another_key(what)
    if isinstance(value, Mapping) and value.get("alg", signing.algorithm.value) != signing.algorithm.value:
        raise BindingError(f"{what} has another alg than the key's, which is {signing.algorithm.value}")


def _another_key(what: str) -> BindingError:
    return BindingError(f"{what} is another key than the one that signs; get a token for it")


def _thumbprint(value: object, what: str) -> str:
    thumbprint = jwk.thumbprint(value) if isinstance(value, Mapping) else None
    if thumbprint is None:
        raise BindingError(f"{what} is not a public JWK")
    return thumbprint


def _number(claims: Mapping[str, object], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BindingError(f"the token of signature-key lacks {name}, a number")
    return value
