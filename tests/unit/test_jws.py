"""The strict parser of JWS signing inputs, and the builder that must meet it."""

from __future__ import annotations

import base64
import json
from typing import Any

import joserfc.jwk
import joserfc.jwt
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.api import Algorithm
from keyd.core.errors import InvalidArgumentError, KeydError, MalformedError, SizeError
from keyd.core.jws import MAX_BYTES, MAX_DEPTH, b64url, build, parse

NOW = 1_800_000_000.75
LIMITS = settings(max_examples=300, deadline=None)
HEADER = '{"alg":"Ed25519","typ":"JWT","kid":"k1"}'
CLAIMS = '{"iss":"https://a.example","exp":1800000300}'


def signing_input(header: str | bytes = HEADER, claims: str | bytes = CLAIMS) -> bytes:
    parts = [part.encode() if isinstance(part, str) else part for part in (header, claims)]
    return ".".join(map(b64url, parts)).encode()


def test_reads_header_and_claims() -> None:
    parsed = parse(signing_input())
    assert (parsed.alg, parsed.typ, parsed.kid) == ("Ed25519", "JWT", "k1")
    assert parsed.claims == {"iss": "https://a.example", "exp": 1800000300}


def test_typ_and_kid_may_be_missing() -> None:
    parsed = parse(signing_input('{"alg":"ES256"}'))
    assert (parsed.alg, parsed.typ, parsed.kid) == ("ES256", None, None)


def test_reads_what_pyjwt_makes() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    token = jwt.encode({"sub": "ä", "exp": 5}, key, algorithm="EdDSA", headers={"kid": "k"})
    parsed = parse(token.rpartition(".")[0].encode())
    assert (parsed.alg, parsed.typ, parsed.kid, parsed.claims) == ("EdDSA", "JWT", "k", {"sub": "ä", "exp": 5})


def test_reads_what_joserfc_makes() -> None:
    key = joserfc.jwk.ECKey.generate_key("P-256", private=True)
    token = joserfc.jwt.encode({"alg": "ES256", "typ": "at+jwt"}, {"sub": "a", "exp": 5}, key)
    parsed = parse(token.rpartition(".")[0].encode())
    assert (parsed.alg, parsed.typ, parsed.kid, parsed.claims) == ("ES256", "at+jwt", None, {"sub": "a", "exp": 5})


