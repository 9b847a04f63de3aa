"""The tests run on what users install."""

from __future__ import annotations

import os
from importlib.metadata import packages_distributions
from pathlib import Path

import backends
import keyd


def test_the_wheel_is_tested_not_the_tree() -> None:
    for package in (keyd, backends):
        assert package.__file__ is not None
        installed = "site-packages" in Path(package.__file__).parts
        assert installed or "KEYD_TEST_WHEEL" not in os.environ


def test_both_packages_are_keyds() -> None:
    assert keyd.__file__ is not None
    assert backends.__file__ is not None
    assert Path(keyd.__file__).parents[1] == Path(backends.__file__).parents[1]
    if "KEYD_TEST_WHEEL" in os.environ:
        assert packages_distributions()["backends"] == ["keyd"]
