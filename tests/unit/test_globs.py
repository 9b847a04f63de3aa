"""Globs: what they match, and that no text makes them slow."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.core import globs


@pytest.mark.parametrize(
    ("glob", "text", "expected"),
    [
        ("shop", "shop", True),
        ("shop", "shop-1", False),
        ("shop-*", "shop-1", True),
        ("shop-*", "shop-", True),
        ("shop-*", "shop", False),
        ("*-shop", "a-shop", True),
        ("*-shop", "a-shop-b", False),
        ("a*b*c", "axbxbxc", True),
        ("a*b*c", "axcxb", False),
        ("ab*ba", "aba", False),
        ("a?c", "abc", True),
        ("a?c", "ac", False),
        ("*", "", True),
        ("**", "a\nb", True),
        ("a.c", "abc", False),
        ("[ab]", "a", False),
        ("[ab]", "[ab]", True),
        ("", "a", False),
    ],
)
def test_globs(glob: str, text: str, expected: bool) -> None:
    assert globs.matcher(glob)(text) is expected


@pytest.mark.parametrize(
    ("glob", "text", "expected"),
    [
        ("spiffe://e.org/agents/*", "spiffe://e.org/agents/7", True),
        ("spiffe://e.org/agents/*", "spiffe://e.org/agents/7/admin", False),
        ("spiffe://e.org/agents/*", "spiffe://e.org/agents", False),
        ("spiffe://e.org/*/sign", "spiffe://e.org/a/sign", True),
        ("spiffe://e.org/*/sign", "spiffe://e.org/a/b/sign", False),
        ("spiffe://e.org/a?", "spiffe://e.org/a/", False),
        ("spiffe://e.org/agents/**", "spiffe://e.org/agents/7/admin", True),
        ("spiffe://e.org/agents/**", "spiffe://e.org/agents/7", True),
        ("spiffe://e.org/agents/**", "spiffe://e.org/agents/", False),
        ("spiffe://e.org/agents/**", "spiffe://e.org/agents", False),
        ("spiffe://e.org/agents/**", "spiffe://e.org/agents/7//x", False),
        ("spiffe://e.org/agents/**", "spiffe://evil.org/agents/7", False),
    ],
)
def test_stars_stay_within_a_segment(glob: str, text: str, expected: bool) -> None:
    assert globs.segments_matcher(glob)(text) is expected


def _by_definition(glob: str, text: str) -> bool:
    """Match a glob by its definition: slow and plain."""
    if not glob:
        return not text
    if glob[0] == "*":
        return any(_by_definition(glob[1:], text[n:]) for n in range(len(text) + 1))
    return bool(text) and (glob[0] == "?" or glob[0] == text[0]) and _by_definition(glob[1:], text[1:])


@given(st.text("ab*?/", max_size=8), st.text("ab/", max_size=10))
def test_a_glob_matches_what_its_definition_says(glob: str, text: str) -> None:
    assert globs.matcher(glob)(text) is _by_definition(glob, text)


def test_many_stars_take_no_more_than_a_moment() -> None:
    began = time.process_time()
    assert not globs.matcher("*a" * 100 + "b")("a" * 10_000)
    assert not globs.segments_matcher("*a" * 100 + "b")("a" * 10_000)
    assert time.process_time() - began < 2
