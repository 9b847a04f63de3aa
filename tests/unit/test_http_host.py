"""The host of a request: whatever is sent, it is one that can be compared, or refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keyd.service.http_host import BadHostError, host_of

near = st.text("aZ09.:[]-_/@%,;*\\ \t\r\n\0\x7f\xfc", max_size=40).map(lambda text: text.encode("latin-1"))


@settings(max_examples=500, deadline=None)
@given(st.lists(st.one_of(near, st.binary(max_size=400)), max_size=2))
@example([b"[::1%25eth0]"])
@example([b"a:99999999999999999999999999"])
@example([b"\xe2\x84\xaaeys.example"])  # KELVIN SIGN, which becomes a k in lower case
def test_it_is_plain_or_refused(values: list[bytes]) -> None:
    try:
        host, port = host_of([(b"accept", b"x"), *((b"host", value) for value in values)])
    except BadHostError:
        return
    assert len(values) < 2
    assert re.fullmatch(r"(\[[0-9a-f:.]+\]|[!-.0-9;=_a-z~]*)", host)
    assert re.fullmatch(r"|0|[1-9][0-9]{0,4}", port)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (b"", ("", "")),
        (b"A.Example", ("a.example", "")),
        (b"a.example:0443", ("a.example", "443")),
        (b"a.example:", ("a.example", "")),
        (b"a.example:00", ("a.example", "0")),
        (b"[2001:DB8:0::1]:1", ("[2001:db8::1]", "1")),
        (b"[::ffff:192.0.2.1]", ("[::ffff:c000:201]", "")),
    ],
)
def test_what_is_taken(value: bytes, wanted: tuple[str, str]) -> None:
    assert host_of([(b"host", value)]) == wanted
    assert host_of([]) == ("", "")
