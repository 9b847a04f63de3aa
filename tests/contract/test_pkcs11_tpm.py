import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from components.tpm import Tpm, running

from backends import deadline, errors
from backends.api import Algorithm, BackendContext
from backends.encoding import verify_raw
from backends.pkcs11 import Pkcs11Backend
from backends.testing import BackendContract


class TestTpm(BackendContract):
    backend_class = Pkcs11Backend
    component = "swtpm with tpm2-pkcs11"

    tpm: Tpm

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _tpm(cls) -> Iterator[None]:
        with running() as cls.tpm:
            yield

    def make_backend(self, tmp_path: Path) -> Pkcs11Backend:
        self.store = tmp_path / "store"
        self.context = BackendContext("tpm", tmp_path / "state")
        backend = Pkcs11Backend.open(self.tpm.config(self.store), self.context)
        # Neither Ed25519 nor PSS: it has the mechanism for neither, and says so.
        assert backend.capabilities.algorithms == {Algorithm.ES256, Algorithm.ES384, Algorithm.RS256}
        return backend

    def reopen(self, backend: Pkcs11Backend) -> Pkcs11Backend:
        backend.close()
        return Pkcs11Backend.open(self.tpm.config(self.store), self.context)

    def test_the_tpm_is_gone(self, tmp_path: Path) -> None:
        """Not a fault of the suite: keys are listed and read from a file, and only signing and making them needs the TPM."""
        backend = self.make_backend(tmp_path)
        handle = backend.create("k", 1, Algorithm.ES256)
        public = backend.public_key(handle)
        with self.tpm.gone():
            for _ in range(3):
                with deadline.within(2), pytest.raises(errors.BackendUnavailableError):
                    backend.sign(handle, Algorithm.ES256, b"m")
            with deadline.within(2), pytest.raises(errors.BackendUnavailableError):
                backend.create("k", 2, Algorithm.ES256)
        until = time.monotonic() + 10
        while True:
            try:
                signature = backend.sign(handle, Algorithm.ES256, b"m")
                break
            except errors.BackendUnavailableError:
                assert time.monotonic() < until
                time.sleep(0.05)
        verify_raw(public, Algorithm.ES256, signature, b"m")
        assert backend.public_key(handle) == public
        backend.close()
