"""The key-encryption key (KEK) of the file backend: where its 32 bytes come from, and what it does with them."""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
from pathlib import Path
from typing import Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from backends._files import UnsafeFileError, ensure_private_directory, read_private, sweep, translate, write_new
from backends.api import BackendContext
from backends.errors import BackendConfigError, BackendIntegrityError, KeyExistsError
from backends.secrets import Secret, SecretRef

KDF_FILE = "kdf.json"
_log = logging.getLogger("keyd.backends.file")


class Kek:
    """A key-encryption key, ready for use: AES-256-GCM with random nonces."""

    def __init__(self, secret: Secret) -> None:
        self._aead = AESGCM(secret.reveal())
        #: Tells two KEKs apart and says nothing about either: 64 bits of HKDF-Expand (RFC 5869 section 2.3), base64url.
        self.id = encode(HKDFExpand(hashes.SHA256(), 8, b"keyd file backend kek id").derive(secret.reveal()))

    def encrypt(self, plaintext: bytes, bound: bytes) -> tuple[bytes, bytes]:
        """Return nonce (12 bytes) and ciphertext with tag; ``bound`` must be the same bytes at decryption."""
        nonce = os.urandom(12)
        return nonce, self._aead.encrypt(nonce, plaintext, bound)

    def decrypt(self, nonce: bytes, ciphertext: bytes, bound: bytes) -> bytes:
        """Return the plaintext.

        Raises:
            cryptography.exceptions.InvalidTag: something of it was changed.
            ValueError: the nonce has an impossible length.
        """
        return self._aead.decrypt(nonce, ciphertext, bound)


class _Kdf(BaseModel):
    """What ``kdf.json`` holds. The bounds keep a changed file from weakening the derivation or eating the memory."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[1] = 1
    kdf: Literal["argon2id"] = "argon2id"
    salt: str = Field(pattern=r"^[A-Za-z0-9_-]{22}$")
    memory_kib: int = Field(default=64 * 1024, ge=64 * 1024, le=1024 * 1024)
    iterations: int = Field(default=3, ge=3, le=16)
    lanes: int = Field(default=4, ge=1, le=16)

    def derive(self, passphrase: Secret) -> Secret:
        """Run Argon2id (RFC 9106)."""
        kdf = Argon2id(
            salt=decode(self.salt), length=32, iterations=self.iterations, lanes=self.lanes, memory_cost=self.memory_kib
        )
        return Secret(kdf.derive(passphrase.reveal()))


class _KdfFile(_Kdf):
    kek_id: str  # so that a mistyped passphrase is noticed before the first key is encrypted under it


def load_kek(
    kek: SecretRef | None, passphrase: SecretRef | None, directory: Path, has_keys: bool, context: BackendContext
) -> Kek:
    """Find the key-encryption key, or make one where that is allowed and can hide no loss.

    Args:
        kek: 32 raw bytes, or the same as one line of 43 base64url characters.
        passphrase: any bytes; one line ending at the end is not part of it. Excludes ``kek``.
        directory: the key directory; holds ``kdf.json`` when there is a passphrase.
        has_keys: whether the directory holds keys already; then nothing new is made.
        context: with ``first_run`` and neither of the two, ``kek`` in its ``state_dir`` is used, and made when missing.

    Raises:
        BackendConfigError: there is no usable key-encryption key.
        BackendIntegrityError: ``kdf.json`` is damaged or too open.
    """
    if kek is not None:
        return Kek(_parse(kek.read(), str(kek)))
    if passphrase is not None:
        return _from_passphrase(passphrase, directory / KDF_FILE, has_keys)
    path = context.state_dir / "kek"
    ref = SecretRef(file=path)
    if not context.first_run:
        hint = f'set kek = {{ file = "{path}" }}' if path.exists() else "set kek or passphrase"
        raise BackendConfigError(f"backend {context.name} has no key-encryption key; {hint}")
    if not path.exists() and not path.is_symlink():
        if has_keys:
            raise BackendConfigError(f"{path}, under which {directory} is encrypted, is gone; restore it from its backup")
        _generate(path)
    return Kek(_parse(ref.read(), str(ref)))


def check_kdf(path: Path, content: bytes) -> None:
    """Look whether this is the content of a ``kdf.json``. Raises BackendIntegrityError."""
    try:
        _KdfFile.model_validate_json(content)
    except ValidationError as error:
        raise BackendIntegrityError(f"{path} would not be what keyd writes there") from error


def encode(value: bytes) -> str:
    """Return base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Return the bytes of canonical base64url without padding.

    Raises:
        ValueError: another alphabet, padding, or bits set that no byte needs.
    """
    try:
        value = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("not base64url") from error
    if encode(value) != text:
        raise ValueError("not canonical base64url")
    return value


def _parse(secret: Secret, place: str) -> Secret:
    value = secret.reveal()
    if len(value) == 32:
        return secret
    try:
        decoded = decode(value.removesuffix(b"\n").removesuffix(b"\r").decode("ascii"))
    except ValueError:
        decoded = b""
    if len(decoded) != 32:
        raise BackendConfigError(
            f"the key-encryption key in the {place} is neither 32 bytes nor one line of 43 base64url characters; "
            "make one with `head -c 32 /dev/urandom`"
        )
    return Secret(decoded)


def _generate(path: Path) -> None:
    ensure_private_directory(path.parent)
    sweep(path.parent)
    try:
        write_new(path, encode(os.urandom(32)).encode() + b"\n")
    except KeyExistsError:
        return  # another process made it a moment ago
    _log.warning(
        "made the key-encryption key %s; without it the keys are lost, so back it up, apart from the key directory's backup", path
    )


def _from_passphrase(ref: SecretRef, path: Path, has_keys: bool) -> Kek:
    passphrase = ref.read_line()
    if not path.exists() and not path.is_symlink():
        if has_keys:
            raise BackendConfigError(
                f"{path.parent} holds keys, but no {KDF_FILE}: restore it, or configure the key-encryption key that they have"
            )
        _write_kdf(path, passphrase)
    try:
        recorded = _KdfFile.model_validate_json(read_private(path, max_size=4096))
        kek = Kek(_derive(recorded, passphrase))
    except UnsafeFileError as error:
        raise BackendIntegrityError(str(error)) from error
    except OSError as error:
        raise translate(error, f"cannot read {path}") from error
    except (ValidationError, ValueError) as error:
        raise BackendIntegrityError(f"{path} is damaged; restore it from its backup") from error
    if kek.id != recorded.kek_id:
        raise BackendConfigError(f"the passphrase in the {ref} is not the one of {path}; correct it, or restore the changed file")
    return kek


def _write_kdf(path: Path, passphrase: Secret) -> None:
    kdf = _Kdf(salt=encode(os.urandom(16)))
    recorded = kdf.model_dump() | {"kek_id": Kek(_derive(kdf, passphrase)).id}
    try:
        write_new(path, json.dumps(recorded, indent=1).encode() + b"\n")
    except KeyExistsError:
        return  # another process made it a moment ago


def _derive(kdf: _Kdf, passphrase: Secret) -> Secret:
    try:
        return kdf.derive(passphrase)
    except (UnsupportedAlgorithm, MemoryError) as error:
        raise BackendConfigError("this machine cannot run Argon2id; configure kek instead of passphrase") from error
