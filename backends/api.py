"""The contract between keyd and a store of private keys.

A backend is small and dumb: no cache, no rotation, no policy. Its methods block; keyd calls them from threads of its own,
several at once, so they must be thread-safe. Everything that a backend raises is a :class:`backends.errors.BackendError`.
One that waits for something outside asks :mod:`backends.deadline` how long it may.

Third parties register a class in the entry-point group ``keyd.backends`` and subclass
:class:`backends.testing.BackendContract` in their tests.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from pydantic import BaseModel

PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey
PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Algorithm(enum.Enum):
    """A fully specified signature algorithm, by its JOSE name (RFC 9864)."""

    ED25519 = "Ed25519"
    ES256 = "ES256"
    ES384 = "ES384"
    PS512 = "PS512"
    RS256 = "RS256"

    __hash__ = object.__hash__  # members are looked up for each signature, and the hash of an enum runs Python code

    @property
    def http_name(self) -> str:
        """Name in the HTTP Signature Algorithms registry (RFC 9421 section 6.2)."""
        return _HTTP_NAMES[self]


_HTTP_NAMES = {
    Algorithm.ED25519: "ed25519",
    Algorithm.ES256: "ecdsa-p256-sha256",
    Algorithm.ES384: "ecdsa-p384-sha384",
    Algorithm.PS512: "rsa-pss-sha512",
    Algorithm.RS256: "rsa-v1_5-sha256",
}


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend declares of itself; the contract suite holds it to that."""

    algorithms: frozenset[Algorithm]
    #: True when signatures are made by a library inside this process. Others are verified before they are returned.
    in_process: bool
    #: Algorithms so cheap that signing on the event loop costs less than handing over to a thread.
    inline: frozenset[Algorithm] = frozenset()
    #: Largest message in bytes, for algorithms that have a limit.
    max_message: Mapping[Algorithm, int] = field(default_factory=dict)
    #: Smallest message in bytes, for algorithms that do not sign an empty one.
    min_message: Mapping[Algorithm, int] = field(default_factory=dict)
    #: True when the store destroys the versions of a key oldest first; then destroying another raises DestructionPendingError.
    ordered_destruction: bool = False
    #: True when the keys live in the process that made them: no other process can sign with them, so keyd runs with one.
    one_process: bool = False


@dataclass(frozen=True, slots=True)
class StoredKey:
    """One key pair that a backend found in its store."""

    handle: str
    #: The keyd key and version it was made for; None for keys that something else made.
    name: str | None
    version: int | None


@dataclass(frozen=True, slots=True)
class BackendContext:
    """What keyd tells a backend when it opens it."""

    #: Name of the configured instance, for messages.
    name: str
    #: A directory that belongs to this backend alone. Need not exist yet.
    state_dir: Path
    #: True when there is no configuration file: a backend may make what it lacks, and must say so in the log.
    first_run: bool = False


@runtime_checkable
class Backend(Protocol):
    """A store of private keys."""

    #: The fields of its section of the configuration; unknown fields must be forbidden. ``type``, ``timeout``,
    #: ``admin_timeout``, ``threads`` and ``max_waiting`` are keyd's own and never reach it.
    Config: ClassVar[type[BaseModel]]
    capabilities: Capabilities

    @classmethod
    def open(cls, config: Any, context: BackendContext) -> Self:
        """Open the store described by ``config``, an instance of :attr:`Config`.

        A store that is merely out of reach is no error: the daemon starts, and the backend serves as soon as the store does.

        Raises:
            BackendConfigError: the configuration cannot work.
            BackendIntegrityError: the store is damaged or too open.
            BackendAccessError: the store refuses the daemon.
        """
        ...

    def create(self, name: str, version: int, algorithm: Algorithm) -> str:
        """Make a key pair for this version and return its handle, durably stored.

        Raises:
            KeyExistsError: there is one for this name and version already.
            UnsupportedAlgorithmError: not one of the declared algorithms.
        """
        ...

    def list(self) -> Iterable[StoredKey]:
        """Return every key pair in the store that keyd may use, those that something else made among them.

        Raises:
            BackendUnavailableError: the store cannot tell. It never passes for an empty one.
        """
        ...

    def find(self, name: str, version: int) -> str | None:
        """Return the handle of what was made for this version, by this keyd or another; None if there is nothing.

        It is what :meth:`list` would show, at the cost of one look. keyd asks before it makes a version, and to undo one.

        Raises:
            BackendUnavailableError: the store cannot tell.
        """
        ...

    def public_key(self, handle: str) -> PublicKey:
        """Return the public key, read from the store.

        Raises:
            KeyNotFoundError: there is nothing under this handle.
        """
        ...

    def sign(self, handle: str, algorithm: Algorithm, message: bytes) -> bytes:
        """Sign a whole message; the backend hashes where the algorithm hashes.

        Returns raw octets as RFC 9421 section 3.3 defines them: Ed25519 64; ECDSA r and s at fixed length; RSA as is, PSS with
        a salt as long as the hash.

        Raises:
            KeyNotFoundError: there is nothing under this handle.
            UnsupportedAlgorithmError: the material is not for this algorithm.
            MessageSizeError: longer than the declared limit, or shorter than the declared least.
        """
        ...

    def destroy(self, handle: str) -> None:
        """Destroy the private key, or have the store promise to. Destroying what is gone already succeeds.

        Raises:
            DestructionPendingError: only with ``ordered_destruction``, while an older version of the key is there.
        """
        ...

    def close(self) -> None:
        """Release everything. No method is called afterwards."""
        ...


@runtime_checkable
class Importer(Protocol):
    """A backend that takes private keys from elsewhere."""

    def import_key(self, name: str, version: int, algorithm: Algorithm, key: PrivateKey) -> str:
        """Store this private key for this version and return its handle. Raises as :meth:`Backend.create`."""
        ...


@runtime_checkable
class Exportable(Protocol):
    """A backend whose key pairs can be put into a backup as its store has them: encrypted, under a key that does not go with them.

    Both methods work on the store without opening it, so that neither needs the key under which it is encrypted.
    """

    @classmethod
    def backup(cls, config: Any, context: BackendContext, handles: Collection[str]) -> Mapping[str, bytes]:
        """Return the encrypted key pairs under these handles, by handle, and what else is needed to read them, by other names.

        Names are at most 99 ASCII letters, digits, dots, underlines and hyphens, and begin with a letter or digit. What the
        store does not hold is left out.

        Raises:
            BackendIntegrityError: the store is damaged or too open.
            BackendAccessError: the store refuses the daemon.
        """
        ...

    @classmethod
    def restore(cls, config: Any, context: BackendContext, files: Mapping[str, bytes], *, dry_run: bool = False) -> None:
        """Put back what :meth:`backup` returned, durably. What is there already stays; nothing is replaced.

        With ``dry_run`` it only looks whether that can be done. The files come from outside: nothing is believed.

        Raises:
            BackendIntegrityError: a file is none that :meth:`backup` returns, or the store is too open.
            KeyExistsError: the store holds something else in the place of one.
        """
        ...


@runtime_checkable
class PolicyAuthor(Protocol):
    """A backend whose store has access policies of its own."""

    @classmethod
    def policy(cls, config: Any) -> str:
        """Return the least that keyd must be allowed to do, in the store's own policy language, ready to be installed.

        ``config`` is an instance of :attr:`Backend.Config`, or None for one with defaults only. Contacts nobody.
        """
        ...
