from pathlib import Path

from components.nss import Nss

from backends.api import Algorithm, BackendContext
from backends.pkcs11 import Pkcs11Backend
from backends.testing import BackendContract


class TestNss(BackendContract):
    backend_class = Pkcs11Backend
    component = "NSS softokn"

    def make_backend(self, tmp_path: Path) -> Pkcs11Backend:
        self.store = Nss(tmp_path)
        self.context = BackendContext("nss", tmp_path / "state")
        backend = Pkcs11Backend.open(self.store.config(), self.context)
        # A newer NSS with CKM_EDDSA is declared to have it.
        assert backend.capabilities.algorithms >= set(Algorithm) - {Algorithm.ED25519}
        return backend

    def reopen(self, backend: Pkcs11Backend) -> Pkcs11Backend:
        backend.close()
        return Pkcs11Backend.open(self.store.config(), self.context)
