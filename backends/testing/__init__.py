"""The contract of :mod:`backends.api` as a test suite. Every backend, ours or not, subclasses it and adds what is its own.

pytest.register_assert_rewrite("backends.testing")  # in conftest.py, for readable failures
from backends.testing import BackendContract

class TestMyBackend(BackendContract):
    backend_class = MyBackend

    def make_backend(self, tmp_path): ...
    def reopen(self, backend): ...

A store outside the process also declares the faults that it can be given (:class:`Fault`), and one that others use too makes
keys as they would (``make_foreign_key``).
"""

from backends.testing.contract import BackendContract
from backends.testing.harness import Fault

__all__ = ["BackendContract", "Fault"]
