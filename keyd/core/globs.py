"""Globs: ``*`` stands for any text, ``?`` for one character, everything else for itself. There is no escape and no ``[...]``."""

from __future__ import annotations

import re
from collections.abc import Callable

Matcher = Callable[[str], bool]


def matcher(glob: str) -> Matcher:
    """Return what says whether a whole text matches. Takes time linear in the text for each ``*``."""
    if "*" not in glob and "?" not in glob:
        return glob.__eq__
    pattern = re.compile(_regex(glob, "."), re.DOTALL)
    return lambda text: pattern.fullmatch(text) is not None


def segments_matcher(glob: str) -> Matcher:
    """Return what says whether a whole text matches, where ``*`` and ``?`` stay within one segment between slashes.

    A last segment ``**`` stands for one segment or more.
    """
    head, subtree = (glob[:-2], "[^/]++(?:/[^/]++)*+") if glob.endswith("/**") else (glob, "")
    pattern = re.compile(_regex(head, "[^/]") + subtree)
    return lambda text: pattern.fullmatch(text) is not None


def _regex(glob: str, one: str) -> str:
    """Return a regular expression that does not backtrack across stars.

    Text between two stars is taken at its first place. A later place can only leave less for what follows, so it is never
    needed, and an atomic group may forbid it. Where ``*`` ends at a slash, so does the choice.
    """
    return "/".join(_part(part, one) for part in glob.split("/")) if one == "[^/]" else _part(glob, one)


def _part(glob: str, one: str) -> str:
    first, *others = ["".join(one if char == "?" else re.escape(char) for char in text) for text in glob.split("*")]
    if not others:
        return first
    *middle, last = others
    return first + "".join(f"(?>{one}*?{text})" for text in middle if text) + f"{one}*{last}"