MALFORMED = {
    "empty": b"",
    "no dot": b64url(HEADER.encode()).encode(),
    "two dots": signing_input() + b".c2ln",
    "dot at the end": signing_input() + b".",
    "empty header": b"." + b64url(CLAIMS.encode()).encode(),
    "empty payload": b64url(HEADER.encode()).encode() + b".",
    "padding": signing_input() + b"=",
    "line feed at the end": signing_input() + b"\n",
    "space": signing_input() + b" ",
    "standard base64": signing_input(claims='{"a":"???>>>~~~"}').replace(b"_", b"/").replace(b"-", b"+"),
    "impossible length": signing_input() + b"A" * (5 - len(b64url(CLAIMS.encode())) % 4),
    "bits beyond the end": b64url(HEADER.encode()).encode() + b".e31",
    "signature base": b'"@method": GET\n"@signature-params": ("@method")',
    "header not json": signing_input("{"),
    "header not utf-8": signing_input(b'{"alg":"\xff"}'),
    "header with a byte order mark": signing_input("\ufeff" + HEADER),
    "header utf-16": signing_input(HEADER.encode("utf-16")),
    "header an array": signing_input('["alg"]'),
    "header with trailing text": signing_input(HEADER + "{}"),
    "header without alg": signing_input('{"typ":"JWT"}'),
    "alg twice": signing_input('{"alg":"none","alg":"Ed25519"}'),
    "alg twice, once escaped": signing_input('{"alg":"none","\\u0061lg":"Ed25519"}'),
    "alg in upper case": signing_input('{"alg":"Ed25519","ALG":"none"}'),
    "alg null": signing_input('{"alg":null}'),
    "alg an array": signing_input('{"alg":["Ed25519"]}'),
    "alg empty": signing_input('{"alg":""}'),
    "typ a number": signing_input('{"alg":"Ed25519","typ":1}'),
    "kid null": signing_input('{"alg":"Ed25519","kid":null}'),
    "kid an object": signing_input('{"alg":"Ed25519","kid":{}}'),
    "kid with a lone surrogate": signing_input('{"alg":"Ed25519","kid":"\\ud800"}'),
    "payload an array": signing_input(claims="[]"),
    "payload a string": signing_input(claims='"a"'),
    "payload null": signing_input(claims="null"),
    "payload text": signing_input(claims="hello"),
    "claim twice": signing_input(claims='{"exp":1,"exp":2}'),
    "claim twice deep down": signing_input(claims='{"a":[{"cnf":{"jkt":"a","jkt":"b"}}]}'),
    "exp in upper case too": signing_input(claims='{"exp":1,"EXP":2}'),
    "iss with a long s": signing_input(claims='{"iss":"a","i\u017fs":"b"}'),
    "nan": signing_input(claims='{"exp":NaN}'),
    "infinity": signing_input(claims='{"exp":-Infinity}'),
    "number beyond double": signing_input(claims='{"exp":1e999}'),
    "number of 5000 digits": signing_input(claims='{"exp":' + "9" * 5000 + "}"),
    "lone surrogate": signing_input(claims='{"a":["\\udc00"]}'),
    "control character": signing_input(claims='{"a":"\n"}'),
    "comment": signing_input(claims='{"a":1/**/}'),
    "trailing comma": signing_input(claims='{"a":1,}'),
    "too deep": signing_input(claims='{"a":' * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1)),
    "deeper than the stack": signing_input(claims='{"a":' + "[" * 40000 + "]" * 8000 + "}"),
    "deeper than the stack in the header": signing_input(header='{"alg":' + "[" * 40000),
} | {
    # RFC 8725: members that bring a key, or that change what is signed or must be understood.
    f"header member {name}": signing_input(json.dumps({"alg": "Ed25519", name: value}))
    for name, value in {
        "crit": ["exp"],
        "b64": False,
        "jwk": {"kty": "oct", "k": "AA"},
        "jku": "https://evil.example/jwks.json",
        "x5u": "https://evil.example/x.pem",
        "x5c": ["AA"],
        "x5t": "AA",
        "x5t#S256": "AA",
        "cty": "JWT",
        "zip": "DEF",
        "enc": "A128GCM",
        "nonce": "n",
    }.items()
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_refuses_as_malformed(data: bytes) -> None:
    assert len(data) <= MAX_BYTES
    with pytest.raises(MalformedError):
        parse(data)


def test_takes_the_deepest_nesting_that_is_allowed() -> None:
    parse(signing_input(claims='{"a":' * MAX_DEPTH + "1" + "}" * MAX_DEPTH))


def test_many_objects_side_by_side_are_not_deep() -> None:
    assert len(parse(signing_input(claims=json.dumps({"a": [{}] * 100}))).claims["a"]) == 100


def test_takes_64_kib_and_not_a_byte_more() -> None:
    header = b64url(HEADER.encode())
    payload_size = (MAX_BYTES - len(header) - 1) // 4 * 3
    fits = signing_input(claims='{"a":"' + "a" * (payload_size - 8) + '"}')
    assert MAX_BYTES - 4 < len(fits) <= MAX_BYTES
    parse(fits)
    with pytest.raises(SizeError, match="at most 65536 bytes"):
        parse(signing_input(claims='{"a":"' + "a" * payload_size + '"}'))


def test_repr_and_errors_hide_the_claims() -> None:
    assert "s3cret" not in repr(parse(signing_input(claims='{"sub":"s3cret"}')))
    with pytest.raises(MalformedError) as caught:
        parse(signing_input(claims='{"s3cret":1,"s3cret":2}'))
    assert "s3cret" not in f"{caught.value!r}{caught.value.__cause__!r}"
    assert caught.value.__suppress_context__


@LIMITS
@given(st.binary(max_size=100))
def test_arbitrary_bytes_raise_nothing_but_domain_errors(data: bytes) -> None:
    with pytest.raises(KeydError):
        parse(data)


@LIMITS
@given(st.binary(max_size=60), st.binary(max_size=60))
def test_arbitrary_parts_raise_nothing_but_domain_errors(header: bytes, claims: bytes) -> None:
    with pytest.raises(KeydError):
        parse(signing_input(header, claims))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
claim_names = st.text(max_size=6).filter(lambda name: name not in {"iat", "exp"})


@LIMITS
@given(st.dictionaries(claim_names, json_values, max_size=5), st.booleans())
def test_every_claims_set_survives_build_and_parse(claims: dict[str, Any], ascii_only: bool) -> None:
    text = json.dumps(claims, ensure_ascii=ascii_only)
    data = build(text, typ="JWT", kid="k", algorithm=Algorithm.ES256, now=NOW, lifetime=None)
    assert dict(parse(data).claims) == {**claims, "iat": int(NOW)}


@LIMITS
@given(st.integers(0, len(signing_input()) - 1), st.integers(0, 255))
def test_a_mutated_signing_input_is_refused_or_what_another_decoder_reads(position: int, byte: int) -> None:
    mutated = bytearray(signing_input())
    mutated[position] = byte
    try:
        parsed = parse(bytes(mutated))
    except KeydError:
        return
    header, claims = (json.loads(base64.urlsafe_b64decode(part + b"==")) for part in bytes(mutated).split(b"."))
    assert parsed.claims == claims
    assert {"alg": parsed.alg, "typ": parsed.typ, "kid": parsed.kid} == {"typ": None, "kid": None} | header


def test_build_makes_a_compact_header_and_keeps_the_order_of_claims() -> None:
    data = build('{ "z" : 1, "a": "\\u00e4" }', typ="at+jwt", kid="k1", algorithm=Algorithm.ED25519, now=NOW, lifetime=300)
    header, claims = (base64.urlsafe_b64decode(part + b"==") for part in data.split(b"."))
    assert header == b'{"alg":"Ed25519","typ":"at+jwt","kid":"k1"}'
    assert claims == '{"z":1,"a":"ä","iat":1800000000,"exp":1800000300}'.encode()


def test_build_leaves_iat_and_exp_of_the_caller_alone() -> None:
    claims = parse(build('{"exp":9,"iat":5}', typ="JWT", kid="k", algorithm=Algorithm.ES256, now=NOW, lifetime=None)).claims
    assert claims == {"exp": 9, "iat": 5}


def test_what_build_makes_verifies_with_pyjwt_once_signed() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    algorithm = jwt.get_algorithm_by_name("ES256")
    data = build('{"sub":"a"}', typ="JWT", kid="k", algorithm=Algorithm.ES256, now=4_000_000_000, lifetime=60)
    token = f"{data.decode()}.{b64url(algorithm.sign(data, key))}"
    options: Any = {"verify_iat": False}
    assert jwt.decode(token, key.public_key(), algorithms=["ES256"], options=options)["sub"] == "a"
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(token, other, algorithms=["ES256"], options=options)


@pytest.mark.parametrize(
    ("claims", "changes", "error"),
    [
        ('{"exp":1}', {"lifetime": 60.0}, InvalidArgumentError),
        ("{}", {"lifetime": 0.0}, InvalidArgumentError),
        ("{}", {"lifetime": -1.0}, InvalidArgumentError),
        ("{}", {"lifetime": float("inf")}, InvalidArgumentError),
        ("{}", {"lifetime": float("nan")}, InvalidArgumentError),
        ("{}", {"typ": ""}, InvalidArgumentError),
        ("[]", {}, MalformedError),
        ("", {}, MalformedError),
        ('{"a":1,"a":2}', {}, MalformedError),
        ('{"a":NaN}', {}, MalformedError),
        ('{"a":"\\ud800"}', {}, MalformedError),
        ('{"a":"\ud800"}', {}, MalformedError),
        ('{"Exp":1}', {}, MalformedError),
        ('{"a":"' + "a" * 50000 + '"}', {}, SizeError),
        ('{"a":"' + "a" * 70000 + '"}', {}, SizeError),
    ],
    ids=lambda value: (value[:20] or "empty").encode("ascii", "backslashreplace").decode() if isinstance(value, str) else None,
)
def test_build_refuses(claims: str, changes: dict[str, Any], error: type[KeydError]) -> None:
    arguments: dict[str, Any] = {"typ": "JWT", "kid": "k", "algorithm": Algorithm.ES256, "now": NOW, "lifetime": None} | changes
    with pytest.raises(error):
        build(claims, **arguments)
