"""Private keys on a PKCS#11 token: an HSM, a smart card, a TPM, SoftHSM. They are made there and never leave it.

A key pair is two objects with one CKA_ID, which is the handle. Those that keyd makes bear the label ``keyd:NAME:VERSION``; other
pairs are foreign and can be adopted. docs/backends/pkcs11.md tells operators the rest.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NoReturn, Self, TypeVar

from pkcs11.exceptions import PKCS11Error
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from backends._pkcs11_errors import OBJECT_GONE, StoreDoubtError, is_broken, translate
from backends._pkcs11_keys import GENERATORS, handle_of, id_of, label_for, version_of
from backends._pkcs11_module import Module
from backends._pkcs11_token import Connection, Facts, Worker
from backends._pkcs11_uri import Pkcs11Uri
from backends.api import Algorithm, BackendContext, Capabilities, PublicKey, StoredKey
from backends.errors import (
    BackendConfigError,
    BackendError,
    BackendIntegrityError,
    BackendUnavailableError,
    KeyExistsError,
    KeyNotFoundError,
    UnsupportedAlgorithmError,
)
from backends.secrets import SecretRef

_T = TypeVar("_T")
_Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
_NoNul = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
_FAILURES = 3  # with the session at hand, with a new one, with the module opened again
_TURNS = 10  # more than the times that the module can be opened again, by other backends, during one signature
_log = logging.getLogger("keyd.backends.pkcs11")


class Pkcs11Config(BaseModel):
    """Section of the configuration for a backend of type ``pkcs11``."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    #: The token, by label or serial, as a PKCS#11 URI (RFC 7512). May name the module and the file of the PIN too.
    uri: str
    #: The shared object, if ``uri`` has no ``module-path``.
    module: Path | None = None
    #: The user PIN, if ``uri`` has no ``pin-source``.
    pin: SecretRef | None = None
    #: What the module of NSS wants to be initialised with.
    library_parameters: _NoNul | None = None
    #: Variables that are set before the module is initialised, such as ``SOFTHSM2_CONF``.
    environment: dict[_Variable, _NoNul] = Field(default_factory=dict)
    #: What the token is to be used for, where that is less than its mechanisms would do. Default: all that they do.
    algorithms: frozenset[Algorithm] | None = Field(default=None, min_length=1)
    #: Modulus of new RSA keys.
    rsa_bits: Literal[2048, 3072, 4096] = 3072
    #: Seconds between two attempts to open the module again.
    reopen_interval: float = Field(default=5.0, ge=0.05, le=3600)

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        uri = self.token_uri
        if (uri.module_path is None) == (self.module is None):
            raise ValueError("name the module once: module-path in the uri, or the field module")
        if self.module is not None and not self.module.is_absolute():
            raise ValueError("module is not an absolute path")
        if (uri.pin_source is None) == (self.pin is None):
            raise ValueError("refer to the PIN once: pin-source=file:/PATH in the uri, or the field pin")
        return self

    @property
    def token_uri(self) -> Pkcs11Uri:
        """The parsed ``uri``."""
        return Pkcs11Uri.parse(self.uri)

    @property
    def pin_reference(self) -> SecretRef:
        """Where the PIN is, whichever way it was written."""
        return self.pin or SecretRef(file=Path(self.token_uri.pin_source or ""))

    @property
    def module_path(self) -> Path:
        """Where the module is, whichever way it was written."""
        return self.module or Path(self.token_uri.module_path or "")


