"""Private keys in memory: the reference implementation of the contract, and the backend for tests and experiments."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict

from backends.api import Algorithm, BackendContext, Capabilities, PrivateKey, PublicKey, StoredKey
from backends.encoding import checked_for_import, generate_private_key, sign_with
from backends.errors import KeyExistsError, KeyNotFoundError, UnsupportedAlgorithmError

_RSA_BITS = 2048  # these keys do not live long
_log = logging.getLogger("keyd.backends.memory")


class MemoryConfig(BaseModel):
    """Section of the configuration for a backend of type ``memory``. It has no settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


@dataclass(frozen=True, slots=True, repr=False)
class _Entry:
    name: str
    version: int
    algorithm: Algorithm
    private: PrivateKey


class MemoryBackend:
    """Private keys that die with the process."""

    Config: ClassVar[type[BaseModel]] = MemoryConfig
    capabilities = Capabilities(
        algorithms=frozenset(Algorithm),
        in_process=True,
        inline=frozenset({Algorithm.ED25519, Algorithm.ES256}),
        one_process=True,
    )

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(cls, config: MemoryConfig, context: BackendContext) -> Self:  # noqa: ARG003  # the contract gives one
        """Start empty."""
        _log.warning("backend %s keeps its keys in memory: they die with this process", context.name)
        return cls()

    def create(self, name: str, version: int, algorithm: Algorithm) -> str:
        """Make a key pair. Raises as :meth:`backends.api.Backend.create`."""
        if algorithm not in self.capabilities.algorithms:
            raise UnsupportedAlgorithmError(f"the memory backend does not do {algorithm}")
        return self._add(_Entry(name, version, algorithm, generate_private_key(algorithm, _RSA_BITS)))

    def import_key(self, name: str, version: int, algorithm: Algorithm, key: PrivateKey) -> str:
        """Keep a key pair from elsewhere. Raises as :meth:`backends.api.Importer.import_key`."""
        return self._add(_Entry(name, version, algorithm, checked_for_import(algorithm, key)))

    def list(self) -> Iterable[StoredKey]:
        """Return every key pair."""
        with self._lock:
            return [StoredKey(handle, entry.name, entry.version) for handle, entry in self._entries.items()]

    def find(self, name: str, version: int) -> str | None:
        """Return the handle of this version, if it is there."""
        handle = f"{name}.{version}"
        return handle if handle in self._entries else None

    def public_key(self, handle: str) -> PublicKey:
        """Return the public half. Raises KeyNotFoundError."""
        return self._entry(handle).private.public_key()

    def sign(self, handle: str, algorithm: Algorithm, message: bytes) -> bytes:
        """Sign, only with the algorithm that the key was made for. Raises as :meth:`backends.api.Backend.sign`."""
        entry = self._entry(handle)
        if algorithm is not entry.algorithm:
            raise UnsupportedAlgorithmError(f"{handle} is a key for {entry.algorithm.value}, not for {algorithm.value}")
        return sign_with(entry.private, algorithm, message)

    def destroy(self, handle: str) -> None:
        """Forget the key pair."""
        with self._lock:
            self._entries.pop(handle, None)

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()

    def _add(self, entry: _Entry) -> str:
        handle = f"{entry.name}.{entry.version}"
        with self._lock:
            if handle in self._entries:
                raise KeyExistsError(f"there is a key {entry.name} version {entry.version} already")
            self._entries[handle] = entry
        return handle

    def _entry(self, handle: str) -> _Entry:
        entry = self._entries.get(handle)
        if entry is None:
            raise KeyNotFoundError(f"there is no key {handle!r}")
        return entry
