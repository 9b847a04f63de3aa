"""Private keys in one SQLite file, as PKCS#8 encrypted under a passphrase."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Self, cast

from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_der_private_key,
)
from pydantic import BaseModel, ConfigDict

from backends.api import Algorithm, BackendContext, Capabilities, PrivateKey, PublicKey, StoredKey
from backends.encoding import generate_private_key, sign_with
from backends.errors import BackendConfigError, KeyExistsError, KeyNotFoundError, UnsupportedAlgorithmError
from backends.secrets import SecretRef


class ShelfConfig(BaseModel):
    """Section of the configuration for a backend of type ``shelf``."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    file: Path
    passphrase: SecretRef


class ShelfBackend:
    """One table; a handle is ``NAME/VERSION``."""

    Config: ClassVar[type[BaseModel]] = ShelfConfig
    capabilities = Capabilities(frozenset({Algorithm.ED25519, Algorithm.ES256}), in_process=True)

    def __init__(self, database: sqlite3.Connection, passphrase: bytes) -> None:
        self._database = database
        self._passphrase = passphrase
        self._lock = threading.Lock()

    @classmethod
    def open(cls, config: ShelfConfig, context: BackendContext) -> Self:
        """Open the file, made if it is not there."""
        try:
            database = sqlite3.connect(config.file, check_same_thread=False, isolation_level=None)
            database.execute("CREATE TABLE IF NOT EXISTS shelf (name, version, algorithm, pkcs8, PRIMARY KEY (name, version))")
        except sqlite3.Error as error:
            raise BackendConfigError(f"{config.file} cannot be opened as a SQLite file; check the path") from error
        return cls(database, config.passphrase.read_line().reveal())

    def create(self, name: str, version: int, algorithm: Algorithm) -> str:
        """Make a key pair."""
        if algorithm not in self.capabilities.algorithms:
            raise UnsupportedAlgorithmError(f"the shelf does not do {algorithm.value}")
        key = generate_private_key(algorithm, 2048)
        der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, BestAvailableEncryption(self._passphrase))
        try:
            with self._lock:
                self._database.execute("INSERT INTO shelf VALUES (?, ?, ?, ?)", (name, version, algorithm.value, der))
        except sqlite3.IntegrityError as error:
            raise KeyExistsError(f"there is a key {name} version {version} already") from error
        return f"{name}/{version}"

    def list(self) -> Iterable[StoredKey]:
        """Return every row."""
        with self._lock:
            rows = self._database.execute("SELECT name, version FROM shelf").fetchall()
        return [StoredKey(f"{name}/{version}", name, version) for name, version in rows]

    def find(self, name: str, version: int) -> str | None:
        """Return the handle of this version, if there is a row."""
        with self._lock:
            row = self._database.execute("SELECT 1 FROM shelf WHERE name = ? AND version = ?", (name, version)).fetchone()
        return f"{name}/{version}" if row else None

    def public_key(self, handle: str) -> PublicKey:
        """Return the public half."""
        return self._load(handle)[1].public_key()

    def sign(self, handle: str, algorithm: Algorithm, message: bytes) -> bytes:
        """Sign, only with the algorithm that the key was made for."""
        made_for, key = self._load(handle)
        if made_for is not algorithm:
            raise UnsupportedAlgorithmError(f"{handle} is a key for {made_for.value}")
        return sign_with(key, algorithm, message)

    def destroy(self, handle: str) -> None:
        """Delete the row."""
        name, _, version = handle.rpartition("/")
        with self._lock:
            self._database.execute("DELETE FROM shelf WHERE name = ? AND version = CAST(? AS INTEGER)", (name, version))

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _load(self, handle: str) -> tuple[Algorithm, PrivateKey]:
        name, _, version = handle.rpartition("/")
        with self._lock:
            query = "SELECT algorithm, pkcs8 FROM shelf WHERE name = ? AND version = CAST(? AS INTEGER)"
            row = self._database.execute(query, (name, version)).fetchone()
        if row is None:
            raise KeyNotFoundError(f"there is no {handle!r}")
        return Algorithm(row[0]), cast("PrivateKey", load_der_private_key(row[1], self._passphrase))
