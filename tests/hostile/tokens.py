"""JWS signing inputs: valid ones, and each way to break them."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Mapping
from typing import Any

from hostile.draft import STRANGER, Target, part

MALFORMED = frozenset({"MALFORMED"})
ALGORITHM = frozenset({"ALGORITHM"})
TAG = frozenset({"TAG"})
KEYID = frozenset({"KEYID"})
FRESHNESS = frozenset({"FRESHNESS"})

#: What ties a resource token to the request that it answers.
RESOURCE_CLAIMS = ("iss", "dwk", "aud", "jti", "ps", "sub", "presented_jti", "agent_jkt", "iat")

Parts = tuple[dict[str, Any], dict[str, Any]]
Values = Callable[[Target, Parts, int, list[str], random.Random], list[bytes]]


def valid(target: Target, rng: random.Random, now: int) -> Parts:
    """Return header and claims of a token that the key of ``target`` signs."""
    typ = rng.choice(
        ["aa-agent+jwt", "aa-auth+jwt", "aa-person+jwt", "aa-resource+jwt"]
        if target.style == "issuer"
        else ["JWT", "at+jwt", "agent+jwt"]
    )
    header = {"alg": "Ed25519", "typ": typ, "kid": target.kid}
    claims = {
        "iss": "https://agents.example",
        "sub": f"user-{rng.randrange(1000)}",
        "iat": now,
        "exp": now + rng.randrange(60, 240),
        "jti": str(rng.randrange(10**9)),
    }
    claims["cnf"] = {"jwk": STRANGER}
    if typ == "aa-resource+jwt":
        claims |= {name: "x" for name in RESOURCE_CLAIMS if name not in claims}
    if rng.random() < 0.3:
        claims["aud"] = rng.choice([["https://a.example"], "https://a.example"])
        claims["note"] = '\u00e9 \u2028 \\ " \U0001f511'
    return header, claims


def encode(parts: Parts) -> bytes:
    """Return the signing input."""
    return f"{part(parts[0])}.{part(parts[1])}".encode()


def _raw(header: bytes | str | None, claims: bytes | str | None, parts: Parts) -> bytes:
    """Return a signing input with text in place of the JSON of one part."""

    def one(text: bytes | str | None, value: dict[str, Any]) -> str:
        if text is None:
            return part(value)
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    return f"{one(header, parts[0])}.{one(claims, parts[1])}".encode()


def shape(_: Target, parts: Parts, __: int, ___: list[str], rng: random.Random) -> list[bytes]:
    """Return what is not two parts in canonical base64url."""
    good = encode(parts)
    head, body = good.split(b".")
    at = rng.randrange(len(good))
    return [
        b"", b".", b"..", head, body, head + b".", b"." + body, good + b".", b"." + good, good + b".c2ln", good + b"." + body, good + b"=", head + b"=." + body, head + b"==." + body,
        good + b"\n", b"\n" + good, good + b" ", b" " + good, good.replace(b".", b". "), good.replace(b".", b" ."), good.replace(b".", b"\n"), good.replace(b".", b".."),
        good.replace(b".", b","), good + b"\0", good[:at] + b"\0" + good[at:], good[:at] + b"+" + good[at + 1 :], good[:at] + b"/" + good[at + 1 :], good[:at] + b"%" + good[at + 1 :],
        good[:at] + bytes([good[at] | 0x80]) + good[at + 1 :], good[:at] + b"\r\n" + good[at:], b'"' + good + b'"', b"Bearer " + good, b"{" + good + b"}", b"\xef\xbb\xbf" + good,
        json.dumps({"protected": head.decode(), "payload": body.decode(), "signature": ""}).encode(), json.dumps(parts[0]).encode() + b"." + json.dumps(parts[1]).encode(),
        base64.b64encode(json.dumps(parts[0]).encode()) + b"." + body + b"==", head + b"." + base64.b32encode(json.dumps(parts[1]).encode()), good.decode().encode("utf-16"),
    ]  # fmt: skip


def not_canonical(_: Target, parts: Parts, __: int, ___: list[str], rng: random.Random) -> list[bytes]:
    """Return base64url with bits that decode to nothing: a second spelling of the same octets."""
    values = []
    for pad in range(3):
        header = json.dumps(parts[0]) + " " * pad
        text = base64.urlsafe_b64encode(header.encode())
        spare = text.count(b"=")
        if spare:
            alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
            last = text.rstrip(b"=")
            changed = alphabet[alphabet.index(last[-1:]) | rng.randrange(1, 4 if spare == 1 else 16)]
            values.append(last[:-1] + bytes([changed]) + b"." + part(parts[1]).encode())
    return values


def json_of_header(_: Target, parts: Parts, __: int, ___: list[str], rng: random.Random) -> list[bytes]:
    """Return headers that are not a JSON object with distinct members of the right types."""
    good = json.dumps(parts[0])
    inner = good[1:-1]
    texts: list[str | bytes] = [
        "", "{}", "[]", "null", "1", '""', "true", good[:-1], good + "}", good + good, "[" + good + "]", good + ",", good.replace('"', "'"), good[:-1] + ",}", "{" + inner + ',"alg":"none"}',
        '{"alg":"none",' + inner + "}", "{" + inner + ',"kid":"x"}', '{"typ":"x",' + inner + "}", "{" + inner + ',"\\u0061lg":"none"}', "\ufeff" + good, good + "\0", "/*x*/" + good,
        good.encode("utf-16"), good.encode("utf-16-le"), good.encode() + b"\xff", good.encode().replace(b"alg", b"al\xe7"), "{" + inner + ',"x":NaN}', "{" + inner + ',"x":Infinity}',
        "{" + inner + ',"x":' + "[" * 5000 + "]" * 5000 + "}", "{" + inner + ',"x":' + "9" * 5000 + "}", "{" + inner + ',"x":1e999}', "{" + inner + ',"x":"\ud800"}', "{" + inner + ',"x":01}',
    ]  # fmt: skip
    return [_raw(text, None, parts) for text in texts]


def members_of_header(_: Target, parts: Parts, __: int, ___: list[str], rng: random.Random) -> list[bytes]:
    """Return headers with members that change what is signed, or bring a key along, or are of the wrong type."""
    more: list[dict[str, Any]] = [
        {"crit": ["exp"]}, {"crit": []}, {"crit": ["b64"], "b64": False}, {"b64": False}, {"b64": True}, {"jwk": STRANGER}, {"jku": "https://evil.example/jwks.json"}, {"x5u": "https://evil.example"},
        {"x5c": ["eA=="]}, {"x5t": "eA"}, {"x5t#S256": "eA"}, {"cty": "JWT"}, {"zip": "DEF"}, {"enc": "A128GCM"}, {"p2c": 10**9}, {"epk": STRANGER}, {"nonce": "x"}, {"url": "https://acme.example"},
        {"ALG": "none"}, {"Kid": "x"}, {"x": 1}, {"": 1}, {"iss": "x"}, {"jti": "x"}, {"alg": 1}, {"alg": None}, {"alg": ["Ed25519"]}, {"alg": ""}, {"alg": True}, {"typ": 1}, {"typ": None},
        {"typ": ["JWT"]}, {"typ": ""}, {"kid": 1}, {"kid": None}, {"kid": [parts[0]["kid"]]}, {"kid": ""}, {"kid": {"a": 1}}, {"__proto__": {}}, {"alg\0": "none"},
    ]  # fmt: skip
    without = {name: value for name, value in parts[0].items() if name != "alg"}
    return [encode(({**parts[0], **change}, parts[1])) for change in more] + [encode((without, parts[1]))]


def algorithm(_: Target, parts: Parts, __: int, ___: list[str], rng: random.Random) -> list[bytes]:
    """Return headers with another algorithm."""
    names = [
        "none",
        "None",
        "NONE",
        "nOnE",
        "HS256",
        "HS384",
        "HS512",
        "ES256",
        "ES384",
        "ES512",
        "ES256K",
        "RS256",
        "RS1",
        "PS512",
        "Ed448",
        "ed25519",
        "ED25519",
        "Ed25519 ",
        " Ed25519",
        "X25519",
        "dir",
    ]
    names += ["Ed25519ph", "RSA-OAEP", "A128KW", "ML-DSA-44", "unsecured", "\u0415d25519", "Ed25519\0"] + (
        ["EdDSA", "eddsa"] if parts[0]["typ"].startswith("aa-") else ["eddsa", "EDDSA"]
    )
    return [encode(({**parts[0], "alg": name}, parts[1])) for name in names]


def typ(target: Target, parts: Parts, __: int, ___: list[str], rng: random.Random) -> list[bytes]:
    """Return headers with a type that the profile does not have."""
    names = [
        "logout+jwt",
        "secevent+jwt",
        "dpop+jwt",
        "jkt-s256+jwt",
        "application/at+jwt",
        "JWT ",
        "JW\u0422",
        "JWS",
        "JOSE",
        "jwt+json",
        "x",
        "aa-session+jwt",
        "aa-agent",
        "token-introspection+jwt",
    ]
    names += ["JWT", "at+jwt", "agent+jwt"] if target.style == "issuer" else ["aa-auth+jwt", "aa-person+jwt", "auth+jwt"]
    without = {name: value for name, value in parts[0].items() if name != "typ"}
    return [encode(({**parts[0], "typ": name}, parts[1])) for name in names] + [encode((without, parts[1]))]


def kid(target: Target, parts: Parts, __: int, others: list[str], rng: random.Random) -> list[bytes]:
    """Return headers that name another key."""
    names = [
        *others,
        target.kid + "=",
        target.kid[:-1],
        target.kid.swapcase(),
        target.kid + " ",
        target.kid + "\0",
        "../" + target.kid,
        target.name,
        "key-1",
        "' OR 1=1 --",
        "/dev/null",
        "*",
    ]
    return [encode(({**parts[0], "kid": name}, parts[1])) for name in names if name not in (target.kid, target.thumbprint)]


def payload(_: Target, parts: Parts, __: int, ___: list[str], rng: random.Random) -> list[bytes]:
    """Return payloads that are not a claims set with distinct names."""
    good = json.dumps(parts[1])
    inner = good[1:-1]
    texts: list[str | bytes] = [
        "", "[]", "null", "1", '"x"', "true", "x", good[:-1], good + "}", good + good, "[" + good + "]", good[:-1] + ",}", "{" + inner + ',"exp":9999999999}', '{"exp":1,' + inner + "}",
        "{" + inner + ',"EXP":9999999999}', "{" + inner + ',"Iss":"https://evil.example"}', "{" + inner + ',"AUD":"x"}', "{" + inner + ',"Cnf":{}}', "{" + inner + ',"\\u0065xp":1}', "\ufeff" + good,
        good + "\0", good.encode("utf-16"), good.encode() + b"\xff", good.encode() + b"\xc0\x80", "{" + inner + ',"x":NaN}', "{" + inner + ',"x":-Infinity}', "{" + inner + ',"x":1e400}',
        "{" + inner + ',"x":"\ud800"}', "{" + inner + ',"x":"\\udfff"}', "{" + inner + ',"x":' + "[" * 40 + "]" * 40 + "}", "{" + inner + ',"x":' + '{"a":' * 40 + "1" + "}" * 41,
        "{" + inner + ',"x":' + "[" * 5000 + "]" * 5000 + "}", "{" + inner + ',"x":' + "9" * 5000 + "}", "{" + inner + ',"x":0x1}', "{" + inner + ',"x":\'1\'}', "{" + inner + ',"x":{"a":1,"a":2}}',
        good.replace('"', "'"), "//c\n" + good, "a=b&c=d", "<xml/>", b"\x30\x82\x01\x00", b"\xd9\xd9\xf7\xa1", "{" + inner + ',"x":"\t"}', "{" + inner + ',"x":"\x00"}',
    ]  # fmt: skip
    return [_raw(None, text, parts) for text in texts]


def times(_: Target, parts: Parts, now: int, ___: list[str], rng: random.Random) -> list[bytes]:
    """Return claims whose times are missing, of the wrong type, or outside of their window."""
    wrong: list[Any] = [None, True, False, "", str(now + 60), [now + 60], {"a": now}, -1, 10**13, 10**30, -(10**30), 1e300]
    changes: list[dict[str, Any]] = [
        {"exp": value} for value in (*wrong, 0, 1, now - 3600, now - 1, now - 0.5, now + 86400 * 2, now + 10**8, 253402300800)
    ]
    changes += [{"iat": value} for value in (*wrong, now + 120, now + 86400, now + 10**9)]
    changes += [{"nbf": value} for value in (*wrong, parts[1]["exp"], parts[1]["exp"] + 1, now + 10**6)]
    longest = {"aa-resource+jwt": 300, "aa-auth+jwt": 3600, "aa-person+jwt": 3600}.get(parts[0]["typ"], 86400)
    changes += [{"exp": now + longest + extra} for extra in (60, 600, 86400)]
    without = {name: value for name, value in parts[1].items() if name != "exp"}
    return [encode((parts[0], {**parts[1], **change})) for change in changes] + [encode((parts[0], without))]


def size(_: Target, parts: Parts, __: int, ___: list[str], rng: random.Random) -> list[bytes]:
    """Return more than 64 KiB."""
    return [
        encode((parts[0], {**parts[1], "x": "a" * 60000})),
        encode((parts[0], parts[1])) + b"A" * 70000,
        b"e30." * 20000,
        b"." * 70000,
    ]


TOKENS: Mapping[str, tuple[frozenset[str], Values]] = {
    "token: not two parts in base64url": (MALFORMED, shape),
    "token: base64url in a second spelling": (MALFORMED, not_canonical),
    "token: a header that is not a JSON object": (MALFORMED, json_of_header),
    "token: members of the header": (MALFORMED, members_of_header),
    "token: another algorithm": (ALGORITHM, algorithm),
    "token: another type": (TAG, typ),
    "token: another kid": (KEYID, kid),
    "token: a payload that is not a claims set": (MALFORMED, payload),
    "token: times": (FRESHNESS, times),
    "token: too large": (frozenset({"SIZE"}), size),
}
#: For a key of an issuer of AAuth, beyond those.
ISSUER_TOKENS: Mapping[str, tuple[frozenset[str], Values]] = {
    "token: without kid": (
        KEYID,
        lambda t, parts, n, o, r: [encode(({k: v for k, v in parts[0].items() if k != "kid"}, parts[1]))],
    ),
    "token: without the key of its holder": (
        frozenset({"BINDING"}),
        lambda t, parts, n, o, r: (
            []
            if parts[0]["typ"] == "aa-resource+jwt"
            else [
                encode((parts[0], {**parts[1], "cnf": cnf}))
                for cnf in (None, {}, [], "x", {"kid": "x"}, {"jwk": None}, {"jwk": {}}, {"jkt": ""})
            ]
        ),
    ),
    "token: a resource token that is tied to no request": (
        frozenset({"CLAIMS"}),
        lambda t, parts, n, o, r: (
            [encode((parts[0], {k: v for k, v in parts[1].items() if k != name})) for name in RESOURCE_CLAIMS]
            if parts[0]["typ"] == "aa-resource+jwt"
            else []
        ),
    ),
}
