"""Profiles: the rules that a signature base or a token must meet before a key signs it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from backends.api import Algorithm
from keyd.core import binding, signature_base, unsigned_base
from keyd.core.binding import Signing
from keyd.core.errors import (
    AlgorithmError,
    BindingError,
    ClaimsError,
    CoverageError,
    FreshnessError,
    KeyIdError,
    RefusedError,
    TagError,
)
from keyd.core.jws import JwsSigningInput
from keyd.core.signature_base import DIRECTORY_TAG, Component, SignatureBase
from keyd.core.signature_key import Scheme


@dataclass(frozen=True, slots=True)
class Profile:
    """A named set of rules. Times are in seconds.

    Attributes:
        required_components: component names without quotes, for example ``@method``. ``a|b`` asks for one of the two, and
            ``a;req`` for the component of the request that a response answers.
        exact_components: the lists that the components may be, each with spaces between the names; empty: any list.
        allow_response_components: ``@status``, ``;req``, and covering another signature, which only a response needs.
        max_created_age: None leaves ``created`` as old as it is.
        max_expires_in: from ``created``, or from now without it, to ``expires``.
        tag: the exact value; None takes any, or none, but the tag of a key directory.
        min_nonce_length: in characters.
        keyid_is_thumbprint: a ``keyid`` must be the RFC 7638 thumbprint, whatever kid or alias the key has.
        signature_key_schemes: of ``Signature-Key``, which must then be covered and name the key that signs; empty: not looked at.
        signature_key_types: values of ``typ`` of the token under scheme ``jwt``.
        signature_key_id: the only ``id`` under scheme ``jwks_uri``; None: any.
        signature_key_dwk: like ``signature_key_id``.
        allow_empty_signature_key: a covered ``Signature-Key`` may be empty, which LumoAuth signs for one that is not there.
        unsigned_parameters: the key signs bases without ``@signature-params`` (:mod:`keyd.core.unsigned_base`), and no others.
        jwt_types: values of ``typ``, compared without regard to case.
        max_jwt_lifetime: from now to ``exp``.
        jwt_lifetimes: by ``typ``, the same where it is less.
        jwt_types_with_cnf: types that need a claim ``cnf`` with a key or its thumbprint.
        jwt_claims: by ``typ``, claims that have to be there and not be empty.
        require_jwt_kid: the header must have ``kid``.
        allow_eddsa: an ``Ed25519`` key also signs under the JOSE name ``EdDSA``, which RFC 9864 deprecates, except for
            ``aa-*`` types, which forbid it.
    """

    name: str
    required_components: tuple[str, ...] = ()
    exact_components: tuple[str, ...] = ()
    allow_empty_coverage: bool = False
    allow_response_components: bool = False
    required_parameters: frozenset[str] = frozenset({"created"})
    forbidden_parameters: frozenset[str] = frozenset()
    max_created_age: float | None = 30.0
    max_created_ahead: float = 5.0
    max_expires_in: float = 300.0
    tag: str | None = None
    min_nonce_length: int = 0
    keyid_is_thumbprint: bool = False
    signature_key_schemes: frozenset[Scheme] = frozenset()
    signature_key_types: frozenset[str] = frozenset({"aa-agent+jwt", "aa-person+jwt", "aa-auth+jwt"})
    signature_key_id: str | None = None
    signature_key_dwk: str | None = None
    allow_empty_signature_key: bool = False
    unsigned_parameters: bool = False
    jwt_types: frozenset[str] = frozenset({"JWT", "at+jwt", "agent+jwt", "resource+jwt", "aa-agent+jwt", "aa-resource+jwt"})
    max_jwt_lifetime: float = 86400.0
    jwt_lifetimes: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    jwt_types_with_cnf: frozenset[str] = frozenset()
    jwt_claims: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    require_jwt_kid: bool = False
    allow_eddsa: bool = True


_BOT_PARAMETERS = frozenset({"created", "expires", "keyid", "tag"})

#: draft-hardt-oauth-aauth-protocol-11. An agent shows a token that binds its key; a server names a key that it publishes.
_AAUTH = Profile(
    "aauth",
    required_components=("@method", "@authority", "@path", "signature-key"),
    forbidden_parameters=frozenset({"alg"}),
    signature_key_schemes=frozenset({"jwt"}),
    jwt_types=frozenset({"aa-agent+jwt", "aa-person+jwt", "aa-resource+jwt", "aa-auth+jwt"}),
    jwt_lifetimes=MappingProxyType({"aa-person+jwt": 3600.0, "aa-resource+jwt": 300.0, "aa-auth+jwt": 3600.0}),
    jwt_types_with_cnf=frozenset({"aa-agent+jwt", "aa-person+jwt", "aa-auth+jwt"}),
    # What ties a resource token to the request that it answers. Not `scope`, which a companion of the draft may replace.
    jwt_claims=MappingProxyType(
        {"aa-resource+jwt": ("iss", "dwk", "aud", "jti", "ps", "sub", "presented_jti", "agent_jkt", "iat")}
    ),
    require_jwt_kid=True,
    allow_eddsa=False,
)

BUILT_IN: Mapping[str, Profile] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            Profile("rfc9421"),
            _AAUTH,
            replace(_AAUTH, name="aauth-server", signature_key_schemes=frozenset({"jwks_uri"})),
            # An agent whose key another key of its own vouches for (draft-hardt-httpbis-signature-key-08, scheme jkt-jwt).
            replace(_AAUTH, name="aauth-delegate", signature_key_schemes=frozenset({"jkt-jwt"}), jwt_types=frozenset()),
            # draft-meunier-webbotauth-httpsig-protocol-02, and what Cloudflare verifies. That it takes requests without
            # Signature-Agent is why this is not required here.
            Profile(
                "web-bot-auth",
                required_components=("@authority|@target-uri",),
                required_parameters=_BOT_PARAMETERS,
                max_expires_in=86400.0,
                tag="web-bot-auth",
                keyid_is_thumbprint=True,
            ),
            # What version 1.1.0 of LumoAuth's SDK signs. A nonce of 12 bytes is 16 characters of base64url.
            Profile(
                "lumoauth",
                exact_components=("@method @authority @path signature-key content-digest content-type authorization",),
                required_parameters=frozenset({"created", "nonce"}),
                forbidden_parameters=frozenset({"expires", "alg", "keyid", "tag"}),
                min_nonce_length=16,
                signature_key_schemes=frozenset({"jwt", "jwks_uri", "hwk"}),
                signature_key_types=frozenset({"agent+jwt", "auth+jwt"}),
                allow_empty_signature_key=True,
                jwt_types=frozenset({"agent+jwt", "resource+jwt"}),
                jwt_lifetimes=MappingProxyType({"resource+jwt": 300.0}),
                jwt_types_with_cnf=frozenset({"agent+jwt", "resource+jwt"}),
            ),
            # Service account tokens (KEP-740), and no base, for no component has such a name. The half minute is for the clocks of
            # kube-apiserver and keyd, which may go by its database's: what kube-apiserver may ask for must not fail by a second.
            Profile(
                "kubernetes",
                exact_components=("(nothing)",),
                max_created_ahead=30.0,
                jwt_types=frozenset({"JWT"}),
                max_jwt_lifetime=86400.0 + 30.0,
                require_jwt_kid=True,
                allow_eddsa=False,
            ),
        )
    }
)

#: Responses of a key directory have one form, whatever the profile of the key that signs them.
DIRECTORY = Profile(
    "directory",
    required_components=("@authority;req",),
    allow_response_components=True,
    required_parameters=_BOT_PARAMETERS,
    max_expires_in=86400.0,
    tag=DIRECTORY_TAG,
    keyid_is_thumbprint=True,
)

_YEAR_9999 = 253402300799
_SIGNATURE_FIELDS = frozenset({"signature", "signature-input"})
_PARAMETER_ERRORS: Mapping[str, type[RefusedError]] = {"alg": AlgorithmError, "keyid": KeyIdError, "tag": TagError}


def read_base(data: bytes, profile: Profile) -> SignatureBase:
    """Read what a key with this profile signs as a signature base. Raises MalformedError and SizeError."""
    return unsigned_base.parse(data) if profile.unsigned_parameters else signature_base.parse(data)


def check_base(
    base: SignatureBase, profile: Profile, signing: Signing, *, now: float, not_after: float, directory: bool = False
) -> None:
    """Refuse a base that breaks the profile. Whose ``keyid`` it names is for the caller to check.

    Args:
        signing: the key version that is to sign.
        now: seconds since the epoch.
        not_after: when the public key leaves the JWK Set; ``expires`` may not be later.
        directory: the base is for a response of a key directory; then :data:`DIRECTORY` stands in for ``profile``.

    Raises:
        TagError: ``tag`` is missing or another.
        CoverageError: a component is missing or may not be covered.
        AlgorithmError: ``alg`` is another algorithm, missing, or not to be sent.
        FreshnessError: ``created``, ``expires`` or ``nonce`` is missing, not to be sent, too short, or outside of its window.
        KeyIdError: ``keyid`` is missing, not to be sent, or not the thumbprint.
        BindingError: ``Signature-Key`` does not name ``signing`` in a way that the profile takes.
    """
    rules = DIRECTORY if directory else profile
    _check_tag(base.tag, rules)
    if base.signature_params is not None:
        _check_parameters(base, rules, signing)
    shape = base.shape
    if shape is None or rules not in shape.suits:
        _check_coverage(base.components, rules)
        _check_response_components(base.components, rules)
        if shape is not None:
            shape.note(rules)
    _check_created(base.created, rules, now)
    _check_expires(base, rules, now, not_after)
    if rules.signature_key_schemes:
        _check_signature_key(base.components, rules, signing, now)


def check_jws(jws: JwsSigningInput, profile: Profile, *, algorithm: Algorithm, now: float, not_after: float) -> None:
    """Refuse a token that breaks the profile. Whose ``kid`` it names is for the caller to check.

    Args:
        algorithm: of the key that is to sign.
        now: seconds since the epoch.
        not_after: when the public key leaves the JWK Set; ``exp`` may not be later.

    Raises:
        TagError: ``typ`` is missing or not one of the profile's.
        AlgorithmError: ``alg`` is not the key's.
        FreshnessError: ``exp``, ``iat`` or ``nbf`` is missing, not a number, or outside of its window.
        KeyIdError: ``kid`` is missing.
        BindingError: ``cnf`` is missing or empty.
        ClaimsError: another claim is missing or empty that a token of this type has.
    """
    _check_typ(jws.typ, profile)
    if profile.require_jwt_kid and jws.kid is None:
        raise KeyIdError(f"profile {profile.name!r} requires a kid in the header")
    _check_jose_name(jws, profile, algorithm)
    expires = _check_exp(jws, profile, now, not_after)
    _check_iat_and_nbf(jws.claims, profile, now, expires)
    _check_cnf(jws, profile)
    _check_claims(jws, profile)


def signs_type(profile: Profile, typ: str) -> bool:
    """Say whether a token of this ``typ`` is one of the profile's."""
    return typ.isascii() and typ.lower() in {name.lower() for name in profile.jwt_types}


