"""The grammar of SPIFFE IDs (SPIFFE-ID specification, section 2)."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.core.spiffe import is_trust_domain, trust_domain_of

DOMAIN = set(string.ascii_lowercase + string.digits + ".-_")
SEGMENT = set(string.ascii_letters + string.digits + ".-_")


@pytest.mark.parametrize(
    "spiffe_id",
    [
        "spiffe://example.org/agent",
        "spiffe://example.org/Agent_7/a.b-c/...",
        "spiffe://10.0.0.1/x",
        "spiffe://a_b.example/x",
        "spiffe://" + 255 * "a" + "/x",
        "spiffe://example.org/" + (2048 - 21) * "a",
        "spiffe://example.org/.hidden/..x/x..",
    ],
)
def test_ids(spiffe_id: str) -> None:
    assert trust_domain_of(spiffe_id) == spiffe_id.split("/")[2]


@pytest.mark.parametrize(
    "spiffe_id",
    [
        *("", "spiffe://", "spiffe:///x", "spiffe://example.org", "spiffe://example.org/", "spiffe://example.org//x"),
        *("spiffe://example.org/x/", "spiffe://example.org/x//y", "spiffe://example.org/./x", "spiffe://example.org/x/.."),
        *("spiffe://example.org/../x", "spiffe://example.org/.", "spiffe://example.org/.."),
        *("spiffe://Example.org/x", "SPIFFE://example.org/x", "spiffe://example.org:443/x", "spiffe://u@example.org/x"),
        *("spiffe://example.org/x?y", "spiffe://example.org/x#y", "spiffe://example.org/%61", "spiffe://example%2eorg/x"),
        *("spiffe://example.org/x\n", "\nspiffe://example.org/x", "spiffe://example.org/x y", "spiffe://example.org/x\x00"),
        *("spiffe://ex\u00e4mple.org/x", "spiffe://example.org/\u00e4", "spiffe://example.org/\u0661", "https://example.org/x"),
        *("spiffe:/example.org/x", "spiffe://[::1]/x", "spiffe://example.org\\x", "spiffe://example.org/x\\y"),
        "spiffe://" + 256 * "a" + "/x",
        "spiffe://example.org/" + (2049 - 21) * "a",
    ],
)
def test_what_is_no_id(spiffe_id: str) -> None:
    assert trust_domain_of(spiffe_id) is None


def expected(text: str) -> bool:
    """The specification once more, without a regular expression."""
    if not text.startswith("spiffe://") or len(text.encode(errors="replace")) > 2048:
        return False
    domain, *path = text[9:].split("/")
    return (
        0 < len(domain) <= 255
        and set(domain) <= DOMAIN
        and len(path) > 0
        and all(segment not in ("", ".", "..") and set(segment) <= SEGMENT for segment in path)
    )


PIECES = st.sampled_from(["spiffe:", "//", "/", ".", "..", "a", "A", "example.org", "@", ":", "?", "%", "\n", "-", "_", "\u00e4"])


@given(st.one_of(st.text(), st.lists(PIECES).map("".join), st.lists(PIECES).map(lambda parts: "spiffe://a/" + "".join(parts))))
def test_it_is_what_the_specification_says(text: str) -> None:
    assert (trust_domain_of(text) is not None) == expected(text)
    assert is_trust_domain(text) == (0 < len(text) <= 255 and set(text) <= DOMAIN)


def test_long_input_takes_no_time() -> None:
    assert trust_domain_of("spiffe://example.org" + "/." * 1_000_000) is None
    assert not is_trust_domain("a" * 10_000_000)
