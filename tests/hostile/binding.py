"""Values of Signature-Key that do not bind the key that is asked to sign, within bases that are valid otherwise."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from hostile.draft import ISSUER, STRANGER, STRANGER_THUMBPRINT, Target, agent_token, jkt_token, part, token

#: Each makes values for a key: the list of all there are, of which one is drawn.
Values = Callable[[Target, int, list[str]], list[str]]


def _jwt(header: dict[str, Any], claims: dict[str, Any], *, scheme: str = "jwt", signature: str = "c2ln", rest: str = "") -> str:
    return f'sig={scheme};jwt="{token(header, claims, signature)}"{rest}'


def _without(members: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in members.items() if key != name}


def not_a_member(target: Target, now: int, others: list[str]) -> list[str]:
    """Return values that are not one member of a dictionary with strings."""
    good = _jwt(*agent_token(target, now))
    text = good.partition(";")[2]
    return [
        "sig", "sig=", "=jwt", "jwt", "sig==jwt", "sig=1", "sig=1.5", 'sig="jwt"', "sig=?1", "sig=:eA==:", "sig=()", f"sig=(jwt);{text}",
        f"Sig=jwt;{text}", f"1sig=jwt;{text}", f"sig jwt;{text}", f"sig =jwt;{text}", f"sig= jwt;{text}", f"sig=jwt ;{text}", f"sig=jwt;;{text}",
        good + ";", good + ",", good + ", " + good, good + ',sig2=hwk;kty="OKP"', "a=jwt, " + good, good + ";a=1", good + ";a=b",
        good + ";a=:eA==:", good + ";A", good[:-1], good + '"', good.replace('"', "'"), good.replace('"', ""), good.replace(";jwt=", ";JWT="),
        good.replace(";jwt=", ";jwt"), good.replace(";jwt=", ";jwt ="), good.replace(";jwt=", ";jwt= "), good + ";" + text, good.replace("sig=", ""),
        good.replace(';jwt="', ';jwt="\\'), good + "\\", "(" + good + ")", "{" + good + "}", good.replace("=jwt;", "=jwt:"), "sig=jwt,jwt=1",
    ]  # fmt: skip


def other_scheme(target: Target, now: int, others: list[str]) -> list[str]:
    """Return schemes that the profile ``aauth`` does not have, with this very key where they can have one."""
    members = "".join(f';{name}="{value}"' for name, value in target.jwk.items())
    return [
        f'sig=hwk{members};alg="Ed25519"',
        f'sig=jwks_uri;id="https://agents.example";dwk="aauth-agent.json";kid="{target.kid}"',
        f'sig=jwks;url="https://agents.example/jwks.json";kid="{target.kid}"',
        _jwt(*jkt_token(target, now), scheme="jkt-jwt"),
        _jwt(*agent_token(target, now), scheme="self-jwt"),
        'sig=x509;x5u="https://agents.example/c.pem";x5t="eA"',
        'sig=cached;cid="2f9c8a1e-a7b3"',
        *(
            _jwt(*agent_token(target, now), scheme=scheme)
            for scheme in ("JWT", "Jwt", "jwt2", "jwt:", "jwt/", "jw", "none", "*", "jwe", "dpop")
        ),
    ]


def no_token(target: Target, now: int, others: list[str]) -> list[str]:
    """Return members whose token is missing or is not a token."""
    header, claims = agent_token(target, now)
    good = token(header, claims)
    head, body, _ = good.split(".")
    tokens = [
        "", ".", "..", "...", head, f"{head}.{body}", f"{head}.{body}.", f".{body}.c2ln", f"{head}..c2ln", good + ".c2ln", good + "=", head + "=." + body + ".c2ln",
        f"{head} .{body}.c2ln", f"{head}.{body}.c2 ln", f"{head}.{body}.c2+n", f"{head}.{body}.c2/n", f"{part('[]')}.{body}.c2ln", f"{head}.{part('[]')}.c2ln",
        f"{part('null')}.{body}.c2ln", f"{head}.{part('1')}.c2ln", f"{head}.{part('{')}.c2ln", f"{head}.{part('{}x')}.c2ln", "e30.e30.c2ln", f"{head}.{body[:-1]}*.c2ln",
        f"{head}.{part(chr(0xFEFF) + '{}')}.c2ln", good + ".a.b", "~".join(good.split(".")), good + "~", "Bearer " + good, "null", target.thumbprint,
    ]  # fmt: skip
    repeated = part('{"alg":"ES256","alg":"ES256","typ":"aa-agent+jwt"}')
    tokens += [
        f"{repeated}.{body}.c2ln",
        f"{head}.{part('{' + chr(34) + 'exp' + chr(34) + ':NaN}')}.c2ln",
        f"{head}.{part('[' * 5000)}.c2ln",
    ]
    return [f'sig=jwt;jwt="{text}"' for text in tokens] + [
        "sig=jwt", "sig=jwt;jwt", "sig=jwt;jwt=?1", "sig=jwt;jwt=?0", "sig=jwt;cache", f'sig=jwt;token="{good}"', f'sig=jwt;jwt="{good}";kid="1"',
        f'sig=jwt;jwt="{good}";alg="Ed25519"', f'sig=jwt;jwt="{good}";cache="1"', f'sig=jwt;jwt="{good}";cache=?0',
    ]  # fmt: skip


def header_of_token(target: Target, now: int, others: list[str]) -> list[str]:
    """Return tokens whose header is not that of a token which the profile takes."""
    header, claims = agent_token(target, now)
    changes: list[dict[str, Any]] = [
        {"typ": typ}
        for typ in (
            "JWT",
            "at+jwt",
            "aa-resource+jwt",
            "agent+jwt",
            "AA-AGENT+JWT",
            "application/aa-agent+jwt",
            "",
            None,
            1,
            ["aa-agent+jwt"],
            "aa-agent+jwt ",
            "aa-agent",
            "jkt-s256+jwt",
        )
    ]
    changes += [{"alg": alg} for alg in ("none", "None", "NONE", "HS256", "HS384", "hs512", "EdDSA", None, 1, ["ES256"])]
    changes += [{name: value} for name, value in (("crit", ["exp"]), ("b64", False), ("jwk", dict(target.jwk)), ("jku", "https://a.example"), ("x5u", "https://a.example"), ("x5c", ["eA=="]), ("x5t", "eA"), ("cty", "JWT"), ("zip", "DEF"), ("enc", "A128GCM"), ("ALG", "none"))]  # fmt: skip
    return [_jwt({**header, **change}, claims) for change in changes] + [
        _jwt(_without(header, "typ"), claims),
        _jwt(_without(header, "alg"), claims),
    ]


def expired_token(target: Target, now: int, others: list[str]) -> list[str]:
    """Return tokens that are over, or never are."""
    header, claims = agent_token(target, now)
    times: list[Any] = [
        0,
        1,
        now - 3600,
        now - 1,
        -1,
        -1e300,
        None,
        True,
        False,
        "",
        str(now + 60),
        [now + 60],
        {"exp": now + 60},
    ]
    return [_jwt(header, {**claims, "exp": time}) for time in times] + [_jwt(header, _without(claims, "exp"))]


def another_key(target: Target, now: int, others: list[str]) -> list[str]:
    """Return tokens that bind another key, or none."""
    header, claims = agent_token(target, now)
    mine = dict(target.jwk)
    other = next(kid for kid in others if kid not in (target.kid, target.thumbprint))
    confirmations: list[Any] = [
        {"jwk": STRANGER}, {"jkt": STRANGER_THUMBPRINT}, {"jkt": other}, {"jwk": ISSUER}, {"jwk": STRANGER, "jkt": target.thumbprint},
        {"jwk": mine, "jkt": STRANGER_THUMBPRINT}, {"jwk": mine, "jkt": None}, {"jwk": None}, {"jkt": None}, {"jwk": {}}, {"jkt": ""}, {}, None, "", [], [mine],
        {"jwk": [mine]}, {"jwk": str(mine)}, {"jkt": [target.thumbprint]}, {"jkt": target.thumbprint + "="}, {"jkt": target.thumbprint.swapcase()},
        {"JWK": mine}, {"Jkt": target.thumbprint}, {"kid": target.kid}, {"jku": "https://a.example"}, {"x5t#S256": target.thumbprint}, target.thumbprint, mine,
        {"jwk": {**mine, "x": mine["x"] + "="}}, {"jwk": {**mine, "x": mine["x"] + "A"}}, {"jwk": {**mine, "x": mine["x"].swapcase()}}, {"jwk": {**mine, "x": None}},
        {"jwk": {**mine, "crv": "X25519"}}, {"jwk": {**mine, "crv": "ed25519"}}, {"jwk": {**mine, "kty": "okp"}}, {"jwk": {**mine, "kty": "EC"}},
        {"jwk": {**mine, "alg": "EdDSA"}}, {"jwk": {**mine, "alg": "ed25519"}}, {"jwk": {**mine, "alg": "none"}}, {"jwk": {**mine, "alg": None}},
        {"jwk": {**mine, "d": "eA"}}, {"jwk": {**mine, "k": "eA"}}, {"jwk": {"kty": "oct", "k": "eA"}}, {"jwk": {"x": mine["x"]}},
    ]  # fmt: skip
    return [_jwt(header, {**claims, "cnf": cnf}) for cnf in confirmations] + [
        _jwt(header, _without(claims, "cnf")),
        _jwt(header, {**_without(claims, "cnf"), "CNF": {"jwk": mine}}),
        _jwt(header, {**_without(claims, "cnf"), "jwk": mine}),
        _jwt(header, _without(claims, "jti"), rest=";cache"),
        f'sig=jwt;jwt="{part(header)}.{part(claims)[:-4]}.c2ln"',
    ]


def another_published_key(target: Target, now: int, others: list[str]) -> list[str]:
    """Return values of scheme ``jwks_uri`` that name another key or nothing that can be fetched."""
    good = f'sig=jwks_uri;id="https://shop.example";dwk="aauth-resource.json";kid="{target.kid}"'
    kids = [*others, "", "key-1", target.kid + "A", target.kid[:-1], target.kid.swapcase(), f"{target.kid} ", target.name]
    return [
        *(good.replace(f'"{target.kid}"', f'"{kid}"') for kid in kids if kid != target.kid),
        *(good.replace("https://shop.example", url) for url in ("", "http://shop.example", "shop.example", "ftp://shop.example", "//shop.example", "HTTPS://shop.example", "aauth:a@shop.example")),
        *(good.replace("aauth-resource.json", name) for name in ("", ".", "..", "../x", "a/b", "/etc/passwd", "/")),
        *(good.replace(old, new) for old, new in ((";kid=", ";KID="), (";kid=", ";x="), (";id=", ";iss="), (";dwk=", ";d="))),
        good + ";alg", good + ';jwt="x"', good + f';kid="{target.kid}"', good.replace(";dwk", ";url"), good.replace("jwks_uri", "jwks"), good.replace("jwks_uri", "jwks-uri"),
        f'sig=jwks_uri;kid="{target.kid}"', "sig=jwks_uri", good.replace(f';kid="{target.kid}"', ";kid"), good + ", a=jwks_uri", good.replace("sig=jwks_uri;", "sig=jwks_uri,"),
    ]  # fmt: skip


def _hwk(members: Mapping[str, str | None]) -> str:
    return "sig=hwk" + "".join(f';{name}="{value}"' for name, value in members.items() if value is not None)


def another_inline_key(target: Target, now: int, others: list[str]) -> list[str]:
    """Return values of scheme ``hwk`` that are not this key."""
    mine: dict[str, str] = {**target.jwk, "alg": "Ed25519"}
    changes: list[dict[str, str | None]] = [
        {"x": STRANGER["x"]}, {"x": mine["x"] + "="}, {"x": mine["x"][:-1]}, {"x": ""}, {"x": None}, {"crv": "Ed448"}, {"crv": "X25519"}, {"crv": None},
        {"kty": "EC"}, {"kty": "okp"}, {"kty": None}, {"alg": None}, {"alg": ""}, {"alg": "EdDSA"}, {"alg": "ed25519"}, {"alg": "ES256"}, {"alg": "none"},
        {"alg": "HS256"}, {"kid": target.kid}, {"d": "eA"}, {"k": "eA"}, {"use": "sig"}, {"jwt": "a.b.c"}, {"y": "eA", "kty": "EC"},
    ]  # fmt: skip
    values = [_hwk({**mine, **change}) for change in changes]
    good = _hwk(mine)
    return [
        *values,
        good + ";x",
        good + f';x="{mine["x"]}"',
        good.replace(f'"{mine["x"]}"', f":{mine['x']}:"),
        good.replace(';crv="Ed25519"', ";crv"),
        good + ", b=hwk",
    ]


def another_delegation(target: Target, now: int, others: list[str]) -> list[str]:
    """Return tokens of scheme ``jkt-jwt`` that do not delegate to this key."""
    header, claims = jkt_token(target, now)
    headers: list[dict[str, Any]] = [
        {"typ": "jkt-s512+jwt"}, {"typ": "JWT"}, {"typ": "aa-agent+jwt"}, {"typ": None}, {"alg": "none"}, {"alg": "HS256"}, {"alg": None}, {"jwk": None}, {"jwk": {}},
        {"jwk": STRANGER}, {"jwk": {**ISSUER, "d": "eA"}}, {"jwk": {**ISSUER, "x": ISSUER["y"]}}, {"kid": "issuer-1"}, {"crit": ["jwk"]}, {"jwk": "eA"},
    ]  # fmt: skip
    bodies: list[dict[str, Any]] = [
        {"iss": "urn:jkt:sha-512:" + claims["iss"][16:]}, {"iss": claims["iss"] + "A"}, {"iss": f"urn:jkt:sha-256:{STRANGER_THUMBPRINT}"}, {"iss": None}, {"iss": ""},
        {"iss": f"urn:jkt:sha-256:{target.thumbprint}"}, {"iss": "https://agents.example"}, {"iat": None}, {"iat": "1"}, {"exp": now - 1}, {"exp": None}, {"exp": "x"},
        {"cnf": {"jwk": STRANGER}}, {"cnf": {"jwk": ISSUER}}, {"cnf": {"jkt": STRANGER_THUMBPRINT}}, {"cnf": {}}, {"cnf": None},
    ]  # fmt: skip
    return [
        *(_jwt({**header, **change}, claims, scheme="jkt-jwt") for change in headers),
        *(_jwt(header, {**claims, **change}, scheme="jkt-jwt") for change in bodies),
        *(_jwt(header, _without(claims, name), scheme="jkt-jwt") for name in claims),
        *(_jwt(_without(header, name), claims, scheme="jkt-jwt") for name in header),
        _jwt(header, claims),
    ]


BINDINGS: dict[str, dict[str, Values]] = {
    "aauth": {
        "binding: not one member of a dictionary": not_a_member,
        "binding: a scheme that the profile does not have": other_scheme,
        "binding: no token": no_token,
        "binding: a header of a token that the profile does not take": header_of_token,
        "binding: a token that is over, or never is": expired_token,
        "binding: a token for another key": another_key,
    },
    "aauth-server": {
        "binding: not one member of a dictionary": not_a_member,
        "binding: another published key": another_published_key,
    },
    "hwk": {"binding: not one member of a dictionary": not_a_member, "binding: another inline key": another_inline_key},
    "jkt-jwt": {"binding: not one member of a dictionary": not_a_member, "binding: another delegation": another_delegation},
    "lumoauth": {"binding: not one member of a dictionary": not_a_member},
}


def draw(rng: random.Random, values: Values, target: Target, now: int, others: list[str]) -> str:
    """Return one of the values."""
    return rng.choice(values(target, now, others))
