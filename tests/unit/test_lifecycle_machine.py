"""The short form of `make lifecycle`: the invariants of the lifecycle over random histories of two replicas."""

from __future__ import annotations

from hypothesis import settings
from lifecycle.machine import Lifecycle
from support import memory_backend, new_key

from backends.errors import KeyNotFoundError

Lifecycle.TestCase.settings = settings(max_examples=20, stateful_step_count=40, deadline=None)
TestLifecycle = Lifecycle.TestCase


def test_a_destroyed_handle_is_gone() -> None:
    """The negative twin of the last invariant: the memory backend does notice."""
    backend = memory_backend()
    handle = backend.create("a", 1, new_key().algorithm)
    backend.destroy(handle)
    try:
        backend.sign(handle, new_key().algorithm, b"x")
    except KeyNotFoundError:
        return
    raise AssertionError("signed with a destroyed key")
