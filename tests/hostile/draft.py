"""Valid inputs, in pieces that a mutation can take apart."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

ISSUER = {
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}
ISSUER_THUMBPRINT = "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U"
STRANGER = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
STRANGER_THUMBPRINT = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
DIGEST = "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"


@dataclass(frozen=True)
class Target:
    """A key of the daemon under test.

    Attributes:
        style: which valid inputs it signs; a key of :data:`STYLES` or of :mod:`hostile.tokens`.
        jwk: public, without ``alg``.
    """

    name: str
    style: str
    jwk: Mapping[str, str]
    kid: str
    thumbprint: str


@dataclass
class Draft:
    """A signature base. Lines and list are apart, so that one can be changed without the other."""

    lines: list[tuple[str, str]]
    params: list[tuple[str, str]]
    signed_params: bool = True
    listed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.listed = self.listed or [identifier for identifier, _ in self.lines]

    def copy(self) -> Draft:
        return Draft(list(self.lines), list(self.params), self.signed_params, list(self.listed))

    def pieces(self) -> list[tuple[str, str]]:
        """Return the base as (role, text); the roles are ``structure``, ``identifier``, ``value``, ``name`` and ``parameter``."""
        pieces: list[tuple[str, str]] = []
        for index, (identifier, value) in enumerate(self.lines):
            pieces += [("structure", "\n")] if index else []
            pieces += [("identifier", identifier), ("structure", ": "), ("value", value)]
        if not self.signed_params:
            return pieces
        pieces += [
            ("structure", "\n" if self.lines else ""),
            ("structure", '"@signature-params"'),
            ("structure", ": ("),
        ]
        for index, identifier in enumerate(self.listed):
            pieces += [("structure", " ")] if index else []
            pieces += [("identifier", identifier)]
        pieces += [("structure", ")")]
        for name, raw in self.params:
            pieces += [("structure", ";"), ("name", name), ("structure", "="), ("parameter", raw)]
        return pieces

    def render(self) -> bytes:
        return "".join(text for _, text in self.pieces()).encode("latin-1")

    def has(self, identifier: str) -> bool:
        return any(name == identifier for name, _ in self.lines)

    def set_value(self, identifier: str, value: str) -> Draft:
        draft = self.copy()
        draft.lines = [(name, value if name == identifier else old) for name, old in self.lines]
        return draft

    def without(self, identifier: str) -> Draft:
        draft = self.copy()
        draft.lines = [line for line in self.lines if line[0] != identifier]
        draft.listed = [name for name in self.listed if name != identifier]
        return draft

    def rename(self, identifier: str, to: str) -> Draft:
        draft = self.copy()
        draft.lines = [(to if name == identifier else name, value) for name, value in self.lines]
        draft.listed = [to if name == identifier else name for name in self.listed]
        return draft

    def add(self, identifier: str, value: str) -> Draft:
        draft = self.copy()
        draft.lines.append((identifier, value))
        draft.listed.append(identifier)
        return draft

    def set_param(self, name: str, raw: str | None) -> Draft:
        """Return a copy in which the parameter is ``raw``, or is gone."""
        draft = self.copy()
        draft.params = [(n, r) for n, r in self.params if n != name] + ([(name, raw)] if raw is not None else [])
        return draft


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def part(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return b64url(text.encode("utf-8", "surrogatepass"))


def token(header: Mapping[str, Any], claims: Mapping[str, Any], signature: str = "c2lnbmF0dXJl") -> str:
    return f"{part(header)}.{part(claims)}.{signature}"


def agent_token(target: Target, now: int, typ: str = "aa-agent+jwt") -> tuple[dict[str, Any], dict[str, Any]]:
    """Return header and claims of a token that binds the key of ``target``."""
    header = {"alg": "ES256", "typ": typ, "kid": "issuer-1"}
    claims = {
        "iss": "https://agents.example",
        "sub": "aauth:shopper@agents.example",
        "dwk": "aauth-agent.json",
        "jti": "token-1",
        "iat": now,
        "exp": now + 3600,
        "cnf": {"jwk": {**target.jwk, "alg": "Ed25519"}},
    }
    return header, claims


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


AUTHORITIES = ["api.shop.example", "a.example:8443", "xn--bcher-kva.example", "10.0.0.7:8080", "[2001:db8::1]:8443"]
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
PATHS = ["/", "/v1/orders", "/v1/orders/17", "/a%20b", "/~user/x;y=1", "/v1//x"]


def request_lines(rng: random.Random) -> list[tuple[str, str]]:
    return [
        ('"@method"', rng.choice(METHODS)),
        ('"@authority"', rng.choice(AUTHORITIES)),
        ('"@path"', rng.choice(PATHS)),
    ]


def _plain(target: Target, rng: random.Random, now: int) -> Draft:
    lines = request_lines(rng)
    extra = [
        ('"@query"', "?a=1&b=%20"),
        ('"content-digest"', DIGEST),
        ('"content-type"', "application/json"),
        ('"x-empty"', ""),
        ('"cache-control"', 'max-age=60, must-revalidate; "q\\\\"'),
        ('"example-dict";sf', "a=1, b=2;x=1;y=2"),
        ('"example-dict";key="a b: c"', "1"),
        ('"@query-param";name="q"', "x%20y"),
        ('"@scheme"', "https"),
    ]
    lines += rng.sample(extra, rng.randrange(len(extra)))
    rng.shuffle(lines)
    params = [("created", str(now - rng.randrange(10)))]
    params += rng.sample(
        [
            ("keyid", quoted(target.kid)),
            ("alg", '"ed25519"'),
            ("nonce", quoted(b64url(rng.randbytes(16)))),
            ("expires", str(now + rng.randrange(60, 250))),
            ("tag", '"shop \\"a\\""'),
        ],
        rng.randrange(4),
    )
    return Draft(lines, params)


def aauth_draft(target: Target, rng: random.Random, now: int, signature_key: str) -> Draft:
    """Return a base that covers what AAuth asks for."""
    lines = [*request_lines(rng), ('"signature-key"', signature_key)]
    if rng.random() < 0.5:
        lines += [('"content-digest"', DIGEST), ('"content-type"', "application/json")]
    if rng.random() < 0.3:
        lines.insert(3, ('"@query"', "?id=7"))
    params = [("created", str(now - rng.randrange(10)))]
    if rng.random() < 0.2:
        params.append(("keyid", quoted(target.kid)))
    return Draft(lines, params)


def _aauth(target: Target, rng: random.Random, now: int) -> Draft:
    header, claims = agent_token(target, now, rng.choice(["aa-agent+jwt", "aa-person+jwt", "aa-auth+jwt"]))
    if rng.random() < 0.3:
        claims["cnf"] = {"jkt": target.thumbprint}
    return aauth_draft(target, rng, now, f'sig=jwt;jwt="{token(header, claims)}"')


def _server(target: Target, rng: random.Random, now: int) -> Draft:
    return aauth_draft(target, rng, now, f'sig=jwks_uri;id="https://shop.example";dwk="aauth-resource.json";kid="{target.kid}"')


def _hwk(target: Target, rng: random.Random, now: int) -> Draft:
    members = "".join(f';{name}="{value}"' for name, value in target.jwk.items())
    return aauth_draft(target, rng, now, f'sig1=hwk{members};alg="Ed25519"')


def _jkt(target: Target, rng: random.Random, now: int) -> Draft:
    header, claims = jkt_token(target, now)
    return aauth_draft(target, rng, now, f'sig=jkt-jwt;jwt="{token(header, claims)}"')


def jkt_token(target: Target, now: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return header and claims of a token by which one key delegates to that of ``target``."""
    header = {"alg": "ES256", "typ": "jkt-s256+jwt", "jwk": ISSUER}
    issuer = f"urn:jkt:sha-256:{ISSUER_THUMBPRINT}"
    return header, {"iss": issuer, "iat": now, "exp": now + 600, "cnf": {"jwk": dict(target.jwk)}}


