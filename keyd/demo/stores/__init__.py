"""The stores that ``keyd demo --backend`` starts by itself, each in a directory of its own that is gone afterwards.

Every module here has one function, ``start(directory)``: a context manager that runs the component while it lasts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class DemoStore(NamedTuple):
    """A running component, and how the daemon gets at it."""

    #: What it is, for people, with its version.
    description: str
    #: The lines of its ``[backends.demo]`` section, ``type`` among them.
    section: str
    #: An algorithm, by its JOSE name, that it does well.
    algorithm: str
    #: Environment variables that the daemon needs besides its own.
    environment: Mapping[str, str]


class StoreMissingError(Exception):
    """The component is not installed. The message says how to install it."""
