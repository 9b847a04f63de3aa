from pathlib import Path

from backends.api import BackendContext
from backends.memory import MemoryBackend, MemoryConfig
from backends.testing import BackendContract


class TestMemoryBackend(BackendContract):
    backend_class = MemoryBackend
    component = "memory"
    persistent = False

    def make_backend(self, tmp_path: Path) -> MemoryBackend:
        self.context = BackendContext("memory", tmp_path)
        return MemoryBackend.open(MemoryConfig(), self.context)

    def reopen(self, backend: MemoryBackend) -> MemoryBackend:
        backend.close()
        return MemoryBackend.open(MemoryConfig(), self.context)


def test_it_says_that_keys_die(tmp_path: Path, caplog) -> None:
    MemoryBackend.open(MemoryConfig(), BackendContext("scratch", tmp_path)).close()
    assert "backend scratch keeps its keys in memory" in caplog.text
