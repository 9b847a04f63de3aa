"""The part of the contract that holds while something is wrong with the store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from backends import deadline, errors
from backends.api import Algorithm, Backend
from backends.testing.checks import MESSAGE, cheapest, check, listed
from backends.testing.harness import Fault, Harness

#: What callers see while a fault lasts; None: nothing.
FAULT_ERRORS: dict[Fault, type[errors.BackendError] | None] = {
    Fault.GONE: errors.BackendUnavailableError,
    Fault.HUNG: errors.BackendUnavailableError,
    Fault.THROTTLING: errors.BackendThrottledError,
    Fault.EXPIRED: None,
    Fault.REFUSING: errors.BackendAccessError,
}
FAULT_DEADLINE = 2.0  # seconds that each call has while a fault lasts


class FaultContract(Harness):
    """Faults of the store: the right error in time while they last, and everything as before when they are over."""

    @pytest.mark.parametrize("fault", Fault, ids=lambda fault: str(fault.value))
    def test_fault(self, backend: Backend, fault: Fault) -> None:
        """While a fault lasts every call ends in time, with the error for it; afterwards all is as before, by itself."""
        if fault not in self.faults:
            self.record("outcome", "none")
            return
        algorithm = cheapest(backend)
        handle = backend.create("k", 1, algorithm)
        public, before = backend.public_key(handle), listed(backend)
        calls: list[Callable[[], object]] = [
            lambda: check(public, algorithm, backend.sign(handle, algorithm, MESSAGE), MESSAGE),
            lambda: backend.public_key(handle),
            lambda: listed(backend),
            lambda: backend.find("k", 1),
            lambda: backend.create("during", 1, algorithm),
        ]
        with self.inject(backend, fault):
            for call in calls:
                assert_fails_as(FAULT_ERRORS[fault], call)
        until = time.monotonic() + self.recovery
        while not _answers(backend, handle, algorithm):
            assert time.monotonic() < until, f"the backend does not recover within {self.recovery:g} s"
            time.sleep(0.05)
        check(public, algorithm, backend.sign(handle, algorithm, MESSAGE), MESSAGE)
        assert backend.public_key(handle) == public, "another key after the fault"
        assert listed(backend).items() >= before.items()
        backend.create("after", 1, algorithm)

    def test_faults_while_others_sign(self, backend: Backend) -> None:
        """Under load, too: whoever signs gets a good signature or the error for the fault, and after it good ones only."""
        if not self.faults:
            self.record("outcome", "none")
            return
        algorithm = cheapest(backend)
        handle = backend.create("k", 1, algorithm)
        public = backend.public_key(handle)
        for fault in sorted(self.faults, key=lambda fault: fault.value):
            done = threading.Event()
            expected = FAULT_ERRORS[fault]
            allowed = (expected,) if expected is not None else ()

            def work(done: threading.Event = done, allowed: tuple[type[errors.BackendError], ...] = allowed) -> int:
                failed = 0
                while not done.is_set():
                    try:
                        with deadline.within(FAULT_DEADLINE):
                            check(public, algorithm, backend.sign(handle, algorithm, MESSAGE), MESSAGE)
                    except allowed:
                        failed += 1
                return failed

            with ThreadPoolExecutor(4) as pool:
                workers = [pool.submit(work) for _ in range(4)]
                try:
                    with self.inject(backend, fault):
                        assert_fails_as(expected, lambda: backend.sign(handle, algorithm, MESSAGE))
                    until = time.monotonic() + self.recovery
                    while not _answers(backend, handle, algorithm):
                        assert time.monotonic() < until, f"{fault.value}: no recovery within {self.recovery:g} s"
                finally:
                    done.set()
                for worker in workers:
                    worker.result(timeout=60)
            check(public, algorithm, backend.sign(handle, algorithm, MESSAGE), MESSAGE)


def assert_fails_as(expected: type[errors.BackendError] | None, call: Callable[[], object]) -> None:
    """Assert that a call under a deadline fails with this very error, or with none, and in time."""
    start = time.monotonic()
    with deadline.within(FAULT_DEADLINE):
        if expected is None:
            call()
            return
        with pytest.raises(expected) as caught:
            call()
    assert time.monotonic() - start < FAULT_DEADLINE + 1, "the call outlived its deadline by more than a second"
    if expected is errors.BackendUnavailableError:
        assert not isinstance(caught.value, errors.BackendThrottledError)


def _answers(backend: Backend, handle: str, algorithm: Algorithm) -> bool:
    try:
        with deadline.within(FAULT_DEADLINE):
            backend.sign(handle, algorithm, MESSAGE)
            return handle in listed(backend)
    except (errors.BackendUnavailableError, errors.BackendAccessError):
        return False
