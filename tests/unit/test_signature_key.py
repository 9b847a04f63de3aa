"""The parser of Signature-Key against random input, and against an independent structured-field library."""

from __future__ import annotations

from typing import Any

import http_sf
import pytest
from fuzz import agreement
from hypothesis import given, settings
from hypothesis import strategies as st

from keyd.core.errors import BindingError
from keyd.core.signature_key import decode_token, parse

LIMITS = settings(max_examples=300, deadline=None)
THUMBPRINT = "poqkLGiymh_W0uP6PZFw-dvez3QJT5SolqXBCW38r0U"

keys = st.from_regex(r"[a-z*][a-z0-9_.*\-]{0,8}", fullmatch=True)
tokens = st.from_regex(r"[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]{0,8}", fullmatch=True)
strings = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=12)
parameters = st.dictionaries(keys, st.one_of(strings, st.booleans()), max_size=5)


@LIMITS
@given(keys, tokens, parameters)
def test_every_member_with_strings_is_read_as_the_library_reads_it(label: str, scheme: str, params: dict[str, Any]) -> None:
    value = http_sf.ser({label: (http_sf.Token(scheme), params)})
    member = parse(value)
    assert (member.label, member.scheme, dict(member.params)) == (label, scheme, params)
    agreement.check_signature_key(member, value)


@LIMITS
@given(keys, tokens, parameters, st.data())
def test_what_is_taken_of_a_mutated_value_the_library_reads_the_same(
    label: str, scheme: str, params: dict[str, Any], data: st.DataObject
) -> None:
    value = bytearray(http_sf.ser({label: (http_sf.Token(scheme), params)}).encode())
    position = data.draw(st.integers(0, len(value) - 1))
    how = data.draw(st.sampled_from(["replace", "insert", "delete"]))
    byte = data.draw(st.sampled_from(b'"\\ ;=,:?01aA.*\t'))
    value[position : position + (how != "insert")] = b"" if how == "delete" else bytes([byte])
    mutated = value.decode("ascii").strip(" \t")
    try:
        member = parse(mutated)
    except BindingError:
        return
    agreement.check_signature_key(member, mutated)


@LIMITS
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        member = parse(text)
    except BindingError:
        return
    agreement.check_signature_key(member, text)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "sig",
        "sig=",
        "jwt",
        "Sig=jwt",
        "sig = jwt",
        "sig=1",
        'sig="jwt"',
        "sig=:and0:",
        "sig=?1",
        "sig=(jwt)",
        "sig=jwt,",
        "sig=jwt,sig2=jwt",
        "sig=jwt, sig=jwt",
        "sig=jwt;",
        "sig=jwt;;a",
        "sig=jwt;A",
        "sig=jwt;a=",
        "sig=jwt;a=1",
        "sig=jwt;a=token",
        "sig=jwt;a=:aGk=:",
        "sig=jwt;a=?2",
        'sig=jwt;a="',
        'sig=jwt;a="\\n"',
        'sig=jwt;a="\x7f"',
        'sig=jwt;a="\u00e9"',
        "sig=jwt;a;a",
        'sig=jwt;a="1";b;a="2"',
        "sig=jwt\t;a",
        "sig=jwt ;a",
        "sig=jwt;a\n",
    ],
)
def test_refuses(value: str) -> None:
    with pytest.raises(BindingError):
        parse(value)


def test_spaces_before_a_parameter_are_of_no_meaning() -> None:
    assert parse('sig=hwk;  kty="OKP";x').params == {"kty": "OKP", "x": True}


@pytest.mark.parametrize(
    "token",
    [
        "",
        "e30.e30",
        "e30.e30.",
        "e30.e30.AA.AA",
        "e30..AA",
        ".e30.AA",
        "e30=.e30.AA",
        "e31.e30.AA",
        "W10.e30.AA",
        "e30.bnVsbA.AA",
    ],
)
def test_refuses_token(token: str) -> None:
    with pytest.raises(BindingError):
        decode_token(token)


def test_what_may_hold_a_token_shows_nothing_of_it() -> None:
    assert "secret" not in repr(parse('sig=jwt;jwt="secret"'))
    assert "secret" not in repr(decode_token("e30.eyJzZWNyZXQiOiJzZWNyZXQifQ.AA"))


#: Repetitions that would take a pattern with two ways to read the same bytes a long time.
@pytest.mark.parametrize("part", [";a", "; ", '";', "\\\\", "a", " ", '"', ';a="\\"'])
def test_hostile_repetitions_are_refused_at_full_size(part: str) -> None:
    with pytest.raises(BindingError):
        parse(("sig=jwt;jwt=" + part * 16384)[:16384])
