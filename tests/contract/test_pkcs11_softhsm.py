from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.softhsm import SoftHsm

from backends.api import Algorithm, BackendContext
from backends.pkcs11 import Pkcs11Backend
from backends.testing import BackendContract, Fault

_KEY_TYPES = {
    Algorithm.ED25519: "EC:edwards25519",
    Algorithm.ES256: "EC:prime256v1",
    Algorithm.ES384: "EC:secp384r1",
    Algorithm.PS512: "rsa:2048",
    Algorithm.RS256: "rsa:2048",
}


class TestSoftHsm(BackendContract):
    backend_class = Pkcs11Backend
    component = "SoftHSM 2.6"
    faults = frozenset({Fault.GONE})
    recovery = 2.0

    def make_backend(self, tmp_path: Path) -> Pkcs11Backend:
        self.store = SoftHsm(tmp_path)
        self.context = BackendContext("hsm", tmp_path / "state")
        backend = Pkcs11Backend.open(self.store.config(), self.context)
        assert backend.capabilities.algorithms == set(Algorithm)
        return backend

    def reopen(self, backend: Pkcs11Backend) -> Pkcs11Backend:
        backend.close()
        return Pkcs11Backend.open(self.store.config(), self.context)

    @contextmanager
    def inject(self, backend: Pkcs11Backend, fault: Fault) -> Iterator[None]:
        with self.store.gone():
            yield

    def make_foreign_key(self, backend: Pkcs11Backend, algorithm: Algorithm) -> str:
        self.store.tool(
            "--keypairgen", "--key-type", _KEY_TYPES[algorithm], "--id", "0a0b", "--label", "keyd by hand", "--usage-sign"
        )
        return "id=0a0b"