class Pkcs11Backend:
    """Private keys on one token. It is logged in to once, and opened again by itself when it was gone."""

    Config: ClassVar[type[BaseModel]] = Pkcs11Config

    def __init__(self, config: Pkcs11Config, name: str, module: Module) -> None:
        self.capabilities = Capabilities(algorithms=config.algorithms or frozenset(Algorithm), in_process=False)
        self._config = config
        self._name = name
        self._uri = config.token_uri
        self._module = module
        self._connection: Connection | None = None
        # What was seen under each handle, over all generations: a token that comes back must show the same.
        self._seen: dict[str, PublicKey] = {}

    @classmethod
    def open(cls, config: Pkcs11Config, context: BackendContext) -> Self:
        """Load the module and log in to the token; if it is not there, keyd starts without it, and it is looked for later.

        Raises:
            BackendConfigError: the module cannot be used, or there is no PIN, or the token lacks a configured algorithm.
            BackendAccessError: the token refuses the PIN.
        """
        config.pin_reference.read_line()  # one that is missing is found out even if the token is, too
        backend = cls(config, context.name, Module.acquire(config.module_path, config.environment, config.library_parameters))
        try:
            backend._on_token(lambda _: None, "cannot use the token")
        except BackendUnavailableError as error:
            _log.warning("backend %s starts without its token and looks for it at every call: %s", context.name, error)
        except BackendError:
            backend.close()
            raise
        return backend

    def create(self, name: str, version: int, algorithm: Algorithm) -> str:
        """Have the token make a key pair that cannot leave it.

        Raises:
            BackendIntegrityError: the token would let it leave; it is destroyed.
            BackendError: as :meth:`backends.api.Backend.create`.
        """
        label = label_for(name, version)
        if label is None:
            raise BackendError(f"{name!r} version {version} cannot be a label; use another name")
        self._check_declared(algorithm)
        key_id = secrets.token_bytes(16)
        handle = handle_of(key_id)

        def work(connection: Connection) -> None:
            self._check_declared(algorithm)  # the token may just have told what it does
            generator = GENERATORS[algorithm]
            if generator.mechanism not in connection.mechanisms:
                raise UnsupportedAlgorithmError(
                    f"{connection.description} makes no keys for {algorithm.value} itself; "
                    "bring one there by its own means, and adopt it"
                )
            if connection.labelled(label) is not None:
                raise KeyExistsError(f"{connection.description} holds a key labelled {label!r} already")
            try:
                connection.generate(generator, key_id, label, self._config.rsa_bits)
            except PKCS11Error as error:
                # Not tried again: there may be a key now, and then it would be taken for somebody else's.
                connection.suspect = is_broken(error)
                raise translate(error, f"{connection.description} did not make a key pair") from error

        self._on_token(work, "cannot make a key pair")
        return handle

    def list(self) -> Iterable[StoredKey]:
        """Return the usable key pairs: those that sign, with a public object, under a CKA_ID that no other pair has."""
        pairs = self._on_token(Connection.usable, "cannot list the keys")
        return [StoredKey(handle_of(pair.id), *version_of(pair.label)) for pair in pairs]

    def find(self, name: str, version: int) -> str | None:
        """Return the handle of the private key that bears the label of this version."""
        label = label_for(name, version)
        if label is None:
            return None
        key_id = self._on_token(lambda connection: connection.labelled(label), "cannot look for a key")
        return None if key_id is None else handle_of(key_id)

    def public_key(self, handle: str) -> PublicKey:
        """Return the public key, read from the token.

        Raises:
            KeyNotFoundError: the token is there and holds no such key.
            BackendIntegrityError: it is another key than before, or one that keyd cannot use.
        """
        key_id = self._id(handle)
        return self._on_token(lambda connection: self._learn(connection, handle, key_id), "cannot read a public key").public_key

    def sign(self, handle: str, algorithm: Algorithm, message: bytes) -> bytes:
        """Sign with the key under this handle.

        Raises:
            KeyNotFoundError: the token is there and holds no such key.
            UnsupportedAlgorithmError: the key, or the token, is not for this algorithm.
            BackendIntegrityError: there is another key under this handle than before.
        """
        errors: list[PKCS11Error] = []
        for _ in range(_TURNS):
            connection, worker = self._worker(handle, algorithm)
            signer = worker.keys[handle][1].signers.get(algorithm)
            if signer is None:
                connection.idle.append(worker)
                raise UnsupportedAlgorithmError(f"{handle} on {connection.description} is not for {algorithm.value}")
            try:
                signature = connection.sign(worker, handle, signer, message)
            except PKCS11Error as error:
                errors.append(error)
                self._after_failure(connection, worker, handle, errors)
                continue
            except BackendError:
                connection.idle.append(worker)
                raise
            connection.idle.append(worker)
            if signature is not None:
                return signature
        raise BackendUnavailableError(f"the token {self._uri.describe()} comes and goes; try again")

    def destroy(self, handle: str) -> None:
        """Destroy both objects of a key pair. What is gone is gone; a token that is gone is not."""
        key_id = id_of(handle)
        if key_id is None:
            return

        def work(connection: Connection) -> None:
            connection.destroy(handle, key_id)

        self._on_token(work, "cannot destroy a key")
        self._seen.pop(handle, None)

    def close(self) -> None:
        """Close the sessions, and the module if no other backend uses it."""
        try:
            if self._connection is not None:
                with self._module.exclusively():
                    self._connection.close()
        except (BackendError, PKCS11Error) as error:
            _log.warning("backend %s does not close all its sessions: %s", self._name, type(error).__name__)
        self._connection = None
        self._module.release()

    def _on_token(self, work: Callable[[Connection], _T], action: str) -> _T:
        """Do this on the token, under the mutex, and once more with the module opened again if that may help.

        Raises:
            BackendUnavailableError: it did not, or it is too early to try.
            BackendError: what ``work`` raises.
        """
        with self._module.exclusively():
            try:
                return work(self._connected())
            except PKCS11Error as error:
                if not is_broken(error):
                    raise self._translated(error, action) from error
                cause: Exception = self._translated(error, action)
                cause.__cause__ = error
            except StoreDoubtError as error:
                cause = error
            # The connection stays until the module is open again: it knows that there were keys.
            was_open = self._module.is_open
            self._module.reopen(self._config.reopen_interval, cause)
            if was_open:
                _log.warning("backend %s opened its module again: %s", self._name, cause)
            try:
                return work(self._connected())
            except PKCS11Error as error:
                raise self._translated(error, action) from error
            except StoreDoubtError as error:
                raise BackendUnavailableError(str(error)) from error

    def _connected(self) -> Connection:
        connection = self._connection
        if connection is None or connection.generation != self._module.generation:
            if not self._module.is_open:
                raise StoreDoubtError(f"the module {self._module.path} is not open")
            connection = Connection.open(self._module, self._uri, self._config.pin_reference)
            self._declare(connection)
            self._connection = connection
        if connection.suspect:
            raise StoreDoubtError(f"{connection.description} failed")
        return connection

    def _declare(self, connection: Connection) -> None:
        """Declare what the token does, now that it is there."""
        able = frozenset(connection.signers)
        wanted = self._config.algorithms or able
        if not able or wanted - able:
            raise BackendConfigError(
                f"{connection.description} does not do {_names(wanted - able)}; of keyd's algorithms it does {_names(able)}"
            )
        connection.signers = {algorithm: connection.signers[algorithm] for algorithm in wanted}
        self.capabilities = Capabilities(algorithms=wanted, in_process=False)

    def _check_declared(self, algorithm: Algorithm) -> None:
        if algorithm not in self.capabilities.algorithms:
            raise UnsupportedAlgorithmError(
                f"the token {self._uri.describe()} is not for {algorithm.value}, but for {_names(self.capabilities.algorithms)}"
            )

    def _learn(self, connection: Connection, handle: str, key_id: bytes) -> Facts:
        try:
            facts = connection.learn(handle, key_id)
        except BackendIntegrityError as error:
            if handle not in self._seen:
                raise
            # It was sound before. A token that is just going away or coming back shows half of what it has.
            raise StoreDoubtError(str(error)) from error
        if facts is None:
            self._seen.pop(handle, None)
            self._not_found(handle)
        if self._seen.setdefault(handle, facts.public_key) != facts.public_key:
            connection.facts.pop(handle, None)
            raise BackendIntegrityError(
                f"{handle} on {connection.description} is another key than before; find out who changed it, and destroy it"
            )
        return facts

    def _worker(self, handle: str, algorithm: Algorithm) -> tuple[Connection, Worker]:
        """Return a worker that has this key at hand and belongs to the caller until it is put back."""
        connection = self._connection
        if connection is not None and not connection.suspect and connection.generation == self._module.generation:
            worker = connection.ready_worker(handle)
            if worker is not None:
                return connection, worker
        self._check_declared(algorithm)
        key_id = self._id(handle)

        def work(connection: Connection) -> tuple[Connection, Worker]:
            facts = connection.facts.get(handle) or self._learn(connection, handle, key_id)
            worker = connection.worker_for(handle, key_id, facts)
            if worker is None:  # destroyed since it was learnt
                self._learn(connection, handle, key_id)
                raise StoreDoubtError(f"{handle} on {connection.description} comes and goes")
            return connection, worker

        return self._on_token(work, f"cannot sign with {handle}")

    def _after_failure(self, connection: Connection, worker: Worker, handle: str, errors: Sequence[PKCS11Error]) -> None:
        """Have the next try begin one step further back: with the key, then with the session, then with the module.

        Raises:
            BackendError: there is no further back.
        """
        error, broken = errors[-1], is_broken(errors[-1])
        if isinstance(error, OBJECT_GONE) or not broken:
            # Somebody destroys the key, for all we know: tokens fail in many ways meanwhile. It is learnt anew, and must be the same.
            worker.keys.pop(handle)
            connection.facts.pop(handle, None)
            connection.idle.append(worker)
        else:
            connection.idle.clear()  # the other sessions are hardly better
            connection.suspect = connection.suspect or len(errors) > 1
        if len(errors) == _FAILURES or (len(errors) > 1 and not broken):
            raise self._translated(error, f"cannot sign with {handle}") from error

    def _id(self, handle: str) -> bytes:
        key_id = id_of(handle)
        return self._not_found(handle) if key_id is None else key_id

    def _not_found(self, handle: str) -> NoReturn:
        raise KeyNotFoundError(f"the token {self._uri.describe()} holds no key under the handle {handle[:64]!r}")

    def _translated(self, error: PKCS11Error, action: str) -> BackendError:
        return translate(error, f"{action} on the token {self._uri.describe()}")


def _names(algorithms: Iterable[Algorithm]) -> str:
    return ", ".join(sorted(algorithm.value for algorithm in algorithms)) or "none"