def jwt_lifetime(profile: Profile, typ: str) -> float:
    """Return how far ahead, in seconds, the profile allows ``exp`` in a token of this ``typ``."""
    of_type = [seconds for name, seconds in profile.jwt_lifetimes.items() if name.lower() == typ.lower()]
    return min(profile.max_jwt_lifetime, *of_type) if of_type else profile.max_jwt_lifetime


def _check_tag(tag: str | None, profile: Profile) -> None:
    if profile.tag is not None and tag != profile.tag:
        raise TagError(f"profile {profile.name!r} signs nothing but tag {profile.tag!r}")
    if tag == DIRECTORY_TAG and profile is not DIRECTORY:
        raise TagError(f"tag {DIRECTORY_TAG!r} is for responses of a key directory only")


def _check_parameters(base: SignatureBase, profile: Profile, signing: Signing) -> None:
    present = base.parameters
    if not (present >= profile.required_parameters and present.isdisjoint(profile.forbidden_parameters)):
        raise _wrong_parameters(present, profile)
    if base.alg is not None and base.alg != signing.algorithm.http_name:
        raise AlgorithmError(f"the base names another alg than the key's, which is {signing.algorithm.http_name}")
    if profile.keyid_is_thumbprint and base.keyid not in (None, signing.thumbprint):
        raise KeyIdError(f"profile {profile.name!r} wants the thumbprint of the key as keyid")
    if base.nonce is not None and len(base.nonce) < profile.min_nonce_length:
        raise FreshnessError(f"profile {profile.name!r} wants a nonce of at least {profile.min_nonce_length} characters")


