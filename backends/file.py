"""Private keys in encrypted files, one per key version.

A file ``{name}.{version}.key`` is one line of canonical JSON: what it is, and the PKCS#8 DER (RFC 5958) under AES-256-GCM. Every
other field is bound to the ciphertext, so that a file which was changed, renamed or swapped is refused and never signs.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from pydantic import BaseModel, ConfigDict, model_validator

from backends._files import (
    UnsafeFileError,
    ensure_private_directory,
    read_private,
    remove,
    sweep,
    sync,
    translate,
    write_new,
)
from backends.api import Algorithm, BackendContext, Capabilities, PrivateKey, PublicKey, StoredKey
from backends.encoding import algorithm_fits, checked_for_import, generate_private_key, sign_with
from backends.errors import (
    BackendConfigError,
    BackendError,
    BackendIntegrityError,
    KeyExistsError,
    KeyNotFoundError,
    UnsupportedAlgorithmError,
)
from backends.kek import KDF_FILE, Kek, check_kdf, decode, encode, load_kek
from backends.secrets import SecretRef

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_HANDLE = re.compile(rf"(?P<name>{_NAME.pattern})\.(?P<version>[1-9][0-9]{{0,9}})\.key")
_MAX_FILE_SIZE = 64 * 1024
_log = logging.getLogger("keyd.backends.file")


class FileConfig(BaseModel):
    """Section of the configuration for a backend of type ``file``."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    #: Where the key files are; ``keys`` in the backend's state directory by default. Nothing else belongs there.
    directory: Path | None = None
    #: 32 raw bytes, or one line of 43 base64url characters. Excludes ``passphrase``.
    kek: SecretRef | None = None
    #: Stretched with Argon2id into the key-encryption key.
    passphrase: SecretRef | None = None
    #: Modulus of new RSA keys.
    rsa_bits: Literal[2048, 3072, 4096] = 3072

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.kek is not None and self.passphrase is not None:
            raise ValueError("give kek or passphrase, not both")
        return self


