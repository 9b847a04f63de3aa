"""Signature-Key must name the key that signs: each rule with a value that meets it and one that breaks it."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import ECKey, OKPKey, RSAKey

from backends.api import Algorithm
from keyd.core import binding, jwk
from keyd.core.binding import Rules, Signing
from keyd.core.errors import BindingError, KeydError
from keyd.core.profile import BUILT_IN, Profile, check_base
from keyd.core.signature_base import parse

VECTORS = Path(__file__).parents[1] / "vectors"
NOW = 1_800_000_000.5
T = 1_800_000_000
MINE = {"kty": "OKP", "crv": "Ed25519", "x": "JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs"}
OTHER = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
THUMBPRINT = "poqkLGiymh_W0uP6PZFw-dvez3QJT5SolqXBCW38r0U"
OTHERS = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
ISSUER = {
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}
SIGNING = Signing(Algorithm.ED25519, "key-1", THUMBPRINT)
ALL = Rules(frozenset({"jwt", "jwks_uri", "hwk", "jkt-jwt"}), frozenset({"aa-agent+jwt", "agent+jwt"}), None, None)
REMOVED = object()


def part(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def changed(value: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {name: item for name, item in {**value, **changes}.items() if item is not REMOVED}


def jwt(header: dict[str, Any] | None = None, claims: dict[str, Any] | None = None, *, extra: str = "") -> str:
    head = changed({"alg": "Ed25519", "typ": "aa-agent+jwt", "kid": "issuer-1"}, header or {})
    body = changed({"iss": "https://a.example", "exp": T + 60, "cnf": {"jwk": MINE}}, claims or {})
    return f'sig=jwt;jwt="{part(head)}.{part(body)}.c2ln"{extra}'


def jkt_jwt(header: dict[str, Any] | None = None, claims: dict[str, Any] | None = None) -> str:
    issuer = f"urn:jkt:sha-256:{jwk.thumbprint(ISSUER)}"
    head = changed({"alg": "ES256", "typ": "jkt-s256+jwt", "jwk": ISSUER}, header or {})
    body = changed({"iss": issuer, "iat": T, "exp": T + 60, "cnf": {"jwk": MINE}}, claims or {})
    return f'sig=jkt-jwt;jwt="{part(head)}.{part(body)}.c2ln"'


def jwks_uri(**params: str) -> str:
    items = changed({"id": "https://a.example", "dwk": "aauth-agent.json", "kid": "key-1"}, params)
    return "sig=jwks_uri" + "".join(f';{name}="{value}"' for name, value in items.items())


def hwk(**params: Any) -> str:
    return "sig=hwk" + "".join(f';{name}="{value}"' for name, value in changed({**MINE, "alg": "Ed25519"}, params).items())


ACCEPTED: dict[str, tuple[str, Rules]] = {
    "jwt": (jwt(), ALL),
    "jwt with the other type": (jwt({"typ": "agent+jwt"}), ALL),
    "jwt without kid": (jwt({"kid": REMOVED}), ALL),
    "jwt by thumbprint": (jwt(claims={"cnf": {"jkt": THUMBPRINT}}), ALL),
    "jwt by both": (jwt(claims={"cnf": {"jkt": THUMBPRINT, "jwk": MINE}}), ALL),
    "jwt with a key with alg and kid": (jwt(claims={"cnf": {"jwk": {**MINE, "alg": "Ed25519", "kid": "x", "use": "sig"}}}), ALL),
    "jwt with an old name of the algorithm": (jwt({"typ": "agent+jwt", "alg": "EdDSA"}), ALL),
    "jwt to be kept": (jwt(claims={"jti": "1"}, extra=";cache"), ALL),
    "jwt to be kept, long form": (jwt(claims={"jti": "1"}, extra=";cache=?1"), ALL),
    "exp with a fraction": (jwt(claims={"exp": T + 0.75}), ALL),
    "jkt-jwt": (jkt_jwt(), ALL),
    "jwks_uri": (jwks_uri(), ALL),
    "jwks_uri as configured": (jwks_uri(), ALL._replace(id="https://a.example", dwk="aauth-agent.json")),
    "hwk": (hwk(), ALL),
}


@pytest.mark.parametrize(("value", "rules"), ACCEPTED.values(), ids=ACCEPTED)
def test_accepts(value: str, rules: Rules) -> None:
    binding.check(value, rules, SIGNING, NOW)
    with pytest.raises(BindingError, match="none of"):  # its twin: the scheme is not allowed
        scheme = value.split("=")[1].split(";")[0]
        binding.check(value, rules._replace(schemes=rules.schemes - {scheme}), SIGNING, NOW)
    with pytest.raises(BindingError):  # and its other: the key is not this one
        binding.check(value, rules, Signing(Algorithm.ED25519, "key-2", OTHERS), NOW)


REFUSED: dict[str, tuple[str, str]] = {
    "no token": ("sig=jwt", "lacks the parameter jwt"),
    "a token that is true": ("sig=jwt;jwt", "lacks the parameter jwt"),
    "a parameter of another scheme": (jwt(extra=';kid="key-1"'), "does not have"),
    "a scheme in upper case": (jwt().replace("sig=jwt", "sig=JWT"), "none of"),
    "a scheme that nobody has": (jwt().replace("sig=jwt", "sig=jwt2"), "none of"),
    "self-jwt": (jwt().replace("sig=jwt", "sig=self-jwt"), "none of"),
    "cached": ('sig=cached;cid="1"', "none of"),
    "two members": (jwt() + ', sig2=hwk;kty="OKP"', "one member"),
    "typ of another kind": (jwt({"typ": "JWT"}), "types"),
    "typ in another case": (jwt({"typ": "AA-agent+jwt"}), "types"),
    "no typ": (jwt({"typ": REMOVED}), "alg or typ"),
    "typ no string": (jwt({"typ": ["aa-agent+jwt"]}), "alg or typ"),
    "no alg": (jwt({"alg": REMOVED}), "alg or typ"),
    "alg none": (jwt({"alg": "none"}), "algorithm"),
    "alg None": (jwt({"alg": "NoNe"}), "algorithm"),
    "alg hmac": (jwt({"alg": "HS256"}), "algorithm"),
    "alg hmac in lower case": (jwt({"alg": "hs512"}), "algorithm"),
    "alg eddsa under aauth": (jwt({"alg": "EdDSA"}), "algorithm"),
    "crit": (jwt({"crit": ["exp"]}), "header"),
    "b64": (jwt({"b64": False}), "header"),
    "jwk": (jwt({"jwk": MINE}), "header"),
    "jku": (jwt({"jku": "https://evil.example"}), "header"),
    "x5c": (jwt({"x5c": []}), "header"),
    "over": (jwt(claims={"exp": T}), "over"),
    "no exp": (jwt(claims={"exp": REMOVED}), "lacks exp"),
    "exp a string": (jwt(claims={"exp": str(T + 60)}), "lacks exp"),
    "exp true": (jwt(claims={"exp": True}), "lacks exp"),
    "exp null": (jwt(claims={"exp": None}), "lacks exp"),
    "no cnf": (jwt(claims={"cnf": REMOVED}), "binds no key"),
    "cnf empty": (jwt(claims={"cnf": {}}), "binds no key"),
    "cnf a string": (jwt(claims={"cnf": THUMBPRINT}), "binds no key"),
    "cnf a list": (jwt(claims={"cnf": [{"jwk": MINE}]}), "binds no key"),
    "cnf by kid": (jwt(claims={"cnf": {"kid": "key-1"}}), "binds no key"),
    "cnf of another key": (jwt(claims={"cnf": {"jwk": OTHER}}), "another key"),
    "cnf of another thumbprint": (jwt(claims={"cnf": {"jkt": OTHERS}}), "another key"),
    "cnf with a good jwk and a bad jkt": (jwt(claims={"cnf": {"jwk": MINE, "jkt": OTHERS}}), "another key"),
    "cnf with a bad jwk and a good jkt": (jwt(claims={"cnf": {"jwk": OTHER, "jkt": THUMBPRINT}}), "another key"),
    "cnf with a null jwk": (jwt(claims={"cnf": {"jwk": None, "jkt": THUMBPRINT}}), "not a public JWK"),
    "cnf with a null jkt": (jwt(claims={"cnf": {"jkt": None}}), "another key"),
    "cnf jwk a string": (jwt(claims={"cnf": {"jwk": json.dumps(MINE)}}), "not a public JWK"),
    "cnf jwk without kty": (jwt(claims={"cnf": {"jwk": changed(MINE, {"kty": REMOVED})}}), "not a public JWK"),
    "cnf jwk of kty oct": (jwt(claims={"cnf": {"jwk": {"kty": "oct", "k": "AA"}}}), "not a public JWK"),
    "cnf jwk with a number": (jwt(claims={"cnf": {"jwk": {**MINE, "x": 1}}}), "not a public JWK"),
    "cnf jwk with a private key": (jwt(claims={"cnf": {"jwk": {**MINE, "d": "AA"}}}), "not a public JWK"),
    "cnf jwk with another alg": (jwt(claims={"cnf": {"jwk": {**MINE, "alg": "EdDSA"}}}), "another alg"),
    "cnf jwk with a null alg": (jwt(claims={"cnf": {"jwk": {**MINE, "alg": None}}}), "another alg"),
    "cnf jwk in another spelling": (jwt(claims={"cnf": {"jwk": {**MINE, "x": MINE["x"] + "="}}}), "another key"),
    "cnf twice": (f'sig=jwt;jwt="{part({"alg": "Ed25519", "typ": "agent+jwt"})}.{part(chr(123) + chr(34) + "cnf" + chr(34) + ":1," + chr(34) + "cnf" + chr(34) + ":2}")}.AA"', "distinct"),
    "to be kept without jti": (jwt(extra=";cache"), "cache"),
    "not to be kept": (jwt(claims={"jti": "1"}, extra=";cache=?0"), "cache"),
    "kept as a string": (jwt(claims={"jti": "1"}, extra=';cache="1"'), "cache"),
    "jkt of another hash": (jkt_jwt({"typ": "jkt-s512+jwt"}), "jkt-s256"),
    "jkt of another issuer": (jkt_jwt(claims={"iss": f"urn:jkt:sha-256:{OTHERS}"}), "another issuer"),
    "jkt without issuer": (jkt_jwt(claims={"iss": REMOVED}), "another issuer"),
    "jkt without jwk": (jkt_jwt({"jwk": REMOVED}), "not a public JWK"),
    "jkt with a private jwk": (jkt_jwt({"jwk": {**ISSUER, "d": "AA"}}), "not a public JWK"),
    "jkt without iat": (jkt_jwt(claims={"iat": REMOVED}), "lacks iat"),
    "jkt over": (jkt_jwt(claims={"exp": T}), "over"),
    "jkt with kid": (jkt_jwt({"kid": "x"}), "header"),
    "jkt of another key": (jkt_jwt(claims={"cnf": {"jwk": OTHER}}), "another key"),
    "jkt with alg none": (jkt_jwt({"alg": "none"}), "algorithm"),
    "kid of another key": (jwks_uri(kid="key-2"), "kid"),
    "kid missing": (jwks_uri(kid=REMOVED), "lacks the parameter kid"),  # type: ignore[arg-type]
    "id missing": (jwks_uri(id=REMOVED), "lacks the parameter id"),  # type: ignore[arg-type]
    "dwk missing": (jwks_uri(dwk=REMOVED), "lacks the parameter dwk"),  # type: ignore[arg-type]
    "id in plaintext": (jwks_uri(id="http://a.example"), "https"),
    "dwk elsewhere": (jwks_uri(dwk="../x"), "https"),
    "dwk empty": (jwks_uri(dwk=""), "https"),
    "hwk without alg": (hwk(alg=REMOVED), "lacks the parameter alg"),
    "hwk with the name of RFC 9421": (hwk(alg="ed25519"), "another alg"),
    "hwk with kid": (hwk(kid="key-1"), "does not have"),
    "hwk with a private key": (hwk(d="AA"), "does not have"),
    "hwk of another key": (hwk(x=OTHER["x"]), "another key"),
    "hwk with a value that is true": (hwk().replace(';crv="Ed25519"', ";crv"), "not a public JWK"),
}  # fmt: skip


@pytest.mark.parametrize(("value", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses(value: str, message: str) -> None:
    with pytest.raises(BindingError, match=message) as caught:
        binding.check(value, ALL, SIGNING, NOW)
    assert "example" not in str(caught.value)


def test_another_identity_than_the_profile_has_is_refused() -> None:
    for rules in (ALL._replace(id="https://b.example"), ALL._replace(dwk="aauth-resource.json")):
        with pytest.raises(BindingError, match="than the profile"):
            binding.check(jwks_uri(), rules, SIGNING, NOW)


@pytest.mark.parametrize("key", [OKPKey.generate_key("Ed25519"), ECKey.generate_key("P-384"), RSAKey.generate_key(2048)])
def test_thumbprints_are_those_of_the_library(key: Any) -> None:
    assert jwk.thumbprint(key.as_dict(private=False)) == key.thumbprint()
    assert jwk.thumbprint(key.as_dict(private=True)) is None


# --- the bases of real clients, and what becomes of them in other hands


def clients() -> list[dict[str, str]]:
    vectors: list[dict[str, str]] = json.loads((VECTORS / "clients.json").read_text())["vectors"]
    assert len(vectors) == 10
    return vectors


HWK = Profile("hwk", required_components=("@authority", "signature-key"), signature_key_schemes=frozenset({"hwk"}))
CLIENT = Signing(Algorithm.ED25519, THUMBPRINT, THUMBPRINT)


@pytest.mark.parametrize("vector", clients(), ids=lambda vector: f"{vector['library']}, {vector['name']}")
def test_bases_of_real_clients_are_accepted_for_their_key_alone(vector: dict[str, str]) -> None:
    profile = {**BUILT_IN, "hwk": HWK}[vector["profile"]]
    base = parse(vector["base"].encode())
    check_base(base, profile, CLIENT, now=NOW, not_after=math.inf)
    public = jwk.to_public_key(json.dumps(MINE))
    public.verify(bytes.fromhex(vector["signature"]), base.serialise())  # type: ignore[call-arg, union-attr]
    other = Signing(Algorithm.ED25519, OTHERS, OTHERS)
    if profile.allow_empty_signature_key:
        filled = base.serialise().replace(b'"signature-key": \n', f'"signature-key": {hwk()}\n'.encode())
        check_base(parse(filled), profile, CLIENT, now=NOW, not_after=math.inf)
        base = parse(filled)
    with pytest.raises(BindingError):
        check_base(base, profile, other, now=NOW, not_after=math.inf)
    for name in BUILT_IN.keys() - {"rfc9421", vector["profile"]}:
        with pytest.raises(KeydError):
            check_base(base, BUILT_IN[name], CLIENT, now=NOW, not_after=math.inf)
    with pytest.raises(KeydError):
        check_base(base, profile, CLIENT, now=NOW + 3600, not_after=math.inf)


@pytest.mark.parametrize("name", ["without Signature-Agent", "with Signature-Agent"])
def test_vectors_of_web_bot_auth_are_accepted(name: str) -> None:
    (vector,) = [v for v in json.loads((VECTORS / "web_bot_auth.json").read_text())["vectors"] if v["name"] == name]
    data = vector["base"]
    jwk.to_public_key(json.dumps(MINE)).verify(bytes.fromhex(vector["signature"]), data.encode())  # type: ignore[call-arg, union-attr]
    short = parse(data.replace(str(4889289600), str(vector["created"] + 86400)).encode())
    bot, now = BUILT_IN["web-bot-auth"], vector["created"] + 1.0
    check_base(short, bot, CLIENT, now=now, not_after=math.inf)
    with pytest.raises(KeydError, match="at most 86400 s"):  # as published they are good for a hundred years
        check_base(parse(data.encode()), bot, CLIENT, now=now, not_after=math.inf)
    with pytest.raises(KeydError, match="thumbprint"):
        check_base(short, bot, Signing(Algorithm.ED25519, THUMBPRINT, OTHERS), now=now, not_after=math.inf)