def _wrong_parameters(present: frozenset[str], profile: Profile) -> RefusedError:
    missing = profile.required_parameters - present
    name = min(missing or profile.forbidden_parameters & present)
    fault = "requires" if missing else "does not allow"
    return _PARAMETER_ERRORS.get(name, FreshnessError)(f"profile {profile.name!r} {fault} the signature parameter {name}")


def _check_coverage(components: tuple[Component, ...], profile: Profile) -> None:
    if profile.exact_components:
        # Without the quotes of the names, which the configuration does not have.
        listed = " ".join([c.identifier.replace('"', "", 2) for c in components])
        if listed not in profile.exact_components:
            raise CoverageError(
                f"profile {profile.name!r} covers exactly {', or '.join(profile.exact_components)}, in that order"
            )
    # A trailer field is another field than the header field of that name, so `;tr` covers nothing that is asked for.
    covered = {f"{c.name};req" if "req" in c.params else c.name for c in components if "tr" not in c.params}
    if not components and not profile.allow_empty_coverage:
        raise CoverageError("the base covers no component, so its signature would fit any message; cover some")
    for required in profile.required_components:
        if covered.isdisjoint(required.split("|")):
            raise CoverageError(f"profile {profile.name!r} requires that {required.replace('|', ' or ')} is covered")


