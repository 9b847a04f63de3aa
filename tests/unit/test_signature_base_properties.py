"""The parser of signature bases against random input, and against an independent structured-field library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import http_sf
import pytest
from fuzz import agreement
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keyd.core import signature_base
from keyd.core.errors import KeydError
from keyd.core.signature_base import MAX_BYTES, SignatureBase, parse

LAST = agreement.LAST
LIMITS = settings(max_examples=300, deadline=None)

printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=12)
field_names = st.from_regex(r"[a-z0-9!#$%&'*+.^_`|~-]{1,12}", fullmatch=True)
field_values = st.text(st.sampled_from('\t !"aZ,;:=()\\~'), max_size=12).map(lambda value: value.strip(" \t"))
encodings = st.one_of(st.just({}), st.just({"sf": True}), st.just({"bs": True}), st.builds(lambda key: {"key": key}, printable))
flags = st.sets(st.sampled_from(["tr", "req"])).map(lambda names: dict.fromkeys(names, True))
fields = st.tuples(
    field_names,
    st.tuples(encodings, flags).flatmap(lambda two: st.permutations([*two[0].items(), *two[1].items()]).map(dict)),
    field_values,
)
derived: st.SearchStrategy[tuple[str, dict[str, Any], str]] = st.one_of(
    st.tuples(st.just("@method"), st.just({}), st.sampled_from(["GET", "POST", "x-y"])),
    st.tuples(st.just("@authority"), st.sampled_from([{}, {"req": True}]), st.sampled_from(["a.example", "[::1]:8080"])),
    st.tuples(st.just("@path"), st.just({}), st.sampled_from(["/", "/a//b%20"])),
    st.tuples(st.just("@query-param"), st.builds(lambda name: {"name": name}, printable), st.just("v")),
)
components = st.lists(st.one_of(fields, derived), max_size=8, unique_by=lambda item: (item[0], frozenset(item[1].items())))
parameters = st.fixed_dictionaries(
    {},
    optional={
        "created": st.integers(0, 10**15 - 1),
        "expires": st.integers(0, 10**15 - 1),
        "nonce": printable,
        "alg": printable,
        "keyid": printable,
        "tag": printable,
    },
).flatmap(lambda items: st.permutations(list(items.items())).map(dict))


def make(items: list[tuple[str, dict[str, Any], str]], params: dict[str, Any]) -> bytes:
    lines = [f"{http_sf.ser((name, own))}: {value}" for name, own, value in items]
    covered: Any = [([(name, own) for name, own, _ in items], params)]
    lines.append(LAST + http_sf.ser(covered))
    return "\n".join(lines).encode("ascii")


@LIMITS
@given(components, parameters)
def test_every_valid_base_parses_as_the_library_reads_it(items: list[Any], params: dict[str, Any]) -> None:
    data = make(items, params)
    base = parse(data)
    agreement.check_base(base, data)
    assert [component.value for component in base.components] == [value for _, _, value in items]


@LIMITS
@given(components, parameters, st.data())
def test_a_mutated_base_is_refused_or_still_canonical(items: list[Any], params: dict[str, Any], data: st.DataObject) -> None:
    base = bytearray(make(items, params))
    position = data.draw(st.integers(0, len(base) - 1))
    how = data.draw(st.sampled_from(["replace", "insert", "delete"]))
    byte = data.draw(st.one_of(st.sampled_from(b'"\\\n\t ();=:,@?-01aA.'), st.integers(0, 255)))
    base[position : position + (how != "insert")] = b"" if how == "delete" else bytes([byte])
    mutated = bytes(base)
    try:
        parsed = parse(mutated)
    except KeydError:
        return
    agreement.check_base(parsed, mutated)


def outcome(read: Callable[[bytes], SignatureBase], data: bytes) -> object:
    """Return everything that was read, or what was wrong."""
    try:
        return tuple(read(data)._replace(shape=None))
    except KeydError as error:
        return type(error), str(error)


def in_full(data: bytes) -> SignatureBase:
    *lines, last = signature_base.split(data)
    return signature_base._read_in_full(lines, last)


@LIMITS
@given(components, parameters, parameters, st.data())
def test_a_base_of_a_known_shape_is_read_as_one_of_an_unknown_shape(
    items: list[Any], params: dict[str, Any], others: dict[str, Any], data: st.DataObject
) -> None:
    first = make(items, params)
    assert parse(first).shape is parse(first).shape  # it is known from here on, where shapes are kept
    again = bytearray(make([(name, own, data.draw(field_values)) for name, own, _ in items], others))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(again) - 1))
        length = data.draw(st.integers(0, 2))
        again[at : at + length] = data.draw(
            st.sampled_from([b"", b'"', b")", b"\n", b" ", b"\t", b";created=1", b';tag="a"', b"\\", b"\xff"])
        )
    for whole in (first, bytes(again)):
        assert outcome(parse, whole) == outcome(in_full, whole)


def test_shapes_are_kept_up_to_a_bound_and_the_oldest_goes_first() -> None:
    shapes = signature_base._shapes
    bases = [f'"x-{number}": 1\n{LAST}("x-{number}");created=1'.encode() for number in range(300)]
    for base in bases:
        assert parse(base).shape is parse(base).shape is not None
    assert len(shapes) == 256
    assert shapes[f'{LAST}("x-299"'].head == f'{LAST}("x-299")'
    assert f'{LAST}("x-0"' not in shapes


def test_what_takes_much_room_is_not_kept() -> None:
    many = [f'"x-{number}"' for number in range(25)]
    for identifiers in (many, [f'"{"x" * 80}"']):
        lines = "".join(f"{identifier}: 1\n" for identifier in identifiers)
        assert parse(f"{lines}{LAST}({' '.join(identifiers)})".encode()).shape is None


@LIMITS
@given(st.binary(max_size=200))
@example(b'"@signature-params": ')
@example(b'"')
def test_arbitrary_bytes_raise_nothing_but_domain_errors(data: bytes) -> None:
    try:
        parse(data)
    except KeydError:
        return
    raise AssertionError("random bytes were taken for a base")


@LIMITS
@given(
    st.lists(
        st.sampled_from(
            [
                '"',
                '"@method": GET',
                "\n",
                LAST,
                '("@method")',
                "()",
                ";created=1",
                ';tag="',
                "\\",
                ": ",
                " ",
                '"x"',
                ";sf",
                ';key="',
            ]
        ),
        max_size=12,
    )
)
def test_fragments_of_bases_raise_nothing_but_domain_errors(parts: list[str]) -> None:
    data = "".join(parts).encode()
    try:
        base = parse(data)
    except KeydError:
        return
    agreement.check_base(base, data)


#: Repetitions that make a pattern with two ways to read the same bytes take quadratic or exponential time.
HOSTILE = {
    "escapes": b'"x";key="' + b"\\\\" * MAX_BYTES,
    "open strings": b'"x"' + b';key="' * MAX_BYTES,
    "flags": b'"x"' + b";sf" * MAX_BYTES,
    "spaces": b'"x": ' + b" " * MAX_BYTES,
    "host": b'"@target-uri": https://' + b"a." * MAX_BYTES,
    "slashes": b'"@path": ' + b"/" * MAX_BYTES,
    "lines": b'"x": 1\n' * MAX_BYTES,
    "parameters": b'"@signature-params": ()' + b";created=1" * MAX_BYTES,
    "quotes": b'"' * MAX_BYTES,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_repetitions_are_refused_at_full_size(data: bytes) -> None:
    # An exponential pattern would hang here; that each byte is read once follows from the possessive quantifiers.
    with pytest.raises(KeydError):
        parse(data[:MAX_BYTES])
