"""A backend whose store is, as far as keyd can tell, outside of the process: it can fail, hang, lie, and destroy in order only."""

from __future__ import annotations

import threading

from backends.api import Algorithm, Capabilities, PublicKey, StoredKey
from backends.errors import BackendError, DestructionPendingError
from backends.memory import MemoryBackend


class RemoteBackend(MemoryBackend):
    """Set ``failure`` to have every call raise it; clear ``answering`` to have every call hang; set ``lies`` for bad signatures."""

    def __init__(self, *, ordered: bool = False) -> None:
        super().__init__()
        self.capabilities = Capabilities(frozenset({Algorithm.ED25519}), in_process=False, ordered_destruction=ordered)
        self.failure: BackendError | None = None
        self.answering = threading.Event()
        self.answering.set()
        self.lies = False
        self.calls: list[str] = []
        #: The handles whose public keys were asked for.
        self.asked: set[str] = set()

    def _enter(self, call: str) -> None:
        self.calls.append(call)
        self.answering.wait()
        if self.failure is not None:
            raise self.failure

    def create(self, name: str, version: int, algorithm: Algorithm) -> str:
        self._enter("create")
        versions = [key.version or 0 for key in super().list() if key.name == name]
        if self.capabilities.ordered_destruction and versions:
            for missing in range(max(versions) + 1, version):
                super().create(name, missing, algorithm)
        return super().create(name, version, algorithm)

    def list(self) -> list[StoredKey]:
        self._enter("list")
        return list(super().list())

    def find(self, name: str, version: int) -> str | None:
        self._enter("find")
        return super().find(name, version)

    def public_key(self, handle: str) -> PublicKey:
        self._enter("public_key")
        self.asked.add(handle)
        return super().public_key(handle)

    def sign(self, handle: str, algorithm: Algorithm, message: bytes) -> bytes:
        self._enter("sign")
        return super().sign(handle, algorithm, message + b"?" if self.lies else message)

    def destroy(self, handle: str) -> None:
        self._enter("destroy")
        if self.capabilities.ordered_destruction:
            own = next((key for key in super().list() if key.handle == handle), None)
            if own and any(key.name == own.name and (key.version or 0) < (own.version or 0) for key in super().list()):
                raise DestructionPendingError("an older version is there")
        super().destroy(handle)

    @property
    def held(self) -> set[str]:
        return {key.handle for key in super().list()}