def _check_response_components(components: Iterable[Component], profile: Profile) -> None:
    if profile.allow_response_components:
        return
    for component in components:
        if component.name == "@status" or "req" in component.params:
            raise CoverageError(f"profile {profile.name!r} signs requests, and @status and ;req are of responses")
        if component.name in _SIGNATURE_FIELDS:
            raise CoverageError(f"profile {profile.name!r} does not allow to cover {component.name}, another signature")


def _check_signature_key(components: Iterable[Component], profile: Profile, signing: Signing, now: float) -> None:
    covered = [component for component in components if component.name == "signature-key"]
    if not covered:
        raise CoverageError(f"profile {profile.name!r} requires that signature-key is covered")
    if len(covered) > 1 or covered[0].params:
        raise BindingError("signature-key is covered once, without parameters, so that all of it is signed as it is sent")
    value = covered[0].value
    if value or not profile.allow_empty_signature_key:
        rules = binding.Rules(
            profile.signature_key_schemes, profile.signature_key_types, profile.signature_key_id, profile.signature_key_dwk
        )
        binding.check(value, rules, signing, now)


def _check_created(created: int | None, profile: Profile, now: float) -> None:
    if created is None:
        return
    if created > now + profile.max_created_ahead:
        raise FreshnessError(f"created is more than {profile.max_created_ahead:g} s ahead; check the clocks")
    if profile.max_created_age is not None and created < now - profile.max_created_age:
        raise FreshnessError(f"created is more than {profile.max_created_age:g} s ago; make a new base")


