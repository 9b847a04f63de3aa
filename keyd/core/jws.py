"""JWS signing inputs of RFC 7515 whose payload is a JWT claims set, read strictly; and the way keyd builds its own."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from backends.api import Algorithm
from keyd.core.errors import InvalidArgumentError, MalformedError, SizeError

MAX_BYTES = 65536
MAX_DEPTH = 32

_SIGNING_INPUT = re.compile(rb"[A-Za-z0-9_-]++\.[A-Za-z0-9_-]++")
_HEADER_MEMBERS = frozenset({"alg", "typ", "kid"})
_REGISTERED = frozenset({"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "cnf"})


@dataclass(frozen=True, slots=True)
class JwsSigningInput:
    """A signing input that is well formed; whether a key may sign it is for :func:`keyd.core.profile.check_jws`."""

    alg: str
    typ: str | None
    kid: str | None
    claims: Mapping[str, Any] = field(repr=False)


def parse(data: bytes) -> JwsSigningInput:
    """Read ``base64url(header) "." base64url(claims)`` (RFC 7515 section 5.1, RFC 7519 section 7.1).

    The header has ``alg`` and at most ``typ`` and ``kid`` beside it: nothing that brings a key along or changes what is signed.

    Raises:
        SizeError: more than :data:`MAX_BYTES`.
        MalformedError: anything else is wrong with it.
    """
    if len(data) > MAX_BYTES:
        raise SizeError(f"a JWS signing input has at most {MAX_BYTES} bytes, got {len(data)}")
    if not _SIGNING_INPUT.fullmatch(data):
        raise MalformedError("a JWS signing input is two parts in base64url without padding, with one dot between them")
    header_part, claims_part = data.split(b".")
    header, claims = decode_object(header_part, "header"), decode_object(claims_part, "payload")
    _check_header(header)
    _check_claim_names(claims)
    return JwsSigningInput(header["alg"], header.get("typ"), header.get("kid"), claims)


def decode_object(part: bytes, what: str) -> Mapping[str, Any]:
    """Return the JSON object in a part of a JWS. ``what`` is what errors call it.

    Raises:
        MalformedError: not canonical base64url, not UTF-8, or not an object with distinct names.
    """
    return json_object(_decode(part, what), what)


def build(claims_json: str, *, typ: str, kid: str, algorithm: Algorithm, now: float, lifetime: float | None) -> bytes:
    """Return the signing input for ``claims_json``, the text of a JSON object, under a header of ``alg``, ``typ`` and ``kid``.

    The claims keep their order; ``iat`` is added when it is missing. ``now`` is in seconds since the epoch.

    Args:
        lifetime: seconds from ``now`` to the ``exp`` that is added; None when the claims have ``exp``.

    Raises:
        InvalidArgumentError: no ``typ``, a lifetime that is none, or a lifetime and ``exp``.
        MalformedError: the claims are not a JSON object that :func:`parse` takes.
        SizeError: more than :data:`MAX_BYTES`.
    """
    if not typ:
        raise InvalidArgumentError("typ is empty; say which type of token this is")
    if len(claims_json) > MAX_BYTES:
        raise SizeError(f"claims have at most {MAX_BYTES} bytes, got {len(claims_json)} characters")
    claims = dict(json_object(claims_json, "claims"))
    claims.setdefault("iat", int(now))
    if lifetime is not None:
        if "exp" in claims:
            raise InvalidArgumentError("the claims have exp and the request has a lifetime; leave one of them out")
        if not (math.isfinite(lifetime) and lifetime > 0):
            raise InvalidArgumentError("a lifetime is a number of seconds above 0")
        claims["exp"] = int(now + lifetime)
    data = with_header(b64url(_compact(claims, "claims")), typ=typ, kid=kid, algorithm=algorithm)
    parse(data)
    return data


def with_header(payload: str, *, typ: str, kid: str, algorithm: Algorithm) -> bytes:
    """Return ``payload``, base64url of claims as somebody sent it, under a header of ``alg``, ``typ`` and ``kid``; :func:`parse` reads it."""
    header = {"alg": algorithm.value, "typ": typ, "kid": kid}
    return f"{b64url(_compact(header, 'header'))}.{payload}".encode()


def b64url(data: bytes) -> str:
    """Return base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def from_b64url(part: bytes) -> bytes:
    """Return the octets of base64url without padding, in its one canonical form. Raises ValueError."""
    octets = base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    if base64.urlsafe_b64encode(octets).rstrip(b"=") != part:
        raise ValueError
    return octets


def _decode(part: bytes, what: str) -> str:
    try:
        return from_b64url(part).decode("utf-8")
    except ValueError:
        # `from None` here and below: the causes quote the input.
        raise MalformedError(f"the {what} is not canonical base64url of UTF-8") from None


def json_object(text: str, what: str) -> Mapping[str, Any]:
    """Return the JSON object that ``text`` is; ``what`` is what errors call it. Raises MalformedError as :func:`decode_object`."""
    try:
        value = _DECODER.decode(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # lone surrogates, which cannot be sent on
    except (ValueError, RecursionError):
        raise MalformedError(f"the {what} is not JSON with distinct member names, finite numbers and whole characters") from None
    if not isinstance(value, dict):
        raise MalformedError(f"the {what} is not a JSON object")
    _check_depth(value, text, what)
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError
    return members


def _not_a_number(_: str) -> NoReturn:
    raise ValueError


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_members, parse_constant=_not_a_number, parse_float=_finite)


def _check_depth(value: dict[str, Any], text: str, what: str) -> None:
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return
    raise MalformedError(f"the {what} nests deeper than {MAX_DEPTH} levels")


def _check_header(header: Mapping[str, Any]) -> None:
    if not header.keys() <= _HEADER_MEMBERS or "alg" not in header:
        raise MalformedError("the header has alg, and nothing beside it but typ and kid")
    if not all(isinstance(member, str) and member for member in header.values()):
        raise MalformedError("alg, typ and kid are strings that are not empty")


def _check_claim_names(claims: Mapping[str, Any]) -> None:
    """Refuse ``EXP`` beside ``exp``: some verifiers match member names without regard to case, and take the last one."""
    for name in claims:
        if name not in _REGISTERED and name.casefold() in _REGISTERED:
            raise MalformedError("the payload has a registered claim that is not in lower case")


def _compact(value: Mapping[str, Any], what: str) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
    except ValueError:
        raise MalformedError(f"the {what} cannot be written as JSON in UTF-8") from None
