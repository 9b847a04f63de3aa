"""The closed tree of errors that may leave a backend.

A backend wraps what its SDK or the operating system raises into one of these, once, with ``raise ... from``.
Messages are for operators: lower case, no final period, never a secret and never an SDK dump.
"""

from __future__ import annotations


class BackendError(Exception):
    """Root of everything that a backend may raise."""


class KeyNotFoundError(BackendError):
    """The store answers, and holds nothing under this handle."""


class KeyExistsError(BackendError):
    """The store already holds something under this name and version."""


class UnsupportedAlgorithmError(BackendError):
    """The backend does not do this algorithm, or not with this material."""


class MessageSizeError(BackendError):
    """The store signs no message of this size with this algorithm: too large, or empty."""


class BackendAccessError(BackendError):
    """The store refused the daemon: permissions, PIN, token, policy. An operator has to act; a retry alone does not help."""


class BackendUnavailableError(BackendError):
    """The store cannot be reached or is not ready. The only error that is worth a retry."""


class BackendThrottledError(BackendUnavailableError):
    """The store asked for fewer calls."""


class DestructionPendingError(BackendError):
    """The store destroys this key later: it destroys the versions of a key oldest first, and an older one is still there."""


class BackendFullError(BackendError):
    """The store has no room for another key."""


class BackendConfigError(BackendError):
    """The configuration of the backend is wrong; it cannot start."""


class BackendIntegrityError(BackendError):
    """What the store holds is not what was put there, or is kept too openly to be trusted."""


class InvalidKeyMaterialError(BackendError):
    """Material to import is not a private key that keyd takes."""
