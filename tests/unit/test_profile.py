"""The rules of profiles, each with an input that meets it and one that breaks it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from backends.api import Algorithm
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
from keyd.core.profile import BUILT_IN, Profile, check_base, check_jws
from keyd.core.signature_base import DIRECTORY_TAG, parse

NOW = 1_800_000_000.5
T = 1_800_000_000
PLAIN = BUILT_IN["rfc9421"]
BOT = BUILT_IN["web-bot-auth"]
AAUTH = Profile(
    "no-alg",
    required_components=("@method", "@authority", "@path", "signature-key"),
    forbidden_parameters=frozenset({"alg", "keyid"}),
)
VALUES = {"@method": "GET", "@authority": "a.example", "@path": "/", "@target-uri": "https://a.example/", "@status": "200"}


def check(
    components: str,
    parameters: str,
    profile: Profile = PLAIN,
    *,
    algorithm: Algorithm = Algorithm.ED25519,
    not_after: float = math.inf,
    directory: bool = False,
) -> None:
    """Check a base that covers ``components``, which are identifiers without quotes around the name."""
    identifiers = []
    lines = []
    for component in components.split():
        name, semicolon, rest = component.partition(";")
        identifiers.append(f'"{name}"{semicolon}{rest}')
        lines.append(f"{identifiers[-1]}: {VALUES.get(name, 'v')}")
    lines.append(f'"@signature-params": ({" ".join(identifiers)}){parameters}')
    base = parse("\n".join(lines).encode())
    signing = Signing(algorithm, "kid", "k")  # its thumbprint is the keyid of all bases here
    check_base(base, profile, signing, now=NOW, not_after=not_after, directory=directory)


CREATED = f";created={T}"
BOT_PARAMETERS = f';created={T};expires={T + 60};keyid="k";tag="web-bot-auth"'
DIRECTORY_PARAMETERS = f';created={T};expires={T + 86400};keyid="k";tag="{DIRECTORY_TAG}"'
AAUTH_COMPONENTS = "@method @authority @path signature-key"

ACCEPTED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "plain": ("@method", CREATED, {}),
    "oldest created": ("@method", f";created={T - 29}", {}),
    "created ahead": ("@method", f";created={T + 5}", {}),
    "old created, not checked": ("@method", ";created=1", {"profile": replace(PLAIN, max_created_age=None)}),
    "no created, not required": ("@method", "", {"profile": replace(PLAIN, required_parameters=frozenset())}),
    "longest expires": ("@method", f"{CREATED};expires={T + 300}", {}),
    "expires with the key": ("@method", f"{CREATED};expires={T + 60}", {"not_after": T + 60}),
    "alg of the key": ("@method", f'{CREATED};alg="ed25519"', {}),
    "alg of another key": ("@method", f'{CREATED};alg="rsa-pss-sha512"', {"algorithm": Algorithm.PS512}),
    "any tag": ("@method", f'{CREATED};tag="x"', {}),
    "empty coverage, allowed": ("", CREATED, {"profile": replace(PLAIN, allow_empty_coverage=True)}),
    "response, allowed": ("@status @method;req signature", CREATED, {"profile": replace(PLAIN, allow_response_components=True)}),
    "web bot auth by authority": ("@authority", BOT_PARAMETERS, {"profile": BOT}),
    "web bot auth by target uri": ("@target-uri", BOT_PARAMETERS, {"profile": BOT}),
    "member of a dictionary": (
        '@authority signature-agent;key="sig1"',
        BOT_PARAMETERS,
        {"profile": replace(BOT, required_components=("@authority|@target-uri", "signature-agent"))},
    ),
    "aauth": (AAUTH_COMPONENTS, CREATED, {"profile": AAUTH}),
    "directory": ("@authority;req", DIRECTORY_PARAMETERS, {"directory": True}),
    "directory by a web bot auth key": (
        "@authority;req content-digest",
        DIRECTORY_PARAMETERS,
        {"directory": True, "profile": BOT},
    ),
}


@pytest.mark.parametrize(("components", "parameters", "rest"), ACCEPTED.values(), ids=ACCEPTED)
def test_accepts_base(components: str, parameters: str, rest: dict[str, Any]) -> None:
    check(components, parameters, **rest)


def without(parameters: str, name: str) -> str:
    return ";".join(part for part in parameters.split(";") if not part.startswith(name))


# Numbers are those of the checks: freshness (7, 8), keyid (9), alg (10), tag (11), coverage (12), response components (15).
REFUSED: dict[str, tuple[str, str, dict[str, Any], type[RefusedError]]] = {
    "7 no created": ("@method", "", {}, FreshnessError),
    "7 created too old": ("@method", f";created={T - 30}", {}, FreshnessError),
    "7 created too far ahead": ("@method", f";created={T + 6}", {}, FreshnessError),
    "7 created ahead, age not checked": (
        "@method",
        f";created={T + 6}",
        {"profile": replace(PLAIN, max_created_age=None)},
        FreshnessError,
    ),
    "8 expired": ("@method", f"{CREATED};expires={T}", {}, FreshnessError),
    "8 expired after created": ("@method", f";created={T - 20};expires={T - 5}", {}, FreshnessError),
    "8 expires before created": ("@method", f";created={T + 5};expires={T + 4}", {}, FreshnessError),
    "8 expires too late": ("@method", f"{CREATED};expires={T + 301}", {}, FreshnessError),
    "8 expires too late without created": (
        "@method",
        f";expires={T + 301}",
        {"profile": replace(PLAIN, required_parameters=frozenset())},
        FreshnessError,
    ),
    "8 expires after the key": ("@method", f"{CREATED};expires={T + 61}", {"not_after": T + 60}, FreshnessError),
    "8 no expires": ("@authority", without(BOT_PARAMETERS, "expires"), {"profile": BOT}, FreshnessError),
    "8 nonce forbidden": (
        "@method",
        f'{CREATED};nonce="n"',
        {"profile": replace(PLAIN, forbidden_parameters=frozenset({"nonce"}))},
        FreshnessError,
    ),
    "9 no keyid": ("@authority", without(BOT_PARAMETERS, "keyid"), {"profile": BOT}, KeyIdError),
    "9 keyid forbidden": (AAUTH_COMPONENTS, f'{CREATED};keyid="k"', {"profile": AAUTH}, KeyIdError),
    "10 alg of another key": ("@method", f'{CREATED};alg="rsa-pss-sha512"', {}, AlgorithmError),
    "10 jose name": ("@method", f'{CREATED};alg="Ed25519"', {}, AlgorithmError),
    "10 empty alg": ("@method", f'{CREATED};alg=""', {}, AlgorithmError),
    "10 hmac": ("@method", f'{CREATED};alg="hmac-sha256"', {}, AlgorithmError),
    "10 alg forbidden": (AAUTH_COMPONENTS, f'{CREATED};alg="ed25519"', {"profile": AAUTH}, AlgorithmError),
    "11 no tag": ("@authority", without(BOT_PARAMETERS, "tag"), {"profile": BOT}, TagError),
    "11 another tag": ("@authority", BOT_PARAMETERS.replace("web-bot-auth", "x"), {"profile": BOT}, TagError),
    "11 tag in upper case": ("@authority", BOT_PARAMETERS.replace("web-bot", "Web-Bot"), {"profile": BOT}, TagError),
    "11 directory tag on a request": ("@authority", DIRECTORY_PARAMETERS, {}, TagError),
    "11 directory tag of a profile": (
        "@authority",
        DIRECTORY_PARAMETERS,
        {"profile": replace(PLAIN, tag=DIRECTORY_TAG)},
        TagError,
    ),
    "11 directory without a tag": ("@authority;req", without(DIRECTORY_PARAMETERS, "tag"), {"directory": True}, TagError),
    "11 directory with the tag of requests": ("@authority;req", BOT_PARAMETERS, {"directory": True, "profile": BOT}, TagError),
    "12 empty coverage": ("", CREATED, {}, CoverageError),
    "12 component missing": ("@method @authority @path", CREATED, {"profile": AAUTH}, CoverageError),
    "12 neither of two": ("@method", BOT_PARAMETERS, {"profile": BOT}, CoverageError),
    "12 component of the request only": (
        "@authority;req",
        BOT_PARAMETERS,
        {"profile": replace(BOT, allow_response_components=True)},
        CoverageError,
    ),
    "12 trailer only": ("@method @authority @path signature-key;tr", CREATED, {"profile": AAUTH}, CoverageError),
    "12 directory of no authority": ("content-digest", DIRECTORY_PARAMETERS, {"directory": True}, CoverageError),
    "12 directory by its own authority": ("@authority", DIRECTORY_PARAMETERS, {"directory": True}, CoverageError),
    "directory expires too late": (
        "@authority;req",
        DIRECTORY_PARAMETERS.replace(str(T + 86400), str(T + 86401)),
        {"directory": True},
        FreshnessError,
    ),
    "15 status": ("@status", CREATED, {}, CoverageError),
    "15 req": ("@method @authority;req", CREATED, {}, CoverageError),
    "15 signature": ("@method signature", CREATED, {}, CoverageError),
    "15 a member of signature": ('@method signature;key="sig1"', CREATED, {}, CoverageError),
    "15 signature-input": ("@method signature-input", CREATED, {}, CoverageError),
}


@pytest.mark.parametrize(("components", "parameters", "rest", "error"), REFUSED.values(), ids=REFUSED)
def test_refuses_base(components: str, parameters: str, rest: dict[str, Any], error: type[RefusedError]) -> None:
    with pytest.raises(error) as caught:
        check(components, parameters, **rest)
    assert type(caught.value) is error


def test_that_a_base_suits_one_profile_says_nothing_of_another_of_the_same_name() -> None:
    stricter = replace(PLAIN, required_components=("@path",))
    for _ in range(2):
        check("@method @authority", CREATED)
        with pytest.raises(CoverageError, match="@path"):
            check("@method @authority", CREATED, stricter)


def test_what_is_known_of_a_shape_is_its_coverage_alone() -> None:
    check("@method", CREATED)
    for parameters, error in (
        (f";created={T - 31}", FreshnessError),
        ("", FreshnessError),
        (f'{CREATED};alg="x"', AlgorithmError),
    ):
        with pytest.raises(error):
            check("@method", parameters)


def test_only_so_many_profiles_are_remembered_with_a_shape() -> None:
    for number in range(20):
        check("@method", CREATED, replace(PLAIN, name=f"p{number}"))
    shape = parse(f'"@method": GET\n"@signature-params": ("@method"){CREATED}'.encode()).shape
    assert shape is not None
    assert len(shape.suits) <= 8


def token(
    claims: dict[str, Any] | None = None,
    *,
    alg: str = "Ed25519",
    typ: str | None = "JWT",
    profile: Profile = PLAIN,
    algorithm: Algorithm = Algorithm.ED25519,
    not_after: float = math.inf,
) -> None:
    jws = JwsSigningInput(alg, typ, None, {"exp": T + 60} if claims is None else claims)
    check_jws(jws, profile, algorithm=algorithm, now=NOW, not_after=not_after)


ACCEPTED_TOKENS: dict[str, dict[str, Any]] = {
    "plain": {},
    "typ in another case": {"typ": "jwt"},
    "aauth": {"typ": "aa-agent+jwt"},
    "eddsa": {"alg": "EdDSA", "typ": "agent+jwt"},
    "es256": {"alg": "ES256", "algorithm": Algorithm.ES256},
    "longest life": {"claims": {"exp": T + 86400}},
    "as long as the key": {"not_after": T + 60},
    "fractions": {"claims": {"exp": T + 60.5, "iat": NOW, "nbf": NOW}},
    "iat ahead": {"claims": {"exp": T + 60, "iat": T + 5}},
    "nbf ahead": {"claims": {"exp": T + 60, "nbf": T + 59}},
}


@pytest.mark.parametrize("changes", ACCEPTED_TOKENS.values(), ids=ACCEPTED_TOKENS)
def test_accepts_token(changes: dict[str, Any]) -> None:
    token(**changes)


REFUSED_TOKENS: dict[str, tuple[dict[str, Any], type[RefusedError]]] = {
    "alg none": ({"alg": "none"}, AlgorithmError),
    "alg None": ({"alg": "NoNe"}, AlgorithmError),
    "alg hmac": ({"alg": "HS256"}, AlgorithmError),
    "alg of another key": ({"alg": "ES256"}, AlgorithmError),
    "alg in lower case": ({"alg": "ed25519"}, AlgorithmError),
    "alg pss with a pkcs 1 key": ({"alg": "PS512", "algorithm": Algorithm.RS256}, AlgorithmError),
    "eddsa with another key": ({"alg": "EdDSA", "algorithm": Algorithm.ES256}, AlgorithmError),
    "eddsa switched off": ({"alg": "EdDSA", "profile": replace(PLAIN, allow_eddsa=False)}, AlgorithmError),
    "eddsa with aauth": ({"alg": "EdDSA", "typ": "aa-agent+jwt"}, AlgorithmError),
    "eddsa with aauth in another case": ({"alg": "EdDSA", "typ": "AA-agent+jwt"}, AlgorithmError),
    "no typ": ({"typ": None}, TagError),
    "typ that is not listed": ({"typ": "logout+jwt"}, TagError),
    "typ with a prefix": ({"typ": "application/at+jwt"}, TagError),
    "typ with a letter that folds to ascii": (
        {"typ": "to\u212aen", "profile": replace(PLAIN, jwt_types=frozenset({"token"}))},
        TagError,
    ),
    "no exp": ({"claims": {}}, FreshnessError),
    "exp over": ({"claims": {"exp": T}}, FreshnessError),
    "exp too late": ({"claims": {"exp": T + 86401}}, FreshnessError),
    "exp after the key": ({"not_after": T + 59}, FreshnessError),
    "exp null": ({"claims": {"exp": None}}, FreshnessError),
    "exp a string": ({"claims": {"exp": str(T + 60)}}, FreshnessError),
    "exp true": ({"claims": {"exp": True}}, FreshnessError),
    "exp an array": ({"claims": {"exp": [T + 60]}}, FreshnessError),
    "exp infinite": ({"claims": {"exp": math.inf}}, FreshnessError),
    "exp not a number": ({"claims": {"exp": math.nan}}, FreshnessError),
    "exp beyond double": ({"claims": {"exp": 10**400}}, FreshnessError),
    "exp below zero": ({"claims": {"exp": -1}}, FreshnessError),
    "iat ahead": ({"claims": {"exp": T + 60, "iat": T + 6}}, FreshnessError),
    "iat a string": ({"claims": {"exp": T + 60, "iat": "now"}}, FreshnessError),
    "iat true": ({"claims": {"exp": T + 60, "iat": True}}, FreshnessError),
    "nbf not before exp": ({"claims": {"exp": T + 60, "nbf": T + 60}}, FreshnessError),
    "nbf null": ({"claims": {"exp": T + 60, "nbf": None}}, FreshnessError),
}


@pytest.mark.parametrize(("changes", "error"), REFUSED_TOKENS.values(), ids=REFUSED_TOKENS)
def test_refuses_token(changes: dict[str, Any], error: type[RefusedError]) -> None:
    with pytest.raises(error) as caught:
        token(**changes)
    assert type(caught.value) is error


LUMO = replace(BUILT_IN["lumoauth"], signature_key_schemes=frozenset())
LUMO_COMPONENTS = LUMO.exact_components[0]
LUMO_PARAMETERS = f';created={T};nonce="{"n" * 16}"'

ACCEPTED_FIELDS: dict[str, tuple[str, str, Profile]] = {
    "list as it must be": ("@method @authority", CREATED, replace(PLAIN, exact_components=("@method", "@method @authority"))),
    "list with a parameter": ('x;key="a" @path', CREATED, replace(PLAIN, exact_components=('x;key="a" @path',))),
    "nonce of the least length": (LUMO_COMPONENTS, LUMO_PARAMETERS, LUMO),
    "no nonce": ("@method", CREATED, replace(PLAIN, min_nonce_length=16)),
    "keyid that is the thumbprint": ("@method", f'{CREATED};keyid="k"', replace(PLAIN, keyid_is_thumbprint=True)),
    "no keyid": ("@method", CREATED, replace(PLAIN, keyid_is_thumbprint=True)),
    "signature-key not looked at": ("@method signature-key", CREATED, PLAIN),
}


@pytest.mark.parametrize(("components", "parameters", "profile"), ACCEPTED_FIELDS.values(), ids=ACCEPTED_FIELDS)
def test_accepts_field(components: str, parameters: str, profile: Profile) -> None:
    check(components, parameters, profile)


REFUSED_FIELDS: dict[str, tuple[str, str, Profile, type[RefusedError]]] = {
    "list in another order": ("@authority @method", CREATED, ACCEPTED_FIELDS["list as it must be"][2], CoverageError),
    "list with one more": ("@method @authority @path", CREATED, ACCEPTED_FIELDS["list as it must be"][2], CoverageError),
    "list with one less": ("@authority", CREATED, ACCEPTED_FIELDS["list as it must be"][2], CoverageError),
    "list with another parameter": ('x;key="b" @path', CREATED, ACCEPTED_FIELDS["list with a parameter"][2], CoverageError),
    "list without the parameter": ("x @path", CREATED, ACCEPTED_FIELDS["list with a parameter"][2], CoverageError),
    "nonce too short": (LUMO_COMPONENTS, LUMO_PARAMETERS.replace("n" * 16, "n" * 15), LUMO, FreshnessError),
    "nonce missing": (LUMO_COMPONENTS, CREATED, LUMO, FreshnessError),
    "lumoauth with expires": (LUMO_COMPONENTS, f"{LUMO_PARAMETERS};expires={T + 9}", LUMO, FreshnessError),
    "lumoauth with keyid": (LUMO_COMPONENTS, f'{LUMO_PARAMETERS};keyid="k"', LUMO, KeyIdError),
    "lumoauth with alg": (LUMO_COMPONENTS, f'{LUMO_PARAMETERS};alg="ed25519"', LUMO, AlgorithmError),
    "lumoauth with tag": (LUMO_COMPONENTS, f'{LUMO_PARAMETERS};tag="x"', LUMO, TagError),
    "keyid that is the kid": ("@method", f'{CREATED};keyid="kid"', replace(PLAIN, keyid_is_thumbprint=True), KeyIdError),
    "web bot auth by kid": ("@authority", BOT_PARAMETERS.replace('"k"', '"kid"'), BOT, KeyIdError),
    "aauth without signature-key": ("@method @authority @path", CREATED, BUILT_IN["aauth"], CoverageError),
    "aauth by trailer": ("@method @authority @path signature-key;tr", CREATED, BUILT_IN["aauth"], CoverageError),
    "signature-key not asked for, but looked at": (
        "@method",
        CREATED,
        replace(PLAIN, signature_key_schemes=frozenset({"jwt"})),
        CoverageError,
    ),
    "one member of signature-key": (
        '@method signature-key;key="sig"',
        CREATED,
        replace(PLAIN, signature_key_schemes=frozenset({"jwt"})),
        BindingError,
    ),
    "signature-key twice": (
        "@method @authority @path signature-key signature-key;sf",
        CREATED,
        BUILT_IN["aauth"],
        BindingError,
    ),
    "signature-key that is none": (AAUTH_COMPONENTS, CREATED, BUILT_IN["aauth"], BindingError),
    "lumoauth with a signature-key that is none": (LUMO_COMPONENTS, LUMO_PARAMETERS, BUILT_IN["lumoauth"], BindingError),
}


@pytest.mark.parametrize(("components", "parameters", "profile", "error"), REFUSED_FIELDS.values(), ids=REFUSED_FIELDS)
def test_refuses_field(components: str, parameters: str, profile: Profile, error: type[RefusedError]) -> None:
    with pytest.raises(error) as caught:
        check(components, parameters, profile)
    assert type(caught.value) is error


SERVER = BUILT_IN["aauth-server"]
CNF = {"cnf": {"jkt": "t"}}
RESOURCE = dict.fromkeys(("iss", "dwk", "aud", "jti", "ps", "sub", "presented_jti", "agent_jkt"), "x") | {"iat": T}


def test_each_type_has_its_own_longest_life() -> None:
    for typ, seconds, claims in (("aa-resource+jwt", 300, RESOURCE), ("AA-auth+jwt", 3600, CNF), ("aa-agent+jwt", 86400, CNF)):
        good = JwsSigningInput("Ed25519", typ, "kid", {"exp": T + seconds, **claims})
        check_jws(good, SERVER, algorithm=Algorithm.ED25519, now=NOW, not_after=math.inf)
        bad = replace(good, claims={"exp": T + seconds + 1, **claims})
        with pytest.raises(FreshnessError, match=f"at most {seconds} s"):
            check_jws(bad, SERVER, algorithm=Algorithm.ED25519, now=NOW, not_after=math.inf)


@pytest.mark.parametrize("cnf", [{}, {"cnf": None}, {"cnf": {}}, {"cnf": "t"}, {"cnf": {"jwk": None}}, {"cnf": {"kid": "k"}}])
def test_a_token_for_a_holder_names_its_key(cnf: dict[str, Any]) -> None:
    for typ in ("aa-agent+jwt", "AA-AGENT+jwt"):
        bearer = JwsSigningInput("Ed25519", typ, "kid", {"exp": T + 60, **cnf})
        with pytest.raises(BindingError):
            check_jws(bearer, SERVER, algorithm=Algorithm.ED25519, now=NOW, not_after=math.inf)


@pytest.mark.parametrize("profile", ["aauth", "aauth-server"])
@pytest.mark.parametrize("name", RESOURCE)
def test_a_resource_token_is_tied_to_the_request_that_it_answers(name: str, profile: str) -> None:
    for typ in ("aa-resource+jwt", "AA-Resource+JWT"):
        good = JwsSigningInput("Ed25519", typ, "kid", {"exp": T + 60, **RESOURCE})
        check_jws(good, BUILT_IN[profile], algorithm=Algorithm.ED25519, now=NOW, not_after=math.inf)
        without = replace(good, claims={claim: value for claim, value in good.claims.items() if claim != name})
        with pytest.raises(ClaimsError, match=f"to have {name}$"):
            check_jws(without, BUILT_IN[profile], algorithm=Algorithm.ED25519, now=NOW, not_after=math.inf)


def test_a_header_without_kid_is_refused_where_it_must_be_there() -> None:
    jws = JwsSigningInput("Ed25519", "aa-resource+jwt", None, {"exp": T + 60, **RESOURCE})
    with pytest.raises(KeyIdError):
        check_jws(jws, SERVER, algorithm=Algorithm.ED25519, now=NOW, not_after=math.inf)
    check_jws(replace(jws, kid="k"), SERVER, algorithm=Algorithm.ED25519, now=NOW, not_after=math.inf)


def test_built_in_profiles_are_named_after_their_keys() -> None:
    assert {name: profile.name for name, profile in BUILT_IN.items()} == {name: name for name in BUILT_IN}