def _bot(target: Target, rng: random.Random, now: int) -> Draft:
    lines = [('"@authority"', rng.choice(AUTHORITIES))]
    if rng.random() < 0.3:
        lines = [('"@target-uri"', f"https://{rng.choice(AUTHORITIES)}/robots.txt?x=1")]
    lines += rng.choice(
        [[], [('"signature-agent"', '"https://bot.example"')], [('"signature-agent";key="sig1"', '"https://bot.example"')]]
    )
    params = [
        ("created", str(now - rng.randrange(10))),
        ("keyid", quoted(target.thumbprint)),
        ("expires", str(now + rng.randrange(60, 86000))),
        ("tag", '"web-bot-auth"'),
    ]
    if rng.random() < 0.5:
        params.append(("alg", '"ed25519"'))
    rng.shuffle(params)
    return Draft(lines, params)


def _lumoauth(target: Target, rng: random.Random, now: int) -> Draft:
    lines = [
        *request_lines(rng),
        ('"signature-key"', ""),
        ('"content-digest"', DIGEST),
        ('"content-type"', "application/json"),
        ('"authorization"', rng.choice(["", "Bearer token"])),
    ]
    return Draft(lines, [("created", str(now)), ("nonce", quoted(b64url(rng.randbytes(16))))])


def _legacy(target: Target, rng: random.Random, now: int) -> Draft:
    lines = [('"@method"', rng.choice(METHODS)), ('"@target-uri"', f"https://{rng.choice(AUTHORITIES)}{rng.choice(PATHS)}")]
    body = [('"content-type"', "application/json"), ('"content-digest"', DIGEST)]
    return Draft(lines + rng.choice([body, [('"authorization"', "Bearer token")]]), [], signed_params=False)


def _directory(target: Target, rng: random.Random, now: int) -> Draft:
    lines = [('"@authority";req', rng.choice(AUTHORITIES))]
    if rng.random() < 0.5:
        lines.append(('"content-digest"', DIGEST))
    params = [
        ("created", str(now)),
        ("expires", str(now + 300)),
        ("keyid", quoted(target.thumbprint)),
        ("tag", '"http-message-signatures-directory"'),
    ]
    return Draft(lines, params)


#: By style: how a valid base for a target is made.
STYLES: Mapping[str, Callable[[Target, random.Random, int], Draft]] = {
    "rfc9421": _plain,
    "aauth": _aauth,
    "aauth-server": _server,
    "hwk": _hwk,
    "jkt-jwt": _jkt,
    "web-bot-auth": _bot,
    "lumoauth": _lumoauth,
    "lumoauth-legacy": _legacy,
    "directory": _directory,
}

_OF_AAUTH = [{'"@method"'}, {'"@authority"'}, {'"@path"'}, {'"signature-key"'}]
_OF_LUMOAUTH = ["@method", "@authority", "@path", "signature-key", "content-digest", "content-type", "authorization"]
#: By style: what must be covered, as sets of which one member must be there.
REQUIRED: Mapping[str, list[set[str]]] = {
    "rfc9421": [],
    "aauth": _OF_AAUTH,
    "aauth-server": _OF_AAUTH,
    "hwk": _OF_AAUTH,
    "jkt-jwt": _OF_AAUTH,
    "web-bot-auth": [{'"@authority"', '"@target-uri"'}],
    "lumoauth": [{f'"{name}"'} for name in _OF_LUMOAUTH],
    "lumoauth-legacy": [{'"@method"'}, {'"@target-uri"'}],
    "directory": [{'"@authority";req'}],
}
