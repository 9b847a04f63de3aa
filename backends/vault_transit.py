"""Private keys in the transit engine of Vault or OpenBao, which signs and never gives them out.

A keyd key is a transit key, and its versions are the transit key's own: transit rotates it to the next, and destroys ("trims") the
oldest. A handle is ``NAME:VERSION``. Every request to sign names its version, because transit's default is the newest one.
See docs/backends/vault.md.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import copy_context
from typing import Any, ClassVar, NamedTuple, NoReturn, Self

from hvac.api.secrets_engines import Transit
from pydantic import BaseModel

from backends import deadline
from backends._vault_config import VaultConfig
from backends._vault_http import Reply, Vault
from backends._vault_hvac import HvacAdapter, RefusedError
from backends._vault_key import TransitKey, key_type, parse, sign_request, signature
from backends._vault_login import login_for
from backends._vault_policy import policy_text
from backends._vault_session import Session
from backends.api import Algorithm, BackendContext, Capabilities, PublicKey, StoredKey
from backends.errors import (
    BackendAccessError,
    BackendError,
    BackendIntegrityError,
    BackendUnavailableError,
    DestructionPendingError,
    KeyExistsError,
    KeyNotFoundError,
    MessageSizeError,
    UnsupportedAlgorithmError,
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_TRANSIT_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,510}[A-Za-z0-9_])?"
_HANDLE = re.compile(rf"({_TRANSIT_NAME}):([1-9][0-9]{{0,9}})")
_READERS = 8  # requests at once when all keys are read
_CHANGE_WAIT = 60.0  # seconds that a change to a key waits for another, when its call has no deadline


class _Making(NamedTuple):
    """A transit key that this process made; versions below ``first`` exist only until it is done."""

    first: int
    done: bool


class VaultTransitBackend:
    """Keys in one mount of the transit engine, whose names begin with a prefix; others there can be adopted."""

    Config: ClassVar[type[BaseModel]] = VaultConfig
    capabilities = Capabilities(algorithms=frozenset(Algorithm), in_process=False, ordered_destruction=True)

    def __init__(self, config: VaultConfig, vault: Vault, session: Session) -> None:
        self._mount = config.mount
        self._prefix = config.prefix
        self._rsa_bits = config.rsa_bits
        self._vault = vault
        self._session = session
        self._transit: Any = Transit(HvacAdapter(self._send))
        # The type of a transit key never changes: read once per handle, so that signing takes one request.
        self._algorithms: dict[str, frozenset[Algorithm]] = {}
        self._changes: dict[str, threading.Lock] = {}
        self._made: dict[str, _Making] = {}

    @classmethod
    def open(cls, config: VaultConfig, context: BackendContext) -> Self:
        """Check what can be checked here; the server is asked in the background, and need not be there.

        Raises:
            BackendConfigError: TLS files cannot be used, or there is no secret where the configuration says.
        """
        vault = Vault(config)
        login = login_for(config, vault)
        with suppress(BackendUnavailableError):  # an agent or a kubelet writes it later
            login.read()
        return cls(config, vault, Session(context.name, vault, login))

    @classmethod
    def policy(cls, config: VaultConfig | None) -> str:
        """Return the policy for keyd's token, in HCL."""
        if config is None:
            fields = VaultConfig.model_fields
            return policy_text(fields["mount"].default, fields["prefix"].default, None)
        return policy_text(config.mount, config.prefix, config.namespace)

    def create(self, name: str, version: int, algorithm: Algorithm) -> str:
        """Make the transit key, or rotate it, until its latest version is this one. Raises as :meth:`backends.api.Backend.create`.

        Raises:
            BackendError: the name is none that transit takes, or something else rotates the key at the same time.
        """
        if algorithm not in self.capabilities.algorithms:
            raise UnsupportedAlgorithmError(f"the vault backend does not do {algorithm}")
        transit_name = self._prefix + name
        handle = f"{transit_name}:{version}"
        if _NAME.fullmatch(name) is None or _HANDLE.fullmatch(handle) is None:
            raise BackendError(f"transit takes no key named {transit_name!r}; use a name that ends in a letter or digit")
        with self._changing(transit_name):
            key = self._find(transit_name)
            if key is not None and key.latest >= version:
                raise KeyExistsError(f"transit key {transit_name} has had a version {version} already")
            if key is not None and algorithm not in key.algorithms:
                raise UnsupportedAlgorithmError(
                    f"transit key {transit_name} is of type {key.type}, and so are all its versions; "
                    f"make the key for {algorithm.value} under another name"
                )
            if key is not None and key.exportable:
                raise BackendIntegrityError(
                    f"transit key {transit_name} is exportable or open to plaintext backup, so its private keys can leave; "
                    "keyd makes no versions of it: use another name"
                )
            if key is None:
                self._made[transit_name] = _Making(version, done=False)
            self._advance(transit_name, key, version, algorithm)
            making = self._made.get(transit_name)
            if making is not None and not making.done:  # begun just now, or by a call that failed half way
                if making.first > 1:
                    self._trim(transit_name, making.first)
                self._made[transit_name] = making._replace(done=True)
        return handle

    def list(self) -> Iterable[StoredKey]:
        """Return the versions of every key in the mount that keyd may read and can sign with."""
        try:
            names = self._transit.list_keys(mount_point=self._mount)["data"]["keys"]
        except RefusedError as error:
            if error.reply.says_absent:  # the engine is there and holds none
                return []
            self._fail(error.reply, f"list the keys in {self._mount}", error)
        with ThreadPoolExecutor(_READERS) as pool:
            # The deadline lives in the context, which threads do not take along by themselves.
            found = [pool.submit(copy_context().run, self._stored, name) for name in names]
            return [stored for future in found for stored in future.result()]

    def find(self, name: str, version: int) -> str | None:
        """Return the handle of this version, if the transit key has it."""
        transit_name = self._prefix + name
        handle = f"{transit_name}:{version}"
        if _HANDLE.fullmatch(handle) is None:
            return None  # transit takes no such name
        key = self._find(transit_name)
        return handle if key is not None and version in key.versions else None

    def public_key(self, handle: str) -> PublicKey:
        """Return the public key, read from the server."""
        _, version = self._parse(handle)
        return self._read(handle).public_key(version)

    def sign(self, handle: str, algorithm: Algorithm, message: bytes) -> bytes:
        """Sign with this version of the transit key.

        Raises:
            KeyNotFoundError: there is no such version, or ``min_encryption_version`` keeps it from signing.
            UnsupportedAlgorithmError: the transit key is of a type for other algorithms.
            MessageSizeError: larger than the server takes; only with Ed25519, which needs the whole message.
            BackendIntegrityError: what came back is no signature by this version.
        """
        name, version = self._parse(handle)
        algorithms = self._algorithms.get(handle)
        if algorithms is None:
            algorithms = self._algorithms[handle] = self._read(handle).algorithms
        if algorithm not in algorithms:
            raise UnsupportedAlgorithmError(f"transit key {name} is not of a type for {algorithm.value}")
        body = sign_request(algorithm, version, message)
        reply = self._session.call("POST", f"{self._mount}/sign/{name}", body, repeatable=True)
        if reply.status != 200:
            self._algorithms.pop(handle, None)
            self._cannot_sign(handle, reply)
        if name in self._made and version < self._made[name].first:
            self._confirm(handle)
        return signature(handle, algorithm, version, reply.data)

    def destroy(self, handle: str) -> None:
        """Trim this version away; with the last one the transit key goes too. Destroying what is gone succeeds.

        Raises:
            DestructionPendingError: an older version is still there.
        """
        try:
            name, version = self._parse(handle)
        except KeyNotFoundError:
            return
        with self._changing(name):
            self._algorithms.pop(handle, None)
            key = self._find(name)
            if key is None or not key.oldest <= version <= key.latest:
                return
            if key.oldest < version:
                raise DestructionPendingError(
                    f"transit destroys the oldest version first, and {name} still has version {key.oldest}; destroy that before"
                )
            if version < key.latest:
                self._trim(name, version + 1)
            else:
                self._delete(name, version)
        self._algorithms.pop(handle, None)

    def close(self) -> None:
        """Stop renewing the token, forget it, and close the connections."""
        self._session.close()
        self._vault.close()
        self._algorithms.clear()

    def _send(self, method: str, path: str, body: object) -> Reply:
        return self._session.call(method, path, body, repeatable=method in {"GET", "LIST"})

    def _parse(self, handle: str) -> tuple[str, int]:
        match = _HANDLE.fullmatch(handle)  # nothing else may become part of a path
        if match is None:
            raise KeyNotFoundError(f"{handle[:80]!r} is not the handle of a transit key; those are NAME:VERSION")
        return match[1], int(match[2])

    @contextmanager
    def _changing(self, name: str) -> Iterator[None]:
        """Let no other thread change this key."""
        lock = self._changes.setdefault(name, threading.Lock())
        if not lock.acquire(timeout=deadline.remaining(_CHANGE_WAIT)):
            raise BackendUnavailableError(f"another change to transit key {name} takes too long")
        try:
            yield
        finally:
            lock.release()

    def _find(self, name: str) -> TransitKey | None:
        """Read a transit key; None when there is none. Hides the versions that exist only while it is being made."""
        before = self._made.get(name)
        try:
            answer = self._transit.read_key(name, mount_point=self._mount)
        except RefusedError as error:
            if error.reply.says_absent:
                return None
            self._fail(error.reply, f"read transit key {name}", error)
        key = parse(name, answer.get("data") or {})
        making = self._made.get(name)
        if making is None or (making.done and making is before):
            return key
        versions = {number: public for number, public in key.versions.items() if number >= making.first}
        return TransitKey(name, key.type, versions, key.latest, max(key.oldest, making.first), key.derived, key.exportable)

    def _read(self, handle: str) -> TransitKey:
        name, version = self._parse(handle)
        key = self._find(name)
        if key is None or version not in key.versions:
            self._algorithms.pop(handle, None)
            raise KeyNotFoundError(f"transit mount {self._mount} holds no {name} version {version}")
        return key

    def _stored(self, name: str) -> Sequence[StoredKey]:
        own = name.startswith(self._prefix) and _NAME.fullmatch(name.removeprefix(self._prefix)) is not None
        try:
            key = self._find(name)
        except BackendAccessError:
            if own:
                raise
            return []  # somebody else's, which keyd may not use
        if key is None or not key.algorithms:
            return []
        return [
            StoredKey(f"{name}:{number}", *((name.removeprefix(self._prefix), number) if own else (None, None)))
            for number in sorted(key.versions)
        ]

    def _advance(self, name: str, key: TransitKey | None, version: int, algorithm: Algorithm) -> None:
        """Make the transit key if there is none, and rotate it up to this version, by one at a time."""
        latest = key.latest if key is not None else 0
        while latest < version:
            try:
                if latest == 0:
                    self._begin(name, algorithm)
                else:
                    self._transit.rotate_key(name, mount_point=self._mount)
            except RefusedError as error:
                self._fail(error.reply, f"make transit key {name}", error)
            latest += 1
            made = self._find(name)
            # transit cannot make a version on condition, so that is checked afterwards.
            if made is None or made.latest != latest or algorithm not in made.algorithms or made.exportable:
                self._made.pop(name, None)
                raise BackendError(
                    f"something else changes transit key {name} at the same time; let one keyd create keys at a time"
                )

    def _begin(self, name: str, algorithm: Algorithm) -> None:
        """Make a transit key. Where that fails it may be somebody else's, and nothing of it is ever trimmed away as ours."""
        try:
            self._transit.create_key(name, key_type=key_type(algorithm, self._rsa_bits), mount_point=self._mount)
        except BaseException:
            self._made.pop(name, None)
            raise

    def _trim(self, name: str, oldest: int) -> None:
        """Destroy every version below ``oldest``."""
        path = f"{self._mount}/keys/{name}/config"
        # hvac refuses equal values, which transit takes and which is what "from here on" means.
        reply = self._send("POST", path, {"min_decryption_version": oldest, "min_encryption_version": oldest})
        if reply.status >= 400:
            self._fail(reply, f"retire versions of transit key {name}", None)
        try:
            self._transit.trim_key(name, oldest, mount_point=self._mount)
        except RefusedError as error:
            self._fail(error.reply, f"trim transit key {name}", error)

    def _delete(self, name: str, version: int) -> None:
        """Delete a transit key whose only version this is, now that nothing is left to do but that."""
        try:
            self._transit.update_key_configuration(name, deletion_allowed=True, mount_point=self._mount)
            key = self._find(name)
            if key is not None and key.latest != version:
                self._transit.update_key_configuration(name, deletion_allowed=False, mount_point=self._mount)
                raise BackendError(f"something else rotated transit key {name} meanwhile; its new version stays")
            self._transit.delete_key(name, mount_point=self._mount)
        except RefusedError as error:
            self._fail(error.reply, f"delete transit key {name}", error)

    def _confirm(self, handle: str) -> None:
        """Make sure that a signature is not by a version that existed only while the transit key was being made.

        A handle of a destroyed key can name such a version. Waits for the making to end.
        """
        name, _ = self._parse(handle)
        with self._changing(name):
            self._read(handle)

    def _cannot_sign(self, handle: str, reply: Reply) -> NoReturn:
        name, version = self._parse(handle)
        if "requested version for signing" in reply.words:
            raise KeyNotFoundError(
                f"transit key {name} has no version {version} that may sign; if it should, check its min_encryption_version"
            )
        if "signing key not found" in reply.words or reply.says_absent:
            raise KeyNotFoundError(f"transit mount {self._mount} holds no {name}")
        if reply.status == 413:
            raise MessageSizeError("vault refuses a request of this size; raise max_request_size or sign a shorter message")
        self._fail(reply, f"sign with {handle}", None)

    def _fail(self, reply: Reply, action: str, cause: Exception | None) -> NoReturn:
        raise self._failure(reply, action) from cause

    def _failure(self, reply: Reply, action: str) -> BackendError:
        message = f"vault at {self._vault.address} cannot {action}: status {reply.status}"
        if reply.words:
            message += f", {reply.words}"
        if "soft-deleted" in reply.words:
            return BackendAccessError(f"{message}; restore the key, or destroy it in keyd")
        if reply.status == 404:
            return BackendAccessError(f"{message}; check mount and namespace, and that a transit engine is enabled there")
        if reply.status >= 500:
            return BackendUnavailableError(message)
        return BackendError(message)
