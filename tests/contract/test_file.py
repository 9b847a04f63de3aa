from pathlib import Path

from backends.api import BackendContext
from backends.file import FileBackend, FileConfig
from backends.secrets import SecretRef
from backends.testing import BackendContract


class TestFileBackend(BackendContract):
    backend_class = FileBackend
    component = "file"

    def make_backend(self, tmp_path: Path) -> FileBackend:
        kek = tmp_path / "kek"
        kek.touch(mode=0o600)
        kek.write_bytes(bytes(range(32)))
        self.config = FileConfig(kek=SecretRef(file=kek), rsa_bits=2048)
        self.context = BackendContext("file", tmp_path / "state")
        return FileBackend.open(self.config, self.context)

    def reopen(self, backend: FileBackend) -> FileBackend:
        backend.close()
        return FileBackend.open(self.config, self.context)

    def exported_from(self, backend: FileBackend) -> tuple[FileConfig, BackendContext]:
        return self.config, self.context
