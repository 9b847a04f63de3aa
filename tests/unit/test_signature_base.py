"""The strict parser of signature bases, example by example."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keyd.core import signature_base
from keyd.core.errors import MalformedError, SizeError
from keyd.core.signature_base import MAX_BYTES, parse

VECTORS = Path(__file__).parent.parent / "vectors" / "rfc9421_appendix_b.json"
VECTOR_FIELDS = {"label", "title", "base", "signature_b64", "verified_with"}


def load_vectors() -> list[dict[str, Any]]:
    document = json.loads(VECTORS.read_text("utf-8"))
    assert document.keys() == {"source", "keys", "vectors"}
    vectors: list[dict[str, Any]] = document["vectors"]
    assert len(vectors) >= 6
    for vector in vectors:
        assert vector.keys() == VECTOR_FIELDS
    return vectors


@pytest.mark.parametrize("vector", load_vectors(), ids=lambda vector: vector["label"])
def test_rfc_vectors_parse_and_serialise_to_the_same_bytes(vector: dict[str, Any]) -> None:
    data = vector["base"].encode("ascii")
    base = parse(data)
    assert base.serialise() == data
    assert base.created == 1618884473


def lines(*above: str, last: str) -> bytes:
    return "\n".join([*above, f'"@signature-params": {last}']).encode()


def one(identifier: str, value: str) -> bytes:
    return lines(f"{identifier}: {value}", last=f"({identifier});created=1")


METHOD = '"@method": GET'
LIST = '("@method");created=1'

ACCEPTED = {
    "empty coverage": lines(last="()"),
    "empty value": one('"x-empty"', ""),
    "tab in a value": one('"x"', "a\tb"),
    "query param": one('"@query-param";name="a b"', "c%20d"),
    "empty query param": one('"@query-param";name=""', ""),
    "dictionary member": one('"signature-agent";key="sig1"', '"https://a.example"'),
    "escapes in a parameter": one(r'"x";key="a\"b\\c: "', "1"),
    "strict serialisation": one('"x";sf', "a, b"),
    "bytes": one('"x";bs', ":YQ==:"),
    "trailer": one('"x";tr', "1"),
    "of the request": one('"@authority";req', "example.com"),
    "member and trailer of the request": one('"x";req;tr;key="a"', "1"),
    "same field, two members": lines('"x";key="a": 1', '"x";key="b": 2', last='("x";key="a" "x";key="b")'),
    "same component of request and response": lines('"x": 1', '"x";req: 2', last='("x" "x";req)'),
    "target uri": one('"@target-uri"', "https://example.com:8443/a?b=c&d"),
    "target uri without a path": one('"@target-uri"', "http://[::1]"),
    "request target": one('"@request-target"', "*"),
    "scheme": one('"@scheme"', "https"),
    "status": one('"@status"', "204"),
    "query": one('"@query"', "?"),
    "every parameter": lines(METHOD, last='("@method");tag="t";keyid="k";alg="ed25519";nonce="n";expires=2;created=1'),
    "largest integer": lines(METHOD, last='("@method");created=999999999999999'),
    "zero": lines(METHOD, last='("@method");created=0'),
    "token characters in a field name": one('"x!#$%&\'*+-.^_`|~9"', "1"),
}


@pytest.mark.parametrize("data", ACCEPTED.values(), ids=ACCEPTED)
def test_accepts(data: bytes) -> None:
    assert parse(data).serialise() == data


# Numbers are those of the checks that a signer makes: form (2), lines (3), canonical list (4), agreement (5), parameters (6).
MALFORMED = {
    "2 empty": b"",
    "2 not ascii": one('"x"', "é"),
    "2 utf-8 name": one('"x-é"', "1"),
    "2 carriage return": lines(METHOD, last=LIST).replace(b"\n", b"\r\n"),
    "2 nul": one('"x"', "a\0b"),
    "2 delete": one('"x"', "a\x7fb"),
    "2 escape": one('"x"', "a\x1bb"),
    "2 line feed at the end": lines(METHOD, last=LIST) + b"\n",
    "2 line feed at the start": b"\n" + lines(METHOD, last=LIST),
    "2 space at the start": b" " + lines(METHOD, last=LIST),
    "2 jws signing input": b"eyJhbGciOiJFZDI1NTE5In0.e30",
    "2 der": b"0\x82\x01\x0a",
    "3 no signature params": METHOD.encode(),
    "3 signature params first": f'"@signature-params": {LIST}\n{METHOD}'.encode(),
    "3 signature params twice": lines(METHOD, f'"@signature-params": {LIST}', last=LIST),
    "3 signature params covered": lines('"@signature-params": ()', last='("@signature-params");created=1'),
    "3 signature params with a parameter": f'{METHOD}\n"@signature-params";req: {LIST}'.encode(),
    "3 no space after the colon": lines('"@method":GET', last=LIST),
    "3 space before the colon": lines('"@method" : GET', last=LIST),
    "3 no quotes": lines("@method: GET", last=LIST),
    "3 empty line": lines(METHOD, "", last=LIST),
    "3 folded value": lines('"x": a', " b", last='("x");created=1'),
    "3 space before a value": one('"x"', " a"),
    "3 space after a value": one('"x"', "a "),
    "3 tab after a value": one('"x"', "a\t"),
    "4 two spaces in the list": lines(METHOD, '"x": 1', last='("@method"  "x");created=1'),
    "4 spaces inside of the list": lines(METHOD, last='( "@method" );created=1'),
    "4 tab in the list": lines(METHOD, '"x": 1', last='("@method"\t"x");created=1'),
    "4 space after a semicolon": lines(METHOD, last='("@method"); created=1'),
    "4 space after the list": lines(METHOD, last='("@method") ;created=1'),
    "4 space at the end": lines(METHOD, last='("@method");created=1 '),
    "4 two lists": lines(METHOD, last='("@method");created=1, ("@method");created=1'),
    "4 a label": lines(METHOD, last='sig1=("@method");created=1'),
    "4 open list": lines(METHOD, last='("@method"'),
    "4 no list": lines(METHOD, last=""),
    "4 leading zero": lines(METHOD, last='("@method");created=01'),
    "4 minus zero": lines(METHOD, last='("@method");created=-0'),
    "4 sixteen digits": lines(METHOD, last='("@method");created=1000000000000000'),
    "4 unknown escape": lines(METHOD, last=r'("@method");created=1;nonce="a\b"'),
    "4 open string": lines(METHOD, last='("@method");created=1;nonce="a'),
    "4 escaped end of a string": lines(METHOD, last=r'("@method");created=1;nonce="a\"'),
    "4 flag written out": lines('"x";sf=?1: 1', last='("x";sf=?1);created=1'),
    "4 unknown escape in an identifier": one(r'"x";key="a\b"', "1"),
    "4 byte sequence that is not canonical": lines(METHOD, last='("@method");created=1;nonce=:YR==:'),
    "4 upper case parameter": lines(METHOD, last='("@method");Created=1'),
    "5 line that is not listed": lines(METHOD, '"x": 1', last=LIST),
    "5 listed without a line": lines(METHOD, last='("@method" "x");created=1'),
    "5 another order": lines(METHOD, '"x": 1', last='("x" "@method");created=1'),
    "5 another parameter order": lines('"x";req;tr: 1', last='("x";tr;req);created=1'),
    "5 other parameters": lines('"x";sf: 1', last='("x");created=1'),
    "5 duplicate": lines(METHOD, METHOD, last='("@method" "@method");created=1'),
    "5 duplicate but for parameter order": lines('"x";req;tr: 1', '"x";tr;req: 1', last='("x";req;tr "x";tr;req);created=1'),
    "5 upper case field name": one('"X-Foo"', "1"),
    "5 space in a field name": one('"x foo"', "1"),
    "5 colon in a field name": one('"x:y"', "1"),
    "5 empty name": one('""', "1"),
    "5 unknown derived component": one('"@evil"', "1"),
    "5 upper case derived component": one('"@Method"', "GET"),
    "5 unknown component parameter": one('"x";foo', "1"),
    "5 repeated component parameter": one('"x";sf;sf', "1"),
    "5 flag as a string": one('"x";sf="1"', "1"),
    "5 key as a flag": one('"x";key', "1"),
    "5 key as a token": one('"x";key=a', "1"),
    "5 sf and bs": one('"x";sf;bs', "1"),
    "5 bs and key": one('"x";bs;key="a"', "1"),
    "5 sf and key": one('"x";sf;key="a"', "1"),
    "5 name on a field": one('"x";name="a"', "1"),
    "5 query param without a name": one('"@query-param"', "1"),
    "5 name on a derived component": one('"@method";name="a"', "GET"),
    "5 sf on a derived component": one('"@method";sf', "GET"),
    "5 bs on a derived component": one('"@method";bs', ":R0VU:"),
    "5 tr on a derived component": one('"@method";tr', "GET"),
    "5 key on a derived component": one('"@query";key="a"', "?a"),
    "6 unknown parameter": lines(METHOD, last='("@method");created=1;foo="bar"'),
    "6 repeated parameter": lines(METHOD, last='("@method");created=1;created=1'),
    "6 created as a string": lines(METHOD, last='("@method");created="1"'),
    "6 created as a decimal": lines(METHOD, last='("@method");created=1.0'),
    "6 created as a date": lines(METHOD, last='("@method");created=@1'),
    "6 created as a flag": lines(METHOD, last='("@method");created'),
    "6 created below zero": lines(METHOD, last='("@method");created=-1'),
    "6 expires as a string": lines(METHOD, last='("@method");expires="1"'),
    "6 keyid as a token": lines(METHOD, last='("@method");keyid=k'),
    "6 nonce as an integer": lines(METHOD, last='("@method");nonce=1'),
    "6 tag as a flag": lines(METHOD, last='("@method");tag'),
    "value @method with a space": one('"@method"', "GET /"),
    "value @method empty": one('"@method"', ""),
    "value @status short": one('"@status"', "20"),
    "value @status long": one('"@status"', "2000"),
    "value @status zero": one('"@status"', "000"),
    "value @authority upper case": one('"@authority"', "Example.com"),
    "value @authority empty": one('"@authority"', ""),
    "value @authority with userinfo": one('"@authority"', "good.example@evil.example"),
    "value @authority with a path": one('"@authority"', "example.com/x"),
    "value @authority encoded": one('"@authority"', "example%2ecom"),
    "value @authority with a space": one('"@authority"', "example.com evil.example"),
    "value @authority two": one('"@authority"', "a.example,b.example"),
    "value @authority empty port": one('"@authority"', "example.com:"),
    "value @authority long port": one('"@authority"', "example.com:123456"),
    "value @scheme upper case": one('"@scheme"', "HTTPS"),
    "value @path relative": one('"@path"', "foo"),
    "value @path with a query": one('"@path"', "/foo?a=b"),
    "value @path with a space": one('"@path"', "/a b"),
    "value @query without a question mark": one('"@query"', "a=b"),
    "value @query empty": one('"@query"', ""),
    "value @query with a fragment": one('"@query"', "?a#b"),
    "value @query-param with a space": one('"@query-param";name="a"', "b c"),
    "value @request-target with a space": one('"@request-target"', "/a b"),
    "value @target-uri relative": one('"@target-uri"', "/foo"),
    "value @target-uri of another scheme": one('"@target-uri"', "file:///etc/passwd"),
    "value @target-uri without a host": one('"@target-uri"', "https:///foo"),
    "value @target-uri with userinfo": one('"@target-uri"', "https://good.example@evil.example/"),
    "value @target-uri with a backslash in the host": one('"@target-uri"', "https://evil.example\\@good.example/"),
    "value @target-uri with a fragment": one('"@target-uri"', "https://example.com/#a"),
    "value @target-uri with a space": one('"@target-uri"', "https://example.com/a b"),
    "value derived with a tab": one('"@path"', "/a\tb"),
    # What the LumoAuth documentation describes: parameters travel unsigned, so it is no base.
    "lumoauth without signature params": b'"@method": POST\n"@target-uri": https://api.example.com/x\n"authorization": Bearer t',
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_refuses_as_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse(data)


def test_takes_16_kib_and_not_a_byte_more() -> None:
    empty = one('"x"', "")
    full = one('"x"', "a" * (MAX_BYTES - len(empty)))
    assert len(full) == MAX_BYTES
    assert parse(full).serialise() == full
    with pytest.raises(SizeError, match="at most 16384 bytes, got 16385"):
        parse(one('"x"', "a" * (MAX_BYTES - len(empty) + 1)))


def test_shows_what_the_base_says() -> None:
    base = parse(
        lines(
            '"@method": POST',
            '"@authority";req: other.example',
            '"@authority": example.com',
            '"x";key="a\\"b": 1',
            last=(
                '("@method" "@authority";req "@authority" "x";key="a\\"b")'
                r';created=10;expires=20;nonce="n\\\"";alg="ed25519";keyid="k";tag="t"'
            ),
        )
    )
    assert [c.name for c in base.components] == ["@method", "@authority", "@authority", "x"]
    assert base.components[3].params == {"key": 'a"b'}
    assert base.components[1].params == {"req": True}
    assert (base.created, base.expires, base.nonce, base.alg, base.keyid, base.tag) == (10, 20, 'n\\"', "ed25519", "k", "t")
    assert base.parameters == {"created", "expires", "nonce", "alg", "keyid", "tag"}
    assert (base.method, base.authority, base.path, base.value("y")) == ("POST", "example.com", None, None)


@pytest.mark.parametrize(
    ("uri", "authority", "path"),
    [
        ("https://Example.COM:443/a/b?c=/d", "example.com", "/a/b"),
        ("http://example.com:80", "example.com", "/"),
        ("https://example.com:80?x", "example.com:80", "/"),
        ("HTTPS://[2001:DB8::1]:8443/", "[2001:db8::1]:8443", "/"),
    ],
)
def test_authority_and_path_of_a_target_uri(uri: str, authority: str, path: str) -> None:
    base = parse(one('"@target-uri"', uri))
    assert (base.authority, base.path) == (authority, path)


def test_a_component_of_the_request_stands_for_nothing_of_the_message() -> None:
    assert parse(one('"@authority";req', "example.com")).authority is None


def test_values_are_in_no_repr_and_no_error() -> None:
    secret = "Bearer-s3cret"
    base = parse(one('"authorization"', secret))
    assert secret not in repr(base) + repr(base.components)
    with pytest.raises(MalformedError) as caught:
        parse(one('"authorization"', secret + " "))
    assert secret not in str(caught.value)


def test_directory_tag_is_the_registered_one() -> None:
    assert signature_base.DIRECTORY_TAG == "http-message-signatures-directory"