@dataclass(frozen=True, slots=True)
class _Envelope:
    """One key file. The field order is the file's."""

    format: int
    name: str
    version: int
    algorithm: str
    kek_id: str
    nonce: str
    ciphertext: str

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), separators=(",", ":")).encode() + b"\n"

    def bound(self) -> bytes:
        """Return what the ciphertext is bound to: all that is not its own."""
        header = (self.format, self.name, self.version, self.algorithm, self.kek_id)
        return json.dumps(["keyd key file", *header], separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Parse the one spelling that :meth:`to_bytes` writes; ValueError for any other."""
        try:
            envelope = cls(**json.loads(content))
        except (TypeError, RecursionError) as error:
            raise ValueError("not an envelope") from error
        types = {"format": int, "version": int}
        if any(type(value) is not types.get(field, str) for field, value in asdict(envelope).items()):
            raise ValueError("not an envelope")
        if envelope.to_bytes() != content:
            raise ValueError("not canonical")
        return envelope


@dataclass(frozen=True, slots=True, repr=False)
class _LoadedKey:
    algorithm: Algorithm
    private: PrivateKey


class FileBackend:
    """Private keys in encrypted files in one directory, decrypted when they are first used and kept then."""

    Config: ClassVar[type[BaseModel]] = FileConfig
    capabilities = Capabilities(
        algorithms=frozenset(Algorithm), in_process=True, inline=frozenset({Algorithm.ED25519, Algorithm.ES256})
    )

    def __init__(self, directory: Path, kek: Kek, rsa_bits: int) -> None:
        self._directory = directory
        self._kek = kek
        self._rsa_bits = rsa_bits
        self._loaded: dict[str, _LoadedKey] = {}
        # Taken to load and to destroy, so that no load brings back what was destroyed meanwhile. Signing takes it once per key.
        self._lock = threading.Lock()

    @classmethod
    def open(cls, config: FileConfig, context: BackendContext) -> Self:
        """Check the directory, remove what killed processes left in it, and check the key-encryption key against a key file.

        Raises:
            BackendConfigError: there is no key-encryption key, or it is another than the files were encrypted under.
            BackendIntegrityError: the directory is too open, or none of its files can be trusted.
            BackendAccessError: the operating system refuses access.
        """
        directory = _ensure_directory(config, context)
        names = sorted(sweep(directory))
        has_keys = any(map(_HANDLE.fullmatch, names))
        kek = load_kek(config.kek, config.passphrase, directory, has_keys, context)
        backend = cls(directory, kek, config.rsa_bits)
        backend._check_kek(filter(_HANDLE.fullmatch, names))
        return backend

    @classmethod
    def backup(cls, config: FileConfig, context: BackendContext, handles: Collection[str]) -> Mapping[str, bytes]:
        """Return the key files under these names, and the salt of the passphrase. Raises as :meth:`backends.api.Exportable.backup`."""
        directory = _directory(config, context)
        files = {}
        for handle in sorted(handles):
            if _HANDLE.fullmatch(handle) is None:
                continue
            with contextlib.suppress(KeyNotFoundError):
                files[handle] = _read_envelope(directory / handle).to_bytes()
        kdf = _content(directory / KDF_FILE)
        return files if kdf is None else files | {KDF_FILE: kdf}

    @classmethod
    def restore(cls, config: FileConfig, context: BackendContext, files: Mapping[str, bytes], *, dry_run: bool = False) -> None:
        """Write the files that are not there yet. Raises as :meth:`backends.api.Exportable.restore`."""
        directory = _directory(config, context)
        missing = {}
        for name, content in files.items():
            if name == KDF_FILE:
                check_kdf(directory / name, content)
            elif _HANDLE.fullmatch(name) is None or len(content) > _MAX_FILE_SIZE:
                raise BackendIntegrityError(f"{name!r} is not a key file")
            else:
                _parse_envelope(directory / name, content)
            there = _content(directory / name)
            if there is None:
                missing[name] = content
            elif there != content:
                raise KeyExistsError(f"{directory / name} exists already and is another; move {directory} away")
        if not dry_run:
            _ensure_directory(config, context)
            for name, content in missing.items():
                write_new(directory / name, content)

    def create(self, name: str, version: int, algorithm: Algorithm) -> str:
        """Make a key pair and write its file; the handle is the file's name. Raises as :meth:`backends.api.Backend.create`."""
        handle = _handle(name, version)
        if algorithm not in self.capabilities.algorithms:
            raise UnsupportedAlgorithmError(f"the file backend does not do {algorithm}")
        self._write(handle, name, version, algorithm, generate_private_key(algorithm, self._rsa_bits))
        return handle

    def import_key(self, name: str, version: int, algorithm: Algorithm, key: PrivateKey) -> str:
        """Write the file of a key pair from elsewhere.

        Raises:
            InvalidKeyMaterialError: the two halves do not match, or RSA has a bad size or exponent.
            UnsupportedAlgorithmError: the key has another type or curve than the algorithm.
            BackendError: as :meth:`create`.
        """
        handle = _handle(name, version)
        self._write(handle, name, version, algorithm, checked_for_import(algorithm, key))
        return handle

    def list(self) -> Iterable[StoredKey]:
        """Return the key files by their names, without reading them."""
        try:
            names = os.listdir(self._directory)  # noqa: PTH208 - names are what is needed, and a path for each of 100,000 takes a second
        except OSError as error:
            raise translate(error, f"cannot read the directory {self._directory}") from error
        found = zip(names, map(_HANDLE.fullmatch, names), strict=True)
        return [StoredKey(handle, match[1], int(match[2])) for handle, match in found if match is not None]

    def find(self, name: str, version: int) -> str | None:
        """Return the name of the file of this version, if it is there, sound or not."""
        handle = _handle(name, version)
        try:
            (self._directory / handle).lstat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise translate(error, f"cannot look for {self._directory / handle}") from error
        return handle

    def public_key(self, handle: str) -> PublicKey:
        """Return the public half. Raises as :meth:`sign`."""
        return self._load(handle).private.public_key()

    def sign(self, handle: str, algorithm: Algorithm, message: bytes) -> bytes:
        """Sign with the key in this file; only with the algorithm that it was made for.

        Raises:
            KeyNotFoundError: there is no such file.
            UnsupportedAlgorithmError: the key was made for another algorithm.
            BackendIntegrityError: the file was changed or renamed, or others can read it.
        """
        key = self._load(handle)
        if algorithm is not key.algorithm:
            raise UnsupportedAlgorithmError(f"{handle} holds a key for {key.algorithm.value}, not for {algorithm.value}")
        return sign_with(key.private, algorithm, message)

    def destroy(self, handle: str) -> None:
        """Remove the file, durably. What the disk keeps of its blocks stays encrypted under the key-encryption key."""
        path = self._path(handle)
        with self._lock:
            remove(path)
            self._loaded.pop(handle, None)
        sync(self._directory)

    def close(self) -> None:
        """Forget the decrypted keys."""
        self._loaded.clear()

    def _path(self, handle: str) -> Path:
        if _HANDLE.fullmatch(handle) is None:  # nothing but a name of ours may become part of a path
            raise KeyNotFoundError(f"{handle!r} is not the name of a key file")
        return self._directory / handle

    def _write(self, handle: str, name: str, version: int, algorithm: Algorithm, key: PrivateKey) -> None:
        der = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        header = _Envelope(1, name, version, algorithm.value, self._kek.id, "", "")
        nonce, ciphertext = self._kek.encrypt(der, header.bound())
        envelope = _Envelope(1, name, version, algorithm.value, self._kek.id, encode(nonce), encode(ciphertext))
        write_new(self._path(handle), envelope.to_bytes())

    def _load(self, handle: str) -> _LoadedKey:
        key = self._loaded.get(handle)
        if key is None:
            with self._lock:
                key = self._loaded.get(handle)
                if key is None:
                    key = self._loaded[handle] = self._decrypt(handle)
        return key

    def _decrypt(self, handle: str) -> _LoadedKey:
        path = self._path(handle)
        envelope = _read_envelope(path)
        if envelope.kek_id != self._kek.id:
            raise _OtherKekError(
                f"{path} was encrypted under another key-encryption key ({envelope.kek_id!r}, not {self._kek.id!r}); "
                "configure that one"
            )
        try:
            algorithm = Algorithm(envelope.algorithm)
            der = self._kek.decrypt(decode(envelope.nonce), decode(envelope.ciphertext), envelope.bound())
            # Validation takes 0.1 s per RSA key; what our own key authenticates was validated when it was made or imported.
            private = serialization.load_der_private_key(der, None, unsafe_skip_rsa_key_validation=True)
        except (InvalidTag, ValueError) as error:
            raise _damaged(path) from error
        if not algorithm_fits(algorithm, private.public_key()):  # type: ignore[arg-type]  # any type but ours answers False
            raise _damaged(path)
        return _LoadedKey(algorithm, private)  # type: ignore[arg-type]  # it fits, so it is one of ours

    def _check_kek(self, handles: Iterable[str]) -> None:
        """Accept the key-encryption key as soon as it opens one file: one damaged file must not stop the others."""
        failures: list[BackendError] = []
        for handle in handles:
            try:
                self._decrypt(handle)
            except KeyNotFoundError:
                continue  # destroyed by another process meanwhile
            except BackendError as error:
                failures.append(error)
            else:
                for failure in failures:
                    _log.error("%s", failure)
                return
        for failure in failures:
            if isinstance(failure, _OtherKekError):
                raise BackendConfigError(str(failure)) from failure
        if failures:
            raise failures[0]


class _OtherKekError(BackendIntegrityError):
    """A sound-looking file under another key-encryption key: as a rule the configuration is wrong, and not the file."""


def _directory(config: FileConfig, context: BackendContext) -> Path:
    return config.directory or context.state_dir / "keys"


def _ensure_directory(config: FileConfig, context: BackendContext) -> Path:
    directory = _directory(config, context)
    if config.directory is None:
        ensure_private_directory(context.state_dir)
    ensure_private_directory(directory)
    return directory


def _content(path: Path) -> bytes | None:
    """Return what a file holds; None where there is none."""
    try:
        return read_private(path, max_size=_MAX_FILE_SIZE)
    except FileNotFoundError:
        return None
    except UnsafeFileError as error:
        raise BackendIntegrityError(str(error)) from error
    except OSError as error:
        raise translate(error, f"cannot read {path}") from error


def _handle(name: str, version: int) -> str:
    handle = f"{name}.{version}.key"
    if _HANDLE.fullmatch(handle) is None:
        raise BackendError(f"{name!r} version {version} cannot be the name of a key file; use another name")
    return handle


def _read_envelope(path: Path) -> _Envelope:
    content = _content(path)
    if content is None:
        raise KeyNotFoundError(f"there is no {path}")
    return _parse_envelope(path, content)


def _parse_envelope(path: Path, content: bytes) -> _Envelope:
    try:
        envelope = _Envelope.from_bytes(content)
    except ValueError as error:
        raise _damaged(path) from error
    if envelope.format != 1:
        raise BackendIntegrityError(f"{path} has format {envelope.format}, unknown here; run the keyd that wrote it")
    if path.name != f"{envelope.name}.{envelope.version}.key":
        raise BackendIntegrityError(f"{path} is the file of {envelope.name!r} version {envelope.version}; give it its name back")
    return envelope


def _damaged(path: Path) -> BackendIntegrityError:
    return BackendIntegrityError(f"{path} was changed or damaged; restore it from its backup")
