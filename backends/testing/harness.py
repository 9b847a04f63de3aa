"""What a test class says of its backend and of the store behind it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from backends import errors
from backends.api import Algorithm, Backend, BackendContext
from backends.testing.checks import MESSAGE, listed


class Fault(enum.Enum):
    """What can happen to a store outside the process."""

    GONE = "gone"  #: cannot be reached: connection refused, token removed, sealed
    HUNG = "hung"  #: takes calls and never answers
    THROTTLING = "throttling"  #: asks for fewer calls
    EXPIRED = "expired"  #: the credential ran out, and the backend can get another by itself: callers notice nothing
    REFUSING = "refusing"  #: refuses every credential that the backend has


class Harness:
    """How a test class describes its backend to the suite, and what the suite's tests have in common."""

    #: The class under test, as it is registered in ``keyd.backends``.
    backend_class: ClassVar[type]
    #: What the store is called in the table of results. Default: the name of the test class.
    component: ClassVar[str] = ""
    #: False when keys die with the process.
    persistent: ClassVar[bool] = True
    #: The faults that :meth:`inject` can give the store.
    faults: ClassVar[frozenset[Fault]] = frozenset()
    #: For how many seconds the store may still fail once a fault is over: back-off, a module that is opened anew.
    recovery: ClassVar[float] = 5.0
    #: True for a stand-in of the real store in which destroyed keys still answer; that is then checked to be so.
    destroyed_keys_answer: ClassVar[bool] = False

    def make_backend(self, tmp_path: Path) -> Backend:
        """Return an open backend on a store without keys. ``tmp_path`` is empty, and this test's alone."""
        raise NotImplementedError

    def reopen(self, backend: Backend) -> Backend:
        """Close this backend and return another on the same store, as a restart of the daemon would."""
        raise NotImplementedError

    def inject(self, backend: Backend, fault: Fault) -> AbstractContextManager[None]:
        """Give the store this fault, one of :attr:`faults`, while the returned context lasts."""
        raise NotImplementedError

    def make_foreign_key(self, backend: Backend, algorithm: Algorithm) -> str | None:
        """Make a key in the store as somebody else would, without the backend, and return its handle; None: nobody else can."""
        return None

    def exported_from(self, backend: Backend) -> tuple[Any, BackendContext]:
        """Return the configuration and the context that this backend was opened with. Only for an :class:`backends.api.Exportable`."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _record(self, record_property: Callable[[str, object], None]) -> None:
        self.record = record_property
        record_property("component", self.component or type(self).__name__.removeprefix("Test"))

    def refuses(self, backend: Backend, algorithm: Algorithm) -> bool:
        """Say whether an algorithm is undeclared, after checking that the backend really refuses it, leaving nothing."""
        if algorithm in backend.capabilities.algorithms:
            return False
        with pytest.raises(errors.UnsupportedAlgorithmError):
            backend.create("k", 1, algorithm)
        assert listed(backend) == {}
        self.record("outcome", "refused")
        return True

    def assert_gone(self, backend: Backend, handle: str, algorithm: Algorithm) -> None:
        """Assert that a destroyed key is neither listed nor answers."""
        assert handle not in listed(backend)
        if self.destroyed_keys_answer:
            assert backend.sign(handle, algorithm, MESSAGE), (
                "the stand-in is like the real store now; adjust destroyed_keys_answer"
            )
            return
        with pytest.raises(errors.KeyNotFoundError):
            backend.public_key(handle)
        with pytest.raises(errors.KeyNotFoundError):
            backend.sign(handle, algorithm, MESSAGE)

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[Backend]:
        """Provide an open backend without keys."""
        backend = self.make_backend(tmp_path)
        yield backend
        backend.close()
