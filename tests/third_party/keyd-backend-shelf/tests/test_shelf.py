from pathlib import Path

from keyd_backend_shelf import ShelfBackend, ShelfConfig

from backends.api import BackendContext
from backends.secrets import SecretRef
from backends.testing import BackendContract


class TestShelf(BackendContract):
    backend_class = ShelfBackend

    def make_backend(self, tmp_path: Path) -> ShelfBackend:
        passphrase = tmp_path / "passphrase"
        passphrase.touch(mode=0o600)
        passphrase.write_text("correct horse\n")
        self.config = ShelfConfig(file=tmp_path / "shelf.db", passphrase=SecretRef(file=passphrase))
        return self.open()

    def reopen(self, backend: ShelfBackend) -> ShelfBackend:
        backend.close()
        return self.open()

    def open(self) -> ShelfBackend:
        return ShelfBackend.open(self.config, BackendContext("shelf", Path("/nonexistent")))