def _check_expires(base: SignatureBase, profile: Profile, now: float, not_after: float) -> None:
    if base.expires is None:
        return
    start = now if base.created is None else base.created
    if base.expires <= max(now, start):
        raise FreshnessError("expires is over already, or not after created")
    if base.expires > start + profile.max_expires_in:
        raise FreshnessError(f"profile {profile.name!r} allows expires at most {profile.max_expires_in:g} s after created")
    if base.expires > not_after:
        raise FreshnessError("expires is later than the end of publication of the key; ask for less")


def _check_typ(typ: str | None, profile: Profile) -> None:
    # An "application/" prefix is in no list: RFC 7515 section 4.1.9 recommends to leave it out, and one form is enough.
    if typ is None or not signs_type(profile, typ):
        raise TagError(f"profile {profile.name!r} signs typ {', '.join(sorted(profile.jwt_types))} only, without a prefix")


def _check_jose_name(jws: JwsSigningInput, profile: Profile, algorithm: Algorithm) -> None:
    if jws.alg == algorithm.value:
        return
    aauth = jws.typ is not None and jws.typ.lower().startswith("aa-")
    if not (jws.alg == "EdDSA" and algorithm is Algorithm.ED25519 and profile.allow_eddsa and not aauth):
        raise AlgorithmError(f"the header names another alg than the key's, which is {algorithm.value}")


def _check_exp(jws: JwsSigningInput, profile: Profile, now: float, not_after: float) -> float:
    expires = _numeric_date(jws.claims, "exp")
    if expires is None:
        raise FreshnessError("the token has no exp; add it, or ask for a lifetime")
    if expires <= now:
        raise FreshnessError("exp is over already")
    lifetime = jwt_lifetime(profile, jws.typ or "")
    if expires > now + lifetime:
        raise FreshnessError(f"profile {profile.name!r} allows exp at most {lifetime:g} s ahead")
    if expires > not_after:
        raise FreshnessError("exp is later than the end of publication of the key; ask for less")
    return expires


def _check_iat_and_nbf(claims: Mapping[str, Any], profile: Profile, now: float, expires: float) -> None:
    issued, not_before = _numeric_date(claims, "iat"), _numeric_date(claims, "nbf")
    if issued is not None and issued > now + profile.max_created_ahead:
        raise FreshnessError(f"iat is more than {profile.max_created_ahead:g} s ahead; check the clocks")
    if not_before is not None and not_before >= expires:
        raise FreshnessError("nbf is not before exp")


def _check_cnf(jws: JwsSigningInput, profile: Profile) -> None:
    if (jws.typ or "").lower() not in {typ.lower() for typ in profile.jwt_types_with_cnf}:
        return
    confirmation = jws.claims.get("cnf")
    if not isinstance(confirmation, dict) or not (confirmation.get("jwk") or confirmation.get("jkt")):
        raise BindingError(f"profile {profile.name!r} wants a token of this type to have cnf, with the key of its holder")


def _check_claims(jws: JwsSigningInput, profile: Profile) -> None:
    required = [claims for typ, claims in profile.jwt_claims.items() if typ.lower() == (jws.typ or "").lower()]
    missing = [name for claims in required for name in claims if jws.claims.get(name) in (None, "", [], {})]
    if missing:
        raise ClaimsError(f"profile {profile.name!r} wants a token of this type to have {', '.join(missing)}")


def _numeric_date(claims: Mapping[str, Any], name: str) -> float | None:
    """Return a NumericDate of RFC 7519 section 2, or None when the claim is missing. JSON ``null`` is not missing."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _YEAR_9999:
        raise FreshnessError(f"{name} is not a number of seconds since 1970")
    return value
