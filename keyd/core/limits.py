"""The limits of a grant, one function each: None when the request is within it, else the error that says why not.

The verifier rebuilds a signature base from the real request. So what a base says of it is true or worthless, and a limit on it is a
limit on the requests that the signature can be used for. That needs the component to be covered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from keyd.core.errors import (
    AudienceError,
    AuthorityError,
    FreshnessError,
    GrantError,
    IssuerError,
    KeydError,
    MethodError,
    PathError,
    TagError,
)
from keyd.core.grants import Grant
from keyd.core.model import Purpose
from keyd.core.signing_request import SigningRequest

Check = Callable[[Grant, SigningRequest], KeydError | None]

_URI = re.compile(r"(https?)://([^/?#]++)([^?#]*+)", re.IGNORECASE)
#: What every server reads in the same way; most paths are so, and this is the fast way to know it.
_PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9_~\-][A-Za-z0-9_~.\-]*+)++/?+")
#: What one server reads in another way than the next: dot segments, with path parameters too; an escaped dot, slash, backslash,
#: percent sign or NUL; overlong UTF-8; escapes that are none; backslashes; empty segments.
_ODD_PATH = re.compile(r"(?:^|/)\.\.?(?:[;/]|$)|%(?:2[ef5]|5c|00|c[01]|(?![0-9a-f]{2}))|\\|//|[^!-~]", re.IGNORECASE)


def _profile(grant: Grant, request: SigningRequest) -> KeydError | None:
    if grant.profiles is None or request.profile in grant.profiles:
        return None
    return _refusal(GrantError, grant, f"is not for keys with profile {request.profile!r}")


def _authority(grant: Grant, request: SigningRequest) -> KeydError | None:
    covered = request.covered
    authority = covered.get("@authority")
    if authority is None and "@target-uri" not in covered:
        return _refusal(AuthorityError, grant, "needs a base that covers @authority or @target-uri")
    if "@target-uri" in covered or "@request-target" in covered:
        named = _authorities(covered)
        if len(named) != 1:
            return _refusal(AuthorityError, grant, "needs a base that names one authority in one way")
        (authority,) = named
    if authority is None or not grant.allows_authority(authority):
        return _refusal(AuthorityError, grant, "does not have the authority that the base is for")
    return None


def _authorities(covered: Mapping[str, str]) -> set[str]:
    """Return every authority that the components name, as they are written; more than one also where schemes contradict."""
    named = {covered["@authority"]} if "@authority" in covered else set()
    schemes = {covered["@scheme"]} if "@scheme" in covered else set()
    for uri in (covered.get("@target-uri"), _not_a_path(covered.get("@request-target"))):
        if uri is not None:
            match = _URI.fullmatch(uri.partition("?")[0])
            named.add(match[2] if match else uri)
            schemes |= {match[1]} if match else set()
    return named if len(schemes) <= 1 else named | {""}


def _not_a_path(target: str | None) -> str | None:
    """Return a request target that names an authority of its own, or may be taken for one (RFC 9112 section 3.2)."""
    return None if target is None or target == "*" or (target[0] == "/" and target[:2] != "//") else target


def _method(grant: Grant, request: SigningRequest) -> KeydError | None:
    method = request.covered.get("@method")
    if grant.methods is None or method in grant.methods:
        return None
    wrong = "needs a base that covers @method" if method is None else "does not have the method of the base"
    return _refusal(MethodError, grant, wrong)


def _path(grant: Grant, request: SigningRequest) -> KeydError | None:
    covered = request.covered
    path, others = covered.get("@path"), False
    if "@target-uri" in covered or "@request-target" in covered:
        paths = _paths(covered)
        path, others = paths.pop(), len(paths) > 0
    if path is None:
        return _refusal(PathError, grant, "needs a base that covers @path or @target-uri")
    if others or not (_PLAIN_PATH.fullmatch(path) or not _ODD_PATH.search(path)):
        return _refusal(
            PathError, grant, "needs a path in plain form: one, without dot segments, //, backslashes or their escapes"
        )
    if not grant.allows_path(path):
        return _refusal(PathError, grant, "does not have the path that the base is for")
    return None


def _paths(covered: Mapping[str, str]) -> set[str]:
    paths = {covered["@path"]} if "@path" in covered else set()
    for value in (covered.get("@target-uri"), covered.get("@request-target")):
        if value is not None:
            raw = value.partition("?")[0]
            match = _URI.fullmatch(raw)
            paths.add((match[3] or "/") if match else raw)
    return paths


def _jwt_type(grant: Grant, request: SigningRequest) -> KeydError | None:
    typ = request.token.typ if request.token is not None else None
    if grant.jwt_types is None or (typ is not None and typ.isascii() and typ.lower() in grant.jwt_types):
        return None
    return _refusal(TagError, grant, "does not have the typ of the token")


def _issuer(grant: Grant, request: SigningRequest) -> KeydError | None:
    issuer = _claims(request).get("iss")
    if grant.issuers is None or (isinstance(issuer, str) and issuer in grant.issuers):
        return None
    return _refusal(IssuerError, grant, "does not have the iss of the token" if issuer is not None else "needs a token with iss")


def _audience(grant: Grant, request: SigningRequest) -> KeydError | None:
    audience = _claims(request).get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if grant.audiences is None or (audiences and all(isinstance(aud, str) and aud in grant.audiences for aud in audiences)):
        return None
    wrong = "needs a token with aud" if audience in (None, []) else "does not have every aud of the token"
    return _refusal(AudienceError, grant, wrong)


def _lifetime(grant: Grant, request: SigningRequest) -> KeydError | None:
    claims, limit = _claims(request), grant.max_jwt_lifetime
    expires, issued = claims.get("exp"), claims.get("iat", request.now)
    if limit is None or (_number(expires) and _number(issued) and expires - min(issued, request.now) <= limit):
        return None
    return _refusal(FreshnessError, grant, f"allows exp at most {limit:g} s after iat and after now")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _claims(request: SigningRequest) -> Mapping[str, Any]:
    return request.token.claims if request.token is not None else {}


def _refusal(error: type[KeydError], grant: Grant, wrong: str) -> KeydError:
    return error(f"grant {grant.name!r} {wrong}", grant=grant.name)


_HTTP, _DIRECTORY, _JWT = Purpose.HTTP, Purpose.DIRECTORY, Purpose.JWT

#: In the order in which a request goes through them: field of the grant, the purposes that it limits, the check.
CHECKS: tuple[tuple[str, frozenset[Purpose], Check], ...] = (
    ("profiles", frozenset(Purpose), _profile),
    ("authorities", frozenset({_HTTP, _DIRECTORY}), _authority),
    ("methods", frozenset({_HTTP}), _method),
    ("paths", frozenset({_HTTP}), _path),
    ("jwt_types", frozenset({_JWT}), _jwt_type),
    ("issuers", frozenset({_JWT}), _issuer),
    ("audiences", frozenset({_JWT}), _audience),
    ("max_jwt_lifetime", frozenset({_JWT}), _lifetime),
)
